"""From lesion probabilities to the follow-up: lesions with identity, place and change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import highdicom as hd
import numpy as np

from operators.geometry import resample_to
from operators.longitudinal_comparator.carried import carried_over
from operators.longitudinal_comparator.evidence import Images
from operators.longitudinal_comparator.history import History, history_of, since_first
from operators.longitudinal_comparator.identity import Identity
from operators.longitudinal_comparator.lesions import find_lesions, label_array
from operators.longitudinal_comparator.notes import comparison_notes
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.regions import Elsewhere, Place, locate
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.size import LeastSize
from operators.longitudinal_comparator.step import Descent, StudyLesions
from operators.longitudinal_comparator.track_identity import identify
from operators.longitudinal_comparator.tracks import TimeLine, follow, images_of
from operators.longitudinal_comparator.volumes import total
from operators.messages import (
    AlignedStudy,
    FollowUp,
    Lesion,
    LesionProbabilities,
    LesionProbability,
    QualityNote,
    TimePoint,
    Totals,
)


def compare(
    probabilities: LesionProbabilities, settings: LongitudinalComparatorSettings
) -> FollowUp:
    """Turn the network's answer at any number of time points into followed lesions.

    Each study is compared with the one before it, and the current one also with the first.

    Parameters
    ----------
    probabilities
        As the segmentation gives them. Without a prior probability, or when the registration of
        the studies was refused, every lesion is ``baseline``.
    settings
        The stage's settings.

    Returns
    -------
    FollowUp
        ``quality`` and ``timing_s`` hold those of the earlier stages too.
    """
    least = LeastSize(settings.minimum_volume_mm3, settings.minimum_extent_mm)
    studies = _comparable_studies(probabilities, settings, least)
    line = follow(studies, settings, least)
    segmentations = probabilities.aligned.selected.prior_segmentations
    identities, identity_notes = identify(line, segmentations)
    present = _present(line, identities, settings)
    gone = _gone(line, identities)
    places = _places(line, settings)
    lesions = tuple(
        _with_place(lesion, place) for lesion, place in zip([*present, *gone], places, strict=True)
    )
    volume = probabilities.current.probability
    aligned = probabilities.aligned
    points = _time_points(line)
    notes = [*identity_notes, *comparison_notes(line)]
    return FollowUp(
        probabilities=probabilities,
        lesions=lesions,
        totals=_totals(lesions, points),
        labels=volume.with_array(
            label_array(tuple(line.studies[-1].objects), volume.spatial_shape)
        ),
        prior_labels=_prior_labels(line) if len(line.studies) > 1 else None,
        time_points=points,
        change_ratio=settings.change_ratio,
        quality=_all_quality(probabilities, notes),
        timing_s={
            **aligned.selected.timing_s,
            **aligned.timing_s,
            **probabilities.timing_s,
        },
    )


def _comparable_studies(
    probabilities: LesionProbabilities,
    settings: LongitudinalComparatorSettings,
    least: LeastSize,
) -> list[StudyLesions]:
    """The studies that can be compared, oldest first; the current one alone without a prior."""
    aligned = probabilities.aligned
    found: list[tuple[AlignedStudy, LesionProbability, np.ndarray]] = [
        (aligned.current, probabilities.current, np.eye(4))
    ]
    prior, registration = probabilities.prior, aligned.prior_to_current
    if aligned.prior and prior and registration and registration.accepted:
        found.append((aligned.prior, prior, registration.matrix_lps))
        for earlier, part in zip(aligned.earlier, probabilities.earlier, strict=False):
            if part is not None and earlier.to_current.accepted:
                found.append((earlier.aligned, part, earlier.to_current.matrix_lps))
    studies = []
    for n, (study, part, matrix) in reversed(list(enumerate(found))):
        objects = list(find_lesions(part.probability, part.threshold, least))
        if n > 0:
            results = list(study.selected.lesion_objects)
            if n == 1:
                results += aligned.selected.prior_segmentations
            frame = study.selected.series["flair"].series.frame_of_reference_uid
            objects += carried_over(objects, part.probability, results, frame)
        studies.append(StudyLesions(study, part, np.asarray(matrix, dtype=float), objects))
    return studies


def _present(
    line: TimeLine, identities: Sequence[Identity], settings: LongitudinalComparatorSettings
) -> list[Lesion]:
    """The lesions of the current study, in order, without their places."""
    current = len(line.studies) - 1
    first_images = _first_images(line)
    lesions = []
    for position in range(len(line.studies[current].objects)):
        history = history_of(line, current, position)
        lesion = _lesion(line, current, position, identities, history)
        if line.steps:
            lesion = _with_change(lesion, line.steps[-1].descents[position], history)
        if len(line.studies) > 2:
            change = since_first(line, position, history, first_images, settings)
            lesion = replace(lesion, change_since_first=change)
        lesions.append(lesion)
    return lesions


def _with_change(lesion: Lesion, descent: Descent, history: History) -> Lesion:
    """What the comparison with the prior says; the two intervals are widened where it asks."""
    now, before = history.volumes[-1], descent.before
    return replace(
        lesion,
        volume_interval_ml=None if now is None else now.widened(descent.widening).interval_ml,
        prior_volume_ml=None if before is None else before.ml,
        prior_volume_interval_ml=None
        if before is None
        else before.widened(descent.widening).interval_ml,
        change=descent.verdict.change,
        change_confidence=descent.verdict.confidence,
    )


def _gone(line: TimeLine, identities: Sequence[Identity]) -> list[Lesion]:
    """The lesions of the prior study that are resolved, in order, without their places."""
    if not line.steps:
        return []
    prior = len(line.studies) - 2
    lesions = []
    for position, confidence in line.steps[-1].gone.items():
        history = history_of(line, prior, position)
        first, before = history.volumes[0], history.volumes[prior]
        existed = prior > 0 and first is not None and first.ml > 0
        lesion = replace(
            _lesion(line, prior, position, identities, history),
            segment_number=None,
            volume_ml=0.0,
            volume_interval_ml=(0.0, 0.0),
            prior_volume_ml=None if before is None else before.ml,
            prior_volume_interval_ml=None if before is None else before.interval_ml,
            change="resolved",
            change_confidence=confidence,
            change_since_first="resolved" if existed else None,
        )
        lesions.append(lesion)
    return lesions


def _lesion(
    line: TimeLine,
    study: int,
    position: int,
    identities: Sequence[Identity],
    history: History,
) -> Lesion:
    """A lesion of one study without its change and its place."""
    here = line.studies[study]
    lesion = here.objects[position]
    track = line.track_of[study][position]
    x, y, z = transform_points(np.linalg.inv(here.matrix), lesion.centroid[None])[0].tolist()
    volume = history.volumes[study]
    return Lesion(
        tracking_uid=identities[track].tracking_uid,
        tracking_id=identities[track].tracking_id,
        segment_number=position + 1,
        volume_ml=lesion.volume_ml,
        prior_volume_ml=None,
        diameter_mm=lesion.diameter_mm,
        centroid_lps_mm=(x, y, z),
        region="unspecified",
        change="baseline",
        confidence=min(1.0, max(0.0, lesion.confidence)),
        volume_interval_ml=None if volume is None else volume.interval_ml,
        lineage=tuple(identities[n].tracking_uid for n in _ancestors(line, track)),
        volumes_ml=tuple(None if one is None else one.ml for one in history.volumes),
        found_by=here.found_by(position),
    )


def _ancestors(line: TimeLine, track: int) -> list[int]:
    """The tracks that a track came from, those first seen earliest first."""
    found: set[int] = set()
    waiting = [track]
    while waiting:
        for parent in line.tracks[waiting.pop()].parents:
            if parent not in found and parent != track:
                found.add(parent)
                waiting.append(parent)
    return sorted(found)


def _first_images(line: TimeLine) -> Images | None:
    """The first and the current study, where the first is not the prior."""
    if len(line.studies) <= 2:
        return None
    return images_of(line.studies[-1], line.studies[0])


def _places(line: TimeLine, settings: LongitudinalComparatorSettings) -> Sequence[Place]:
    """The place of every lesion: the present ones, then the resolved ones."""
    current = line.studies[-1]
    elsewhere = None
    if line.steps and line.steps[-1].gone:
        prior = line.studies[-2]
        matrix = prior.matrix @ np.linalg.inv(current.matrix)
        gone = [prior.objects[p] for p in line.steps[-1].gone]
        elsewhere = Elsewhere(gone, prior.study, matrix)
    return locate(current.objects, current.study, settings, elsewhere)


def _with_place(lesion: Lesion, place: Place) -> Lesion:
    return replace(
        lesion,
        region=place.region,
        distance_to_ventricle_mm=place.distance_to_ventricle_mm,
        distance_to_cortex_mm=place.distance_to_cortex_mm,
    )


def _prior_labels(line: TimeLine) -> hd.Volume:
    """The prior's lesions on the current grid, by the lesion that each voxel became."""
    prior, current = line.studies[-2], line.studies[-1]
    step = line.steps[-1]
    labels = np.zeros(prior.probability.spatial_shape, dtype=np.uint16)
    gone = {p: n for n, p in enumerate(step.gone, start=len(current.objects))}
    for p, (lesion, owner) in enumerate(zip(prior.objects, step.owner, strict=True)):
        values = owner + 1
        if p in gone:
            values = np.full(len(owner), gone[p] + 1)
        labels[tuple(lesion.indices.T)] = values
    matrix = prior.matrix @ np.linalg.inv(current.matrix)
    return resample_to(
        prior.probability.with_array(labels), current.probability, matrix, nearest=True
    )


def _time_points(line: TimeLine) -> tuple[TimePoint, ...]:
    points = []
    for study in line.studies:
        volume = total(study.measured(n) for n in range(len(study.objects)))
        points.append(
            TimePoint(
                study_uid=study.study.selected.study.study_uid,
                interval_days=study.study.selected.interval_days,
                lesion_count=len(study.objects),
                lesion_volume_ml=volume.ml,
                lesion_volume_interval_ml=volume.interval_ml,
            )
        )
    return tuple(points)


def _totals(lesions: tuple[Lesion, ...], points: tuple[TimePoint, ...]) -> Totals:
    changes = [lesion.change for lesion in lesions]
    now = points[-1]
    before = points[-2] if len(points) > 1 else None
    return Totals(
        lesion_count=now.lesion_count,
        lesion_volume_ml=now.lesion_volume_ml,
        lesion_volume_interval_ml=now.lesion_volume_interval_ml,
        prior_lesion_volume_ml=None if before is None else before.lesion_volume_ml,
        prior_lesion_volume_interval_ml=None
        if before is None
        else before.lesion_volume_interval_ml,
        new_count=changes.count("new"),
        enlarging_count=changes.count("enlarging"),
        shrinking_count=changes.count("shrinking"),
        resolved_count=changes.count("resolved"),
    )


def _all_quality(
    probabilities: LesionProbabilities, own: Sequence[QualityNote]
) -> tuple[QualityNote, ...]:
    """The notes of every stage, in order, each once."""
    aligned = probabilities.aligned
    notes = [*aligned.selected.quality, *aligned.quality, *probabilities.quality, *own]
    return tuple(dict.fromkeys(notes))

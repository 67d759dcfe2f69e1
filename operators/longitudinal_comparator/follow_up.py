"""From lesion probabilities to the follow-up: lesions with identity, place and change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np

from operators.geometry import resample_to
from operators.longitudinal_comparator.identity import (
    Identity,
    derive_uid,
    identities_from,
    name,
    newest_tracked_segmentation,
    next_number,
)
from operators.longitudinal_comparator.lesions import (
    LesionObject,
    find_lesions,
    in_order,
    label_array,
)
from operators.longitudinal_comparator.matching import (
    Match,
    Matching,
    faint_counterpart,
    match,
    transform_points,
)
from operators.longitudinal_comparator.regions import load_atlas, region_of
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import (
    AlignedStudies,
    FollowUp,
    Lesion,
    LesionProbabilities,
    LesionProbability,
    QualityNote,
    Region,
    Totals,
)


def compare(
    probabilities: LesionProbabilities, settings: LongitudinalComparatorSettings
) -> FollowUp:
    """Turn the network's answer at one or two time points into followed lesions.

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
    aligned = probabilities.aligned
    matrix = aligned.prior_to_current.matrix_lps if aligned.prior_to_current else None
    notes: list[QualityNote] = []
    if probabilities.prior is None or matrix is None or not aligned.comparable:
        current = _find(probabilities.current, settings)
        prior: tuple[LesionObject, ...] = ()
        matching = Matching(tuple(Match(c, None, "baseline", 0.0) for c in range(len(current))), ())
        identities = _first_identities(_flair_uid(aligned, prior=False), current)
        before = None
    else:
        before = probabilities.prior
        found = _find_in_both(probabilities.current, before, matrix, settings)
        current, prior = found.current, found.prior
        matching = match(
            current,
            prior,
            probabilities.current.probability.affine,
            before.probability.affine,
            matrix,
            settings,
        )
        matching = _without_opposite_change(matching, found)
        identities, identity_notes = _follow_identities(aligned, found, matching)
        notes.extend(identity_notes)
        faint = len(found.faint_current) + len(found.faint_prior)
        if faint:
            notes.append(
                QualityNote(
                    "faint_lesions",
                    "info",
                    f"{faint} lesion(s) were certain in one study and faint in the other; "
                    "they were outlined there with a lower threshold, and are not called new or "
                    "resolved.",
                )
            )

    lesions = tuple(
        _lesion(one, identity, aligned, current, prior, settings, baseline=before is None)
        for one, identity in zip(matching.matches, identities, strict=True)
    )
    volume = probabilities.current.probability
    return FollowUp(
        probabilities=probabilities,
        lesions=lesions,
        totals=_totals(lesions, baseline=before is None),
        labels=volume.with_array(label_array(current, volume.spatial_shape)),
        prior_labels=None
        if before is None or matrix is None
        else _prior_labels(before.probability, prior, matching, volume, matrix),
        quality=_all_quality(probabilities, notes),
        timing_s={
            **aligned.selected.timing_s,
            **aligned.timing_s,
            **probabilities.timing_s,
        },
    )


def _find(
    part: LesionProbability, settings: LongitudinalComparatorSettings
) -> tuple[LesionObject, ...]:
    return find_lesions(
        part.probability, part.threshold, settings.minimum_voxels, settings.minimum_extent_mm
    )


@dataclass(frozen=True)
class _Found:
    """The lesions of both studies; faint ones were outlined with the lower threshold."""

    current: tuple[LesionObject, ...]
    prior: tuple[LesionObject, ...]
    """The certain ones first: they keep the order, and so the names, of a run on the prior."""
    faint_current: frozenset[int]
    faint_prior: frozenset[int]


def _find_in_both(
    now: LesionProbability,
    before: LesionProbability,
    matrix: np.ndarray,
    settings: LongitudinalComparatorSettings,
) -> _Found:
    current, prior = _find(now, settings), _find(before, settings)
    now_affine, before_affine = now.probability.affine, before.probability.affine
    plain = match(current, prior, now_affine, before_affine, matrix, settings)
    current_taken = label_array(current, now.probability.spatial_shape) > 0
    prior_taken = label_array(prior, before.probability.spatial_shape) > 0
    faint_current, faint_prior = [], []
    for one in plain.matches if settings.faint_threshold < 1 else ():
        if one.change == "new" and one.current is not None:
            found = faint_counterpart(
                current[one.current],
                now_affine,
                before.probability,
                prior_taken,
                matrix,
                settings.faint_threshold * before.threshold,
                settings,
            )
            if found is not None:
                prior_taken[tuple(found.indices.T)] = True
                faint_prior.append(found)
        elif one.change == "resolved" and one.heir_of is not None:
            found = faint_counterpart(
                prior[one.heir_of],
                before_affine,
                now.probability,
                current_taken,
                np.linalg.inv(matrix),
                settings.faint_threshold * now.threshold,
                settings,
            )
            if found is not None:
                current_taken[tuple(found.indices.T)] = True
                faint_current.append(found)
    all_current = in_order([*current, *faint_current])
    return _Found(
        current=all_current,
        prior=(*prior, *in_order(faint_prior)),
        faint_current=frozenset(
            c for c, lesion in enumerate(all_current) if any(lesion is f for f in faint_current)
        ),
        faint_prior=frozenset(range(len(prior), len(prior) + len(faint_prior))),
    )


def _without_opposite_change(matching: Matching, found: _Found) -> Matching:
    """A lesion that became certain is not called shrinking, nor one that became faint enlarging."""
    matches = tuple(
        replace(one, change="stable")
        if (one.change == "shrinking" and one.heir_of in found.faint_prior)
        or (one.change == "enlarging" and one.current in found.faint_current)
        else one
        for one in matching.matches
    )
    return replace(matching, matches=matches)


def _flair_uid(aligned: AlignedStudies, *, prior: bool) -> str:
    study = aligned.prior if prior else aligned.current
    if study is None:
        raise ValueError("there is no prior study")
    return study.selected.series["flair"].series.series_uid


def _first_identities(
    flair_series_uid: str, lesions: Sequence[LesionObject], first: int = 1
) -> list[Identity]:
    return [
        Identity(derive_uid(flair_series_uid, lesion), name(number))
        for number, lesion in enumerate(lesions, start=first)
    ]


def _follow_identities(
    aligned: AlignedStudies, found: _Found, matching: Matching
) -> tuple[list[Identity], tuple[QualityNote, ...]]:
    """The identity of each match, in order: carried on where there is one, new otherwise."""
    if aligned.prior is None:
        raise AssertionError("there is no prior study")
    frame = aligned.prior.selected.series["flair"].series.frame_of_reference_uid
    tracked, notes = newest_tracked_segmentation(aligned.selected.prior_segmentations, frame)
    prior_flair, current_flair = _flair_uid(aligned, prior=True), _flair_uid(aligned, prior=False)
    known: list[Identity | None] = [None] * len(found.prior)
    taken: list[Identity] = []
    if tracked is not None:
        known = identities_from(tracked, found.prior)
        taken = list(tracked.identities)
    number = next_number(taken)
    for p, lesion in enumerate(found.prior):
        # a faint lesion is first seen with certainty, and named, in the current study
        if known[p] is None and p not in found.faint_prior:
            known[p] = Identity(derive_uid(prior_flair, lesion), name(number))
            number += 1
    identities = []
    for one in matching.matches:
        identity = None if one.heir_of is None else known[one.heir_of]
        if identity is None:
            if one.current is None:
                raise AssertionError("a resolved lesion was certain and has an identity")
            first_seen = found.current[one.current]
            identity = Identity(derive_uid(current_flair, first_seen), name(number))
            number += 1
        identities.append(identity)
    return identities, notes


def _lesion(
    one: Match,
    identity: Identity,
    aligned: AlignedStudies,
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    settings: LongitudinalComparatorSettings,
    *,
    baseline: bool,
) -> Lesion:
    if one.current is not None:
        lesion = current[one.current]
        centroid = lesion.centroid
        region = _region(lesion, aligned.current.template_to_flair, settings)
    else:
        if one.heir_of is None or aligned.prior is None or aligned.prior_to_current is None:
            raise AssertionError("a lesion is in one study at least")
        lesion = prior[one.heir_of]
        back = np.linalg.inv(aligned.prior_to_current.matrix_lps)
        centroid = transform_points(back, lesion.centroid[None])[0]
        region = _region(lesion, aligned.prior.template_to_flair, settings)
    x, y, z = (float(c) for c in centroid)
    return Lesion(
        tracking_uid=identity.tracking_uid,
        tracking_id=identity.tracking_id,
        segment_number=None if one.current is None else one.current + 1,
        volume_ml=0.0 if one.current is None else lesion.volume_ml,
        prior_volume_ml=None if baseline else one.prior_volume_ml,
        diameter_mm=lesion.diameter_mm,
        centroid_lps_mm=(x, y, z),
        region=region,
        change=one.change,
        confidence=min(1.0, max(0.0, lesion.confidence)),
    )


def _region(
    lesion: LesionObject, template_to_flair: np.ndarray, settings: LongitudinalComparatorSettings
) -> Region:
    points = transform_points(np.asarray(template_to_flair, dtype=float), lesion.points)
    return region_of(points, load_atlas(), settings)


def _prior_labels(
    before: hd.Volume,
    prior: tuple[LesionObject, ...],
    matching: Matching,
    now: hd.Volume,
    matrix: np.ndarray,
) -> hd.Volume:
    labels = np.zeros(before.spatial_shape, dtype=np.uint16)
    for lesion, owners in zip(prior, matching.successor, strict=True):
        labels[tuple(lesion.indices.T)] = owners + 1
    return resample_to(before.with_array(labels), now, matrix, nearest=True)


def _totals(lesions: tuple[Lesion, ...], *, baseline: bool) -> Totals:
    changes = [lesion.change for lesion in lesions]
    return Totals(
        lesion_count=sum(lesion.segment_number is not None for lesion in lesions),
        lesion_volume_ml=sum(lesion.volume_ml for lesion in lesions),
        prior_lesion_volume_ml=None
        if baseline
        else sum(lesion.prior_volume_ml or 0.0 for lesion in lesions),
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

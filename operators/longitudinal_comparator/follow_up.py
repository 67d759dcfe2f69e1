"""From lesion probabilities to the follow-up: lesions with identity, place and change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import highdicom as hd
import numpy as np

from operators.geometry import resample_to
from operators.longitudinal_comparator.evidence import View, signal_ratio, visible
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
)
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.regions import Elsewhere, Place, locate
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    FollowUp,
    InstanceRef,
    Lesion,
    LesionProbabilities,
    LesionProbability,
    QualityNote,
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
    notes: list[QualityNote] = []
    prior_labels: hd.Volume | None = None
    pair = _comparable_pair(probabilities)
    if pair is None:
        current = _find(probabilities.current, settings)
        prior: tuple[LesionObject, ...] = ()
        matching = Matching(tuple(Match(c, None, "baseline", 0.0) for c in range(len(current))), ())
        identities = _first_identities(_flair_uid(aligned.current), current)
    else:
        found = _find_in_both(pair, settings)
        current, prior = found.current, found.prior
        matching = match(current, prior, pair.now.affine, pair.before.affine, pair.matrix, settings)
        matching, excluded = _without_the_unseen(_without_opposite_change(matching, found), found)
        prior_labels = _prior_labels(pair, prior, matching)
        matching = _with_signal(pair, matching, current, prior_labels, settings)
        identities, identity_notes = _follow_identities(pair, found, matching)
        notes.extend(identity_notes)
        faint = len(found.faint_current) + len(found.faint_prior)
        if faint:
            notes.append(
                QualityNote(
                    "faint_lesions",
                    "info",
                    f"{faint} lesion(s) were found in one study only but can be seen in the other; "
                    "they were outlined there as well, and are not called new or resolved.",
                )
            )
        if excluded:
            notes.append(
                QualityNote(
                    "lesions_not_compared",
                    "warning",
                    f"{excluded} lesion(s) lie outside the brain or the images of the other study "
                    "and were not compared.",
                )
            )

    places = _places(matching, aligned, current, prior, settings)
    lesions = tuple(
        _lesion(one, identity, place, aligned, current, prior, baseline=pair is None)
        for one, identity, place in zip(matching.matches, identities, places, strict=True)
    )
    volume = probabilities.current.probability
    return FollowUp(
        probabilities=probabilities,
        lesions=lesions,
        totals=_totals(lesions, baseline=pair is None),
        labels=volume.with_array(label_array(current, volume.spatial_shape)),
        prior_labels=prior_labels,
        quality=_all_quality(probabilities, notes),
        timing_s={
            **aligned.selected.timing_s,
            **aligned.timing_s,
            **probabilities.timing_s,
        },
    )


@dataclass(frozen=True)
class _Pair:
    """Two time points that can be compared."""

    current_study: AlignedStudy
    prior_study: AlignedStudy
    current: LesionProbability
    prior: LesionProbability
    matrix: np.ndarray
    """Current points to prior points."""
    prior_segmentations: tuple[InstanceRef, ...]

    @property
    def now(self) -> hd.Volume:
        """Probability in the current study."""
        return self.current.probability

    @property
    def before(self) -> hd.Volume:
        """Probability in the prior study."""
        return self.prior.probability


def _comparable_pair(probabilities: LesionProbabilities) -> _Pair | None:
    aligned, prior = probabilities.aligned, probabilities.prior
    registration = aligned.prior_to_current
    if prior is None or aligned.prior is None or registration is None or not registration.accepted:
        return None
    return _Pair(
        current_study=aligned.current,
        prior_study=aligned.prior,
        current=probabilities.current,
        prior=prior,
        matrix=np.asarray(registration.matrix_lps, dtype=float),
        prior_segmentations=aligned.selected.prior_segmentations,
    )


def _find(
    part: LesionProbability, settings: LongitudinalComparatorSettings
) -> tuple[LesionObject, ...]:
    return find_lesions(
        part.probability, part.threshold, settings.minimum_voxels, settings.minimum_extent_mm
    )


@dataclass(frozen=True)
class _Found:
    """The lesions of both studies; a faint one was found in the other study only."""

    current: tuple[LesionObject, ...]
    prior: tuple[LesionObject, ...]
    """The certain ones first: they keep the order, and so the names, of a run on the prior."""
    faint_current: frozenset[int]
    faint_prior: frozenset[int]
    unseen_current: frozenset[int]
    """Lesions of the current study that lie outside the prior's brain or images."""
    unseen_prior: frozenset[int]


def _find_in_both(pair: _Pair, settings: LongitudinalComparatorSettings) -> _Found:
    current, prior = _find(pair.current, settings), _find(pair.prior, settings)
    plain = match(current, prior, pair.now.affine, pair.before.affine, pair.matrix, settings)
    back = np.linalg.inv(pair.matrix)
    current_taken = label_array(current, pair.now.spatial_shape) > 0
    prior_taken = label_array(prior, pair.before.spatial_shape) > 0
    now_view = View.of(pair.current_study, current_taken.copy())
    before_view = View.of(pair.prior_study, prior_taken.copy())

    def seen_before(lesion: LesionObject) -> LesionObject | None:
        there = visible(lesion, now_view, before_view, pair.matrix, settings.visible_contrast)
        limit = 0.0 if there else settings.faint_threshold * pair.prior.threshold
        return faint_counterpart(
            lesion, pair.now.affine, pair.before, prior_taken, pair.matrix, limit, settings
        )

    def seen_now(lesion: LesionObject) -> LesionObject | None:
        there = visible(lesion, before_view, now_view, back, settings.visible_contrast)
        limit = 0.0 if there else settings.faint_threshold * pair.current.threshold
        return faint_counterpart(
            lesion, pair.before.affine, pair.now, current_taken, back, limit, settings
        )

    faint_current: list[LesionObject] = []
    faint_prior: list[LesionObject] = []
    unseen: list[LesionObject] = []
    for one in plain.matches:
        if one.change == "new" and one.current is not None:
            lesion = current[one.current]
            found = seen_before(lesion)
            if found is not None:
                prior_taken[tuple(found.indices.T)] = True
                faint_prior.append(found)
            elif before_view.share_inside(transform_points(pair.matrix, lesion.points)) < 0.5:
                unseen.append(lesion)
        elif one.change == "resolved" and one.heir_of is not None:
            lesion = prior[one.heir_of]
            found = seen_now(lesion)
            if found is not None:
                current_taken[tuple(found.indices.T)] = True
                faint_current.append(found)
            elif now_view.share_inside(transform_points(back, lesion.points)) < 0.5:
                unseen.append(lesion)
    all_current = in_order([*current, *faint_current])
    return _Found(
        current=all_current,
        prior=(*prior, *in_order(faint_prior)),
        faint_current=_positions(faint_current, all_current),
        faint_prior=frozenset(range(len(prior), len(prior) + len(faint_prior))),
        unseen_current=_positions(unseen, all_current),
        unseen_prior=_positions(unseen, prior),
    )


def _positions(some: list[LesionObject], among: tuple[LesionObject, ...]) -> frozenset[int]:
    wanted = {id(lesion) for lesion in some}
    return frozenset(n for n, lesion in enumerate(among) if id(lesion) in wanted)


def _with_signal(
    pair: _Pair,
    matching: Matching,
    current: tuple[LesionObject, ...],
    prior_labels: hd.Volume,
    settings: LongitudinalComparatorSettings,
) -> Matching:
    """A lesion whose outline has changed, but not its signal in the images, is stable."""
    before = prior_labels.array
    now = label_array(current, pair.now.spatial_shape)
    lesions = (now > 0) | (before > 0)
    now_view = View.of(pair.current_study, lesions)
    before_view = View.of(pair.prior_study, np.zeros(pair.before.spatial_shape, dtype=bool))
    limit = 1 + settings.minimum_signal_change
    matches = []
    for position, one in enumerate(matching.matches):
        if one.change in ("enlarging", "shrinking") and one.current is not None:
            inside = (now == one.current + 1) | (before == position + 1)
            ratio = signal_ratio(inside, lesions, now_view, before_view, pair.matrix)
            grown = ratio is None or ratio >= limit
            shrunk = ratio is None or ratio <= 1 / limit
            if not (grown if one.change == "enlarging" else shrunk):
                one = replace(one, change="stable")
        matches.append(one)
    return replace(matching, matches=tuple(matches))


def _without_the_unseen(matching: Matching, found: _Found) -> tuple[Matching, int]:
    """What the other study does not show is not compared: a lesion of the current study is then
    a baseline, one of the prior study is left out. The number of both comes second."""
    kept: list[Match] = []
    positions: list[int] = []
    excluded = 0
    for one in matching.matches:
        if one.change == "resolved" and one.heir_of in found.unseen_prior:
            positions.append(-1)
            excluded += 1
            continue
        if one.change == "new" and one.current in found.unseen_current:
            one = replace(one, change="baseline")
            excluded += 1
        positions.append(len(kept))
        kept.append(one)
    new_position = np.asarray([*positions, -1], dtype=np.intp)
    successor = tuple(new_position[owners] for owners in matching.successor)
    return Matching(tuple(kept), successor), excluded


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


def _flair_uid(study: AlignedStudy) -> str:
    return study.selected.series["flair"].series.series_uid


def _first_identities(
    flair_series_uid: str, lesions: Sequence[LesionObject], first: int = 1
) -> list[Identity]:
    return [
        Identity(derive_uid(flair_series_uid, lesion), name(number))
        for number, lesion in enumerate(lesions, start=first)
    ]


def _follow_identities(
    pair: _Pair, found: _Found, matching: Matching
) -> tuple[list[Identity], tuple[QualityNote, ...]]:
    """The identity of each match, in order: carried on where there is one, new otherwise."""
    frame = pair.prior_study.selected.series["flair"].series.frame_of_reference_uid
    tracked, notes = newest_tracked_segmentation(pair.prior_segmentations, frame)
    prior_flair, current_flair = _flair_uid(pair.prior_study), _flair_uid(pair.current_study)
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
    place: Place,
    aligned: AlignedStudies,
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    *,
    baseline: bool,
) -> Lesion:
    if one.current is not None:
        lesion = current[one.current]
        centroid = lesion.centroid
    else:
        if one.heir_of is None or aligned.prior is None or aligned.prior_to_current is None:
            raise AssertionError("a lesion is in one study at least")
        lesion = prior[one.heir_of]
        back = np.linalg.inv(aligned.prior_to_current.matrix_lps)
        centroid = transform_points(back, lesion.centroid[None])[0]
    x, y, z = (float(c) for c in centroid)
    return Lesion(
        tracking_uid=identity.tracking_uid,
        tracking_id=identity.tracking_id,
        segment_number=None if one.current is None else one.current + 1,
        volume_ml=0.0 if one.current is None else lesion.volume_ml,
        prior_volume_ml=None if baseline or one.change == "baseline" else one.prior_volume_ml,
        diameter_mm=lesion.diameter_mm,
        centroid_lps_mm=(x, y, z),
        region=place.region,
        change=one.change,
        confidence=min(1.0, max(0.0, lesion.confidence)),
        distance_to_ventricle_mm=place.distance_to_ventricle_mm,
        distance_to_cortex_mm=place.distance_to_cortex_mm,
    )


def _places(
    matching: Matching,
    aligned: AlignedStudies,
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    settings: LongitudinalComparatorSettings,
) -> list[Place]:
    """The place of each match's lesion in the current study, for a resolved one where it was."""
    gone = [one.heir_of for one in matching.matches if one.current is None]
    known = [position for position in gone if position is not None]
    elsewhere = None
    if known and aligned.prior is not None and aligned.prior_to_current is not None:
        elsewhere = Elsewhere(
            [prior[position] for position in known],
            aligned.prior,
            aligned.prior_to_current.matrix_lps,
        )
    found = locate(current, aligned.current, settings, elsewhere)
    now = found[: len(current)]
    before = dict(zip(known, found[len(current) :], strict=True)) if elsewhere else {}
    places = []
    for one in matching.matches:
        if one.current is not None:
            places.append(now[one.current])
        elif one.heir_of is not None and one.heir_of in before:
            places.append(before[one.heir_of])
        else:
            raise AssertionError("a lesion is in one study at least")
    return places


def _prior_labels(pair: _Pair, prior: tuple[LesionObject, ...], matching: Matching) -> hd.Volume:
    labels = np.zeros(pair.before.spatial_shape, dtype=np.uint16)
    for lesion, owners in zip(prior, matching.successor, strict=True):
        labels[tuple(lesion.indices.T)] = owners + 1
    return resample_to(pair.before.with_array(labels), pair.now, pair.matrix, nearest=True)


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

"""The identity of a lesion over time: a tracking UID and a name, the same in every study.

Where the input holds segmentation objects or structured reports that this application wrote of any
of its studies, the current one included, a lesion keeps what the one that was written first calls
it. The identity does not then depend on how often, or in which order, the studies are processed.

Otherwise the UID is derived from where the lesion was first seen: the series instance UID of that
study's FLAIR, and which cube of 8 mm of the scanner's space holds the lesion's centre; lesions with
their centres in one cube are told apart by their order of size. A run on that study alone gives the
same UID. Coarse cubes rather than voxels make it survive small differences of the outline, between
arithmetics, engines or models: only a centre that moves over a face of its cube changes it. Cubes
cannot exclude that; an earlier object in the input can.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.uid import generate_uid

from operators.longitudinal_comparator.earlier_objects import Identity as Identity
from operators.longitudinal_comparator.earlier_objects import (
    Known,
    TrackedSegmentation,
    read_known,
)
from operators.longitudinal_comparator.lesions import LesionObject
from operators.messages import InstanceRef, QualityNote

logger = logging.getLogger(__name__)

_CUBE_MM = 8.0


@dataclass(frozen=True)
class NamedStudy:
    """One study as far as identities go.

    Attributes
    ----------
    flair_series_uid, frame_of_reference_uid
        Of its FLAIR.
    lesions
        All its lesions, in its own frame of reference.
    certain
        Positions in ``lesions`` of those that this study shows by itself.
    objects
        Result objects of this application in the study.
    """

    flair_series_uid: str
    frame_of_reference_uid: str | None
    lesions: Sequence[LesionObject]
    certain: Collection[int]
    objects: Sequence[InstanceRef] = ()


@dataclass(frozen=True)
class NamedTrack:
    """One lesion through the studies.

    Attributes
    ----------
    positions
        Per study its position in ``NamedStudy.lesions``, None where it is not there.
    first
        The first study that shows it by itself.
    """

    positions: Sequence[int | None]
    first: int


def identify_tracks(
    studies: Sequence[NamedStudy], tracks: Sequence[NamedTrack]
) -> tuple[list[Identity], tuple[QualityNote, ...]]:
    """One identity for each lesion, in order.

    Parameters
    ----------
    studies
        Oldest first.
    tracks
        Every lesion, by the first study and by that study's order of lesions: those that no object
        names get their numbers in this order.

    Returns
    -------
    list of Identity
        UIDs and numbers are each given once.
    tuple of QualityNote
        A warning for each object that cannot be used, and a remark where earlier results call one
        lesion by two names.
    """
    found, notes = _read(studies)
    owner: list[dict[int, int]] = [
        {
            position: n
            for n, track in enumerate(tracks)
            if (position := track.positions[k]) is not None
        }
        for k in range(len(studies))
    ]
    known: list[Identity | None] = [None] * len(tracks)
    given: set[str] = set()
    renamed: set[int] = set()
    for k, one in found:
        for position, identity in enumerate(one.named(studies[k].lesions)):
            track = owner[k].get(position)
            if identity is None or track is None:
                continue
            before = known[track]
            if before is not None:
                if before.tracking_uid != identity.tracking_uid:
                    renamed.add(track)
            elif identity.tracking_uid not in given:
                known[track] = identity
                given.add(identity.tracking_uid)
    if renamed:
        notes.append(
            QualityNote(
                "lesion_renamed",
                "info",
                f"Earlier results call {len(renamed)} lesion(s) by another tracking UID than the "
                "first one, which is kept.",
            )
        )
    written = {one.tracking_uid: one for _, known_ in reversed(found) for one in known_.identities}
    derived = _derive(studies, tracks)
    for n, uid in enumerate(derived):
        if known[n] is None:
            uid = uid if uid not in given else str(generate_uid(entropy_srcs=[uid, "second"]))
            given.add(uid)
            # a lesion that had resolved is in a report, without a place in that study
            known[n] = written.get(uid, Identity(uid, ""))
    return _numbered([one for one in known if one is not None], written.values()), tuple(notes)


def derive_uids(flair_series_uid: str, lesions: Sequence[LesionObject]) -> list[str]:
    """The tracking UIDs of lesions that were first seen in a study.

    Parameters
    ----------
    flair_series_uid
        Series Instance UID of that study's FLAIR.
    lesions
        All lesions that the study shows by itself.
    """
    cubes = [
        tuple(int(n) for n in np.floor(lesion.centroid / _CUBE_MM).astype(int))
        for lesion in lesions
    ]
    order = sorted(
        range(len(lesions)),
        key=lambda n: (-lesions[n].volume_ml, lesions[n].centroid.round(3).tolist()),
    )
    uids = [""] * len(lesions)
    inside: dict[tuple[int, ...], int] = {}
    for n in order:
        rank = inside.get(cubes[n], 0)
        inside[cubes[n]] = rank + 1
        place = ",".join(map(str, (*cubes[n], rank)))
        uids[n] = str(generate_uid(entropy_srcs=[flair_series_uid, place]))
    return uids


def name(number: int) -> str:
    """The tracking ID of the lesion with a number."""
    return f"Lesion {number}"


def next_number(identities: Iterable[Identity | None]) -> int:
    """The first number that none of the given identities, or their count, has used."""
    known = [one for one in identities if one is not None]
    numbers = [one.number for one in known if one.number is not None]
    return max([len(known), *numbers]) + 1


def newest_tracked_segmentation(
    instances: Sequence[InstanceRef], frame_of_reference_uid: str | None
) -> tuple[TrackedSegmentation | None, tuple[QualityNote, ...]]:
    """The first segmentation object that can be used, and a warning for each one before it."""
    notes: list[QualityNote] = []
    for instance in instances:
        one = _read_one(instance, frame_of_reference_uid, notes)
        if isinstance(one, TrackedSegmentation):
            return one, tuple(notes)
    return None, tuple(notes)


def _read(studies: Sequence[NamedStudy]) -> tuple[list[tuple[int, Known]], list[QualityNote]]:
    """The usable objects with their studies, first written first, and what is to be said."""
    notes: list[QualityNote] = []
    found = []
    for k, study in enumerate(studies):
        for instance in study.objects:
            one = _read_one(instance, study.frame_of_reference_uid, notes)
            if one is not None:
                exact = 0 if isinstance(one, TrackedSegmentation) else 1
                found.append(((one.written, exact, instance.sop_instance_uid), k, one))
    found.sort(key=lambda item: item[0])
    return [(k, one) for _, k, one in found], notes


def _read_one(
    instance: InstanceRef, frame_of_reference_uid: str | None, notes: list[QualityNote]
) -> Known | None:
    try:
        return read_known(instance, frame_of_reference_uid)
    except ValueError as error:
        logger.warning("earlier result %s not used: %s", instance.path.name, error)
        notes.append(
            QualityNote(
                "prior_segmentation_not_used",
                "warning",
                f"The earlier result object {instance.sop_instance_uid} was not used: {error}. "
                "Lesion identities were taken from elsewhere.",
            )
        )
        return None


def _derive(studies: Sequence[NamedStudy], tracks: Sequence[NamedTrack]) -> list[str]:
    by_study = []
    for study in studies:
        certain = sorted(study.certain)
        uids = derive_uids(study.flair_series_uid, [study.lesions[n] for n in certain])
        by_study.append(dict(zip(certain, uids, strict=True)))
    derived = []
    for track in tracks:
        position = track.positions[track.first]
        if position is None:
            raise ValueError("a lesion is not in the study in which it was first seen")
        derived.append(by_study[track.first][position])
    return derived


def _numbered(identities: Sequence[Identity], written: Collection[Identity]) -> list[Identity]:
    """The identities with a number each.

    Those without one are numbered on after all that are taken, or, where those that are taken are
    numbered as the tracks are, by the place of their track.
    """
    free = next_number(written)
    taken = {one.number for one in written}
    named = [(n, one) for n, one in enumerate(identities, start=1) if one.tracking_id]
    natural = bool(named or not taken) and all(one.number in (None, n) for n, one in named)
    result = []
    used: set[str] = set()
    for n, one in enumerate(identities, start=1):
        if not one.tracking_id or one.tracking_id in used:
            if natural and n not in taken and name(n) not in used:
                one = Identity(one.tracking_uid, name(n))
            else:
                while name(free) in used:
                    free += 1
                one = Identity(one.tracking_uid, name(free))
        used.add(one.tracking_id)
        result.append(one)
    return result

"""What this application's earlier result objects say about lesions: which one lies where.

A segmentation object gives the voxels of each lesion, a structured report its centre and volume.
Objects that another program wrote or changed, that are damaged or that lie in another frame of
reference than the FLAIR are refused: a wrong identity is worse than a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import pydicom
from pydicom import Dataset

from operators.longitudinal_comparator.lesions import LesionObject
from operators.messages import FOUND_BY_COMPARISON, InstanceRef
from operators.version import NAME

_NAME = re.compile(r"^Lesion (\d+)$")
_MINIMUM_SHARE = 0.1
"""Of a lesion or a segment that must lie in the other one."""
_NEAR_MM = 3.0
"""A reported centre lies in its lesion or this close to one of its voxels …"""
_SIZE_RATIO = 3.0
"""… whose volume differs by at most this factor."""
_CENTRE = ("128138", "DCM")
_TRACKING_ID, _TRACKING_UID = ("112039", "DCM"), ("112040", "DCM")
_VOLUME = ("118565006", "SCT")
_NUMBER_OF_LESIONS = ("246206008", "SCT")
"""Stands in the group of the totals only."""
_MEASUREMENT_GROUP = ("125007", "DCM")
_STRUCTURED_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
"""The start of the SOP Class UIDs of all structured reports."""


@dataclass(frozen=True)
class Identity:
    """What a lesion is called.

    Attributes
    ----------
    tracking_uid
        DICOM UID, the same in every study (DICOM PS3.3 C.8.20.2, Tracking UID).
    tracking_id
        For people, as "Lesion 7".
    """

    tracking_uid: str
    tracking_id: str

    @property
    def number(self) -> int | None:
        """The number in the tracking ID, if it has one."""
        found = _NAME.match(self.tracking_id)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class TrackedSegmentation:
    """A segmentation object: whose voxels are whose.

    Attributes
    ----------
    labels
        Integer volume in its study's frame of reference: 1 + the position in ``identities``.
    identities
        One for each segment.
    written
        Date and time of its content, as DICOM writes them, to put several objects in order.
    compared
        Positions in ``identities`` of lesions that only a comparison of images showed.
    """

    labels: hd.Volume
    identities: tuple[Identity, ...]
    written: str = ""
    compared: frozenset[int] = frozenset()

    @property
    def frame_of_reference_uid(self) -> str | None:
        """Of the study that it belongs to."""
        uid = self.labels.frame_of_reference_uid
        return None if uid is None else str(uid)

    def named(self, lesions: Sequence[LesionObject]) -> list[Identity | None]:
        """The identity of each lesion, None where it has none here."""
        return identities_from(self, lesions)


@dataclass(frozen=True)
class TrackedReport:
    """A structured report: where each lesion's centre lies.

    Attributes
    ----------
    identities
        Every lesion that it names, also those that had resolved.
    centres_mm
        For each of them the centre, LPS millimetres (3,), or None where it states none for the
        study that it belongs to.
    volumes_ml
        For each of them the volume, 0 for a resolved one.
    frame_of_reference_uid
        Of the centres; None without any.
    written
        Date and time of its content.
    """

    identities: tuple[Identity, ...]
    centres_mm: tuple[np.ndarray | None, ...]
    volumes_ml: tuple[float, ...]
    frame_of_reference_uid: str | None
    written: str = ""

    def named(self, lesions: Sequence[LesionObject]) -> list[Identity | None]:
        """The identity of each lesion, None where it has none here."""
        pairs = []
        for which, (centre, volume) in enumerate(
            zip(self.centres_mm, self.volumes_ml, strict=True)
        ):
            if centre is None or volume <= 0:
                continue
            for position, lesion in enumerate(lesions):
                gap = float(np.linalg.norm(lesion.points - centre, axis=1).min())
                ratio = max(lesion.volume_ml / volume, volume / lesion.volume_ml)
                if gap <= _NEAR_MM and ratio <= _SIZE_RATIO:
                    away = round(float(np.linalg.norm(lesion.centroid - centre)), 6)
                    pairs.append((away, position, which))
        return _one_to_one(sorted(pairs), self.identities, len(lesions))


Known = TrackedSegmentation | TrackedReport


def read_known(instance: InstanceRef, frame_of_reference_uid: str | None) -> Known:
    """Read a result object of this application.

    Parameters
    ----------
    instance
        A segmentation object or a structured report.
    frame_of_reference_uid
        Of the study's FLAIR.

    Raises
    ------
    ValueError
        If it is damaged, was not written by this application alone, or cannot be laid over the
        FLAIR. The message carries no patient data.
    """
    if instance.sop_class_uid.startswith(_STRUCTURED_REPORTS):
        known: Known = read_tracked_report(instance)
        located = known.frame_of_reference_uid is not None
    else:
        known = read_tracked_segmentation(instance)
        located = True
    if located and known.frame_of_reference_uid != frame_of_reference_uid:
        raise ValueError("it is in another frame of reference than the FLAIR")
    return known


def read_tracked_segmentation(instance: InstanceRef) -> TrackedSegmentation:
    """Read lesions and their identities from a segmentation object.

    Raises
    ------
    ValueError
        If the file is not a readable segmentation object of this application.
    """
    # a damaged file fails in many ways inside the DICOM libraries; all of them mean the same
    # here, and their messages may quote the patient's data
    try:
        segmentation = hd.seg.segread(instance.path)
        numbers = list(segmentation.segment_numbers)
        descriptions = [segmentation.get_segment_description(number) for number in numbers]
        labels = segmentation.get_volume(
            segment_numbers=numbers, combine_segments=True, relabel=True, dtype=np.uint16
        )
        identities = tuple(
            Identity(str(one.tracking_uid or ""), str(one.tracking_id or ""))
            for one in descriptions
        )
        compared = frozenset(
            n
            for n, one in enumerate(segmentation.SegmentSequence)
            if FOUND_BY_COMPARISON in str(one.get("SegmentDescription", ""))
        )
        automatic = all(_is_ours(one) for one in segmentation.SegmentSequence)
    except Exception as error:
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    _check_writer(segmentation)
    if not automatic:
        raise ValueError("a segment was not outlined by this application")
    if len(identities) == 1 and not identities[0].tracking_uid and not labels.array.any():
        # how this application writes that it found no lesion
        return TrackedSegmentation(labels, (), _written(segmentation))
    _check_identities(identities)
    return TrackedSegmentation(labels, identities, _written(segmentation), compared)


def read_tracked_report(instance: InstanceRef) -> TrackedReport:
    """Read lesions and their identities from a structured report.

    Raises
    ------
    ValueError
        If the file is not a readable structured report of this application.
    """
    try:
        report = pydicom.dcmread(instance.path)
        groups = [
            group
            for items in _containers(report.ContentSequence)
            for group in items
            if _concept(group) == _MEASUREMENT_GROUP
        ]
        found = [lesion for group in groups if (lesion := _lesion_of(group)) is not None]
    except Exception as error:
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    _check_writer(report)
    identities = tuple(one.identity for one in found)
    _check_identities(identities)
    frames = {one.frame for one in found if one.frame is not None}
    if len(frames) > 1:
        raise ValueError("its centres lie in several frames of reference")
    return TrackedReport(
        identities=identities,
        centres_mm=tuple(one.centre for one in found),
        volumes_ml=tuple(one.volume_ml for one in found),
        frame_of_reference_uid=frames.pop() if frames else None,
        written=_written(report),
    )


def identities_from(
    tracked: TrackedSegmentation, lesions: Sequence[LesionObject]
) -> list[Identity | None]:
    """Give each lesion the identity of the segment that it overlaps most.

    A segment gives its identity to one lesion only. At least a tenth of the lesion or of the
    segment must lie in the other.

    Parameters
    ----------
    tracked
        The segmentation object of the study.
    lesions
        The lesions found in that study, in its own frame of reference.

    Returns
    -------
    list of Identity or None
        One for each lesion.
    """
    labels = tracked.labels
    inverse = np.linalg.inv(np.asarray(labels.affine, dtype=float))
    voxel_ml = abs(float(np.linalg.det(np.asarray(labels.affine)[:3, :3]))) / 1000
    segment_ml = np.bincount(labels.array.ravel(), minlength=len(tracked.identities) + 1) * voxel_ml
    overlaps = []
    for position, lesion in enumerate(lesions):
        index = np.rint(lesion.points @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
        index = index[((index >= 0) & (index < labels.spatial_shape)).all(axis=1)]
        values = labels.array[tuple(index.T)]
        for value in np.unique(values[values > 0]):
            overlap_ml = float((values == value).sum()) * lesion.volume_ml / len(lesion.indices)
            if overlap_ml >= _MINIMUM_SHARE * min(lesion.volume_ml, segment_ml[value]):
                overlaps.append((-overlap_ml, position, int(value) - 1))
    return _one_to_one(sorted(overlaps), tracked.identities, len(lesions))


def _one_to_one(
    pairs: Iterable[tuple[float, int, int]], identities: Sequence[Identity], count: int
) -> list[Identity | None]:
    """Each lesion's first identity that no lesion before it has taken; best pairs come first."""
    named: list[Identity | None] = [None] * count
    given: set[int] = set()
    for _, position, which in pairs:
        if named[position] is None and which not in given:
            named[position] = identities[which]
            given.add(which)
    return named


@dataclass(frozen=True)
class _Reported:
    identity: Identity
    centre: np.ndarray | None
    frame: str | None
    volume_ml: float


def _lesion_of(group: Dataset) -> _Reported | None:
    """A lesion's measurement group; None for that of the totals."""
    by_concept = {_concept(item): item for item in reversed(group.ContentSequence)}
    uid, name = by_concept.get(_TRACKING_UID), by_concept.get(_TRACKING_ID)
    if uid is None or name is None or _NUMBER_OF_LESIONS in by_concept:
        return None
    volume = by_concept.get(_VOLUME)
    value = 0.0
    if volume is not None and volume.get("MeasuredValueSequence"):
        value = float(volume.MeasuredValueSequence[0].NumericValue)
    place = by_concept.get(_CENTRE)
    centre = frame = None
    if place is not None and str(place.ValueType) == "SCOORD3D":
        centre = np.asarray(place.GraphicData, dtype=float).reshape(-1)[:3]
        frame = str(place.ReferencedFrameOfReferenceUID)
    identity = Identity(str(uid.UID), str(name.TextValue))
    return _Reported(identity, centre, frame, value)


def _containers(items: Sequence[Dataset]) -> Iterable[Sequence[Dataset]]:
    for item in items:
        if item.ValueType == "CONTAINER" and item.get("ContentSequence"):
            yield item.ContentSequence
            yield from _containers(item.ContentSequence)


def _concept(item: Dataset) -> tuple[str, str]:
    names = item.get("ConceptNameCodeSequence")
    if not names:
        return ("", "")
    return (str(names[0].CodeValue), str(names[0].CodingSchemeDesignator))


def _check_writer(dataset: Dataset) -> None:
    if dataset.get("ManufacturerModelName") != NAME:
        raise ValueError("it was written by another program")


def _is_ours(segment: Dataset) -> bool:
    """Whether a segment is as this application outlines them, and not edited since."""
    return bool(
        segment.get("SegmentAlgorithmType") == "AUTOMATIC"
        and segment.get("SegmentAlgorithmName") == NAME
    )


def _check_identities(identities: Sequence[Identity]) -> None:
    if not all(one.tracking_uid and one.tracking_id for one in identities):
        raise ValueError("a lesion has no tracking UID or ID")
    if len({one.tracking_uid for one in identities}) != len(identities):
        raise ValueError("two lesions share a tracking UID")


def _written(dataset: Dataset) -> str:
    day, time = dataset.get("ContentDate"), dataset.get("ContentTime")
    clock = "".join(c for c in str(time or "") if c.isdigit())
    return f"{day or '':8}{clock:0<12}"

"""The identity of a lesion over time: a tracking UID and a name, the same in every study.

They come from the prior study's segmentation object when the input holds one of this application.
Otherwise the UID is derived from where the lesion was first seen: the series instance UID of that
study's FLAIR and the lesion's centre voxel. A rerun, and a run on that study alone, therefore give
the same UID.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.uid import generate_uid

from operators.longitudinal_comparator.lesions import LesionObject
from operators.messages import InstanceRef, QualityNote

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^Lesion (\d+)$")
_MINIMUM_SHARE = 0.1


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


@dataclass(frozen=True)
class TrackedSegmentation:
    """A prior segmentation object: whose voxels are whose.

    Attributes
    ----------
    labels
        Integer volume in the prior study's frame of reference: 1 + the position in ``identities``.
    identities
        One for each segment.
    """

    labels: hd.Volume
    identities: tuple[Identity, ...]


def derive_uid(flair_series_uid: str, lesion: LesionObject) -> str:
    """The tracking UID of a lesion first seen in a study.

    Parameters
    ----------
    flair_series_uid
        Series Instance UID of that study's FLAIR.
    lesion
        The lesion in that study.
    """
    voxel = ",".join(map(str, lesion.centre_voxel))
    return str(generate_uid(entropy_srcs=[flair_series_uid, voxel]))


def name(number: int) -> str:
    """The tracking ID of the lesion with a number."""
    return f"Lesion {number}"


def next_number(identities: Iterable[Identity | None]) -> int:
    """The first number that none of the given identities, or their count, has used."""
    known = [one for one in identities if one is not None]
    numbers = [int(found[1]) for one in known if (found := _NAME.match(one.tracking_id))]
    return max([len(known), *numbers]) + 1


def read_tracked_segmentation(instance: InstanceRef) -> TrackedSegmentation:
    """Read lesions and their identities from a segmentation object.

    Raises
    ------
    ValueError
        If the file is not a readable segmentation object with tracking UIDs.
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
    except Exception as error:
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    if len(descriptions) == 1 and not descriptions[0].tracking_uid and not labels.array.any():
        # how this application writes that it found no lesion
        return TrackedSegmentation(labels=labels, identities=())
    if not all(one.tracking_uid and one.tracking_id for one in descriptions):
        raise ValueError("a segment has no tracking UID or ID")
    identities = tuple(
        Identity(str(one.tracking_uid), str(one.tracking_id)) for one in descriptions
    )
    if len({one.tracking_uid for one in identities}) != len(identities):
        raise ValueError("two segments share a tracking UID")
    return TrackedSegmentation(labels=labels, identities=identities)


def newest_tracked_segmentation(
    instances: Sequence[InstanceRef], frame_of_reference_uid: str | None
) -> tuple[TrackedSegmentation | None, tuple[QualityNote, ...]]:
    """The first segmentation object that can be used, and a warning for each one before it.

    Parameters
    ----------
    instances
        Newest first.
    frame_of_reference_uid
        The prior FLAIR's; an object in another frame of reference cannot be laid over it.
    """
    notes: list[QualityNote] = []
    for instance in instances:
        try:
            tracked = read_tracked_segmentation(instance)
            if tracked.labels.frame_of_reference_uid != frame_of_reference_uid:
                raise ValueError("it is in another frame of reference than the FLAIR")
            return tracked, tuple(notes)
        except ValueError as error:
            logger.warning("prior segmentation %s not used: %s", instance.path.name, error)
            notes.append(
                QualityNote(
                    "prior_segmentation_not_used",
                    "warning",
                    f"The prior segmentation object {instance.sop_instance_uid} was not used: "
                    f"{error}. Lesion identities were taken from elsewhere.",
                )
            )
    return None, tuple(notes)


def identities_from(
    tracked: TrackedSegmentation, lesions: tuple[LesionObject, ...]
) -> list[Identity | None]:
    """Give each lesion the identity of the segment that it overlaps most.

    A segment gives its identity to one lesion only. At least a tenth of the lesion or of the
    segment must lie in the other.

    Parameters
    ----------
    tracked
        The prior study's segmentation object.
    lesions
        The lesions found in the prior study, in its own frame of reference.

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
            overlap_ml = float((values == value).mean()) * lesion.volume_ml * len(index)
            overlap_ml /= len(lesion.indices)
            if overlap_ml >= _MINIMUM_SHARE * min(lesion.volume_ml, segment_ml[value]):
                overlaps.append((-overlap_ml, position, int(value) - 1))
    identities: list[Identity | None] = [None] * len(lesions)
    given: set[int] = set()
    for _, position, segment in sorted(overlaps):
        if identities[position] is None and segment not in given:
            identities[position] = tracked.identities[segment]
            given.add(segment)
    return identities

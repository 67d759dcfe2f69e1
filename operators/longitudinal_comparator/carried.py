"""Lesions that an earlier comparison found, read back from that study's own result.

A lesion that only the comparison with a still earlier study shows is in no network's answer. When
that earlier study is not in the input any more, the study's segmentation object is what knows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np

from operators.longitudinal_comparator.earlier_objects import (
    TrackedSegmentation,
    read_tracked_segmentation,
)
from operators.longitudinal_comparator.lesions import LesionObject, label_array, measure
from operators.longitudinal_comparator.points import transform_points
from operators.messages import InstanceRef

_SEGMENTATIONS = "1.2.840.10008.5.1.4.1.1.66."
"""The start of the SOP Class UIDs of segmentation objects."""
_KNOWN_SHARE = 0.1
"""Of a segment that lies in lesions of the study already: it is one of them."""


def carried_over(
    objects: Sequence[LesionObject],
    probability: hd.Volume,
    instances: Sequence[InstanceRef],
    frame_of_reference_uid: str | None,
) -> list[LesionObject]:
    """Lesions of a study that its newest segmentation object calls found by comparison.

    Parameters
    ----------
    objects
        The lesions that the network finds in the study.
    probability
        The study's probability.
    instances
        Result objects of the study, newest first. One that cannot be used is passed over here; the
        identities, which read them too, tell the reader about it.
    frame_of_reference_uid
        Of the study's FLAIR.
    """
    for instance in instances:
        if not instance.sop_class_uid.startswith(_SEGMENTATIONS):
            continue
        try:
            tracked = read_tracked_segmentation(instance)
        except ValueError:
            continue
        if tracked.frame_of_reference_uid == frame_of_reference_uid:
            return _missing(tracked, objects, probability)
    return []


def _missing(
    tracked: TrackedSegmentation, objects: Sequence[LesionObject], probability: hd.Volume
) -> list[LesionObject]:
    known = label_array(tuple(objects), probability.spatial_shape)
    back = np.linalg.inv(np.asarray(probability.affine, dtype=float))
    to_index = back @ np.asarray(tracked.labels.affine, dtype=float)
    found = []
    for which in sorted(tracked.compared):
        voxels = np.argwhere(tracked.labels.array == which + 1).astype(float)
        index = np.unique(np.rint(transform_points(to_index, voxels)).astype(int), axis=0)
        index = index[((index >= 0) & (index < probability.spatial_shape)).all(axis=1)]
        if len(index) and (known[tuple(index.T)] > 0).mean() < _KNOWN_SHARE:
            free = index[known[tuple(index.T)] == 0]
            found.append(measure(free, probability))
    return found

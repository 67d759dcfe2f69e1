"""Whether a change that the outlines show can be seen in the images.

Two independent answers of a network differ by noise, and the outline of a small lesion on thick
slices by a third. A change must show in the images as well: a lesion's contrast against its own
surroundings is therefore compared between the two FLAIR images. Of one real patient scanned twice,
the two lesions that the reference reading calls new had no contrast at their place in the prior
image; of 16 false new ones, in a scan compared with itself after a motion, all but one had more
than half of today's. The constants were chosen on this same pair and these trials: the figures say
how the rule was fitted, not how it fares on other patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.points import transform_points
from operators.messages import AlignedStudy

_RING_MM = (1.5, 5.0)
"""The surroundings of a lesion: between these distances from its voxels."""
_CORE_MM = 1.5
"""A lesion's signal is summed to this distance from it, to hold what partial volume spreads."""
_SIGNAL_RING_MM = (2.0, 6.0)
"""The surroundings of that."""
_RING_VOXELS = 20
"""Fewer voxels of surroundings are no base for a contrast."""


@dataclass(frozen=True)
class View:
    """One time point's FLAIR, and what is in it.

    Attributes
    ----------
    flair
        float32, any unit.
    brain
        bool, the FLAIR's grid.
    lesions
        bool, the FLAIR's grid: every voxel of a lesion.
    scale
        Standard deviation of the FLAIR over the brain, the unit of contrasts.
    """

    flair: hd.Volume
    brain: np.ndarray
    lesions: np.ndarray
    scale: float

    @classmethod
    def of(cls, study: AlignedStudy, lesions: np.ndarray) -> View:
        """The view of one time point; ``lesions`` is bool on its FLAIR's grid."""
        flair = study.selected.series["flair"].volume
        brain = np.asarray(study.brain_mask.array, dtype=bool)
        values = flair.array[brain]
        scale = float(values.std(dtype=np.float64)) if values.size else 0.0
        return cls(flair, brain, lesions, scale)

    def share_inside(self, points: np.ndarray) -> float:
        """Share of LPS points (n, 3) that lie in the brain of this image."""
        index = np.rint(self._index(points)).astype(int)
        on_grid = ((index >= 0) & (index < self.brain.shape)).all(axis=1)
        return float(self.brain[tuple(index[on_grid].T)].sum() / len(points))

    def contrast(self, inside: np.ndarray, around: np.ndarray) -> float | None:
        """Mean inside minus median around, in units of ``scale``; points are LPS (n, 3).

        None where the image does not reach.
        """
        values = self._sample(inside)
        surroundings = self._sample(around)
        if np.isfinite(values).mean() < 0.5 or np.isfinite(surroundings).mean() < 0.5:
            return None
        if not self.scale > 0:
            return None
        return float((np.nanmean(values) - np.nanmedian(surroundings)) / self.scale)

    def surroundings(self, lesion: LesionObject) -> np.ndarray:
        """Voxel centres (n, 3) around a lesion, in the brain and in no lesion, LPS millimetres."""
        affine = np.asarray(self.flair.affine, dtype=float)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        reach = np.ceil(_RING_MM[1] / spacing).astype(int)
        low = np.maximum(lesion.indices.min(axis=0) - reach, 0)
        high = np.minimum(lesion.indices.max(axis=0) + reach + 1, self.brain.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        outside = np.ones(high - low, dtype=bool)
        outside[tuple((lesion.indices - low).T)] = False
        distance = ndimage.distance_transform_edt(outside, spacing)
        ring = (distance > _RING_MM[0]) & (distance <= _RING_MM[1])
        ring &= self.brain[box] & ~self.lesions[box]
        return transform_points(affine, np.argwhere(ring) + low)

    def _index(self, points: np.ndarray) -> np.ndarray:
        return transform_points(np.linalg.inv(np.asarray(self.flair.affine, dtype=float)), points)

    def _sample(self, points: np.ndarray) -> np.ndarray:
        return np.asarray(
            ndimage.map_coordinates(
                self.flair.array, self._index(points).T, order=1, mode="constant", cval=np.nan
            )
        )


def visible(
    lesion: LesionObject, here: View, there: View, to_there: np.ndarray, least_contrast: float
) -> bool:
    """Whether a lesion found in one image can be seen in the other one.

    Parameters
    ----------
    lesion
        Found in ``here``.
    here, there
        The two time points.
    to_there
        4×4: points of ``here`` to points of ``there``.
    least_contrast
        Share of its contrast here that it must have there.

    Returns
    -------
    bool
        False also where the images give no answer: no surroundings, a lesion that is not brighter
        than them, or outside the other image.
    """
    around = here.surroundings(lesion)
    if len(around) < _RING_VOXELS:
        return False
    contrast_here = here.contrast(lesion.points, around)
    contrast_there = there.contrast(
        transform_points(to_there, lesion.points), transform_points(to_there, around)
    )
    if contrast_here is None or contrast_there is None or contrast_here <= 0:
        return False
    return contrast_there >= least_contrast * contrast_here


def signal_ratio(
    inside: np.ndarray, lesions: np.ndarray, here: View, there: View, to_there: np.ndarray
) -> float | None:
    """How much more of a lesion one image shows than the other.

    The signal of a lesion is its contrast summed over its volume. Partial volume and blur spread it
    but do not change it, so that it grows with the lesion whatever the outlines say.

    Parameters
    ----------
    inside
        bool on the grid of ``here``: the lesion at either time point.
    lesions
        bool on the same grid: every lesion at either time point.
    here, there
        The two time points.
    to_there
        4×4: points of ``here`` to points of ``there``.

    Returns
    -------
    float or None
        Signal here by signal there, infinite if there is none there; None where the images give no
        answer.
    """
    affine = np.asarray(here.flair.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = np.ceil(_SIGNAL_RING_MM[1] / spacing).astype(int)
    indices = np.argwhere(inside)
    low = np.maximum(indices.min(axis=0) - reach, 0)
    high = np.minimum(indices.max(axis=0) + reach + 1, inside.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    distance = ndimage.distance_transform_edt(~inside[box], spacing)
    free = here.brain[box] & ~lesions[box]
    core = (distance <= _CORE_MM) & (free | inside[box])
    ring = free & (distance > _SIGNAL_RING_MM[0]) & (distance <= _SIGNAL_RING_MM[1])
    if ring.sum() < _RING_VOXELS:
        return None
    points = transform_points(affine, np.argwhere(core) + low)
    around = transform_points(affine, np.argwhere(ring) + low)
    signal_here = here.contrast(points, around)
    signal_there = there.contrast(
        transform_points(to_there, points), transform_points(to_there, around)
    )
    if signal_here is None or signal_there is None or max(signal_here, signal_there) <= 0:
        return None
    if signal_there <= 0:
        return float("inf")
    return max(signal_here, 0.0) / signal_there

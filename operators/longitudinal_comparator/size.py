"""Whether a lesion is large enough to count, whatever the voxels it was seen with.

A number of voxels, or the length of a voxel's diagonal, would let a speck count on thick slices
that does not on thin ones. The probability is therefore sampled anew on a fine lattice around the
lesion, and volume and length are measured there.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

_STEP_MM = 0.5
_CERTAIN = 8.0
"""A lesion of this many times the least volume, and three times the least length, is not measured
again."""


@dataclass(frozen=True)
class LeastSize:
    """The smallest lesion that counts; both limits must be met.

    Attributes
    ----------
    volume_mm3
        Volume.
    extent_mm
        Longest diameter.
    """

    volume_mm3: float
    extent_mm: float

    def admits(
        self, indices: np.ndarray, probability: hd.Volume, threshold: float, extent_mm: float
    ) -> bool:
        """Whether a lesion counts.

        Parameters
        ----------
        indices
            int (n, 3): its voxels.
        probability
            float32 in [0, 1].
        threshold
            From which on a voxel is lesion.
        extent_mm
            Its length as measured on the voxels.
        """
        affine = np.asarray(probability.affine, dtype=float)
        volume = len(indices) * abs(float(np.linalg.det(affine[:3, :3])))
        if volume > _CERTAIN * self.volume_mm3 and extent_mm > 3 * self.extent_mm:
            return True
        volume, extent = fine_size(indices, probability, threshold)
        return volume >= self.volume_mm3 * (1 - 1e-6) and extent >= self.extent_mm * (1 - 1e-6)


def fine_size(indices: np.ndarray, probability: hd.Volume, threshold: float) -> tuple[float, float]:
    """Volume (mm³) and longest diameter (mm) of a lesion on a lattice of 0.5 mm.

    The probability is interpolated linearly between the lesion's voxels and their neighbours;
    what lies at or above the threshold, or half of the lesion's peak if that is less, is lesion: a
    faint lesion would otherwise lose the rim that its own voxels have. Other lesions are left out.

    Parameters
    ----------
    indices, probability, threshold
        See ``LeastSize.admits``.
    """
    spacing = np.asarray(probability.spacing, dtype=float)
    low = np.maximum(indices.min(axis=0) - 1, 0)
    high = np.minimum(indices.max(axis=0) + 2, probability.spatial_shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    values = np.asarray(probability.array[box], dtype=np.float64)
    own = np.zeros(values.shape, dtype=bool)
    own[tuple((indices - low).T)] = True
    values = np.where((values >= threshold) & ~own, 0.0, values)
    counts = np.ceil(np.asarray(own.shape) * spacing / _STEP_MM).astype(int)
    cell = np.asarray(own.shape) * spacing / counts
    axes = [
        (np.arange(count) + 0.5) * (extent / count) - 0.5
        for extent, count in zip(high - low, counts, strict=True)
    ]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij"))
    limit = min(threshold, float(values[own].max()) / 2)
    inside = ndimage.map_coordinates(values, lattice, order=1, mode="nearest") >= limit
    if not inside.any():
        return 0.0, 0.0
    return (
        float(inside.sum() * np.prod(cell)),
        _longest(np.argwhere(inside) * cell) + float(cell.mean()),
    )


def _longest(points: np.ndarray) -> float:
    """The largest distance of two points (n, 3)."""
    if len(points) == 1:
        return 0.0
    if len(points) > 50:
        # points in one plane have no hull
        with contextlib.suppress(QhullError):
            points = points[ConvexHull(points).vertices]
    return float(pdist(points).max())

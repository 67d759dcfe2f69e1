"""Lesions as 3D objects: what a lesion is, and its measures."""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage
from scipy.spatial.distance import pdist

from operators.longitudinal_comparator.size import LeastSize

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong to one lesion (26 neighbours)."""


@dataclass(frozen=True, eq=False)
class LesionObject:
    """One lesion in one image; equal to itself only.

    Attributes
    ----------
    indices
        int64 (n, 3): its voxels, in lexicographic order.
    points
        float64 (n, 3): their centres, LPS millimetres in the image's frame of reference.
    volume_ml
        Number of voxels times the voxel's volume.
    diameter_mm
        Maximum 3D diameter: the largest distance between two voxel centres. Of a digital ball it
        is 0.97 to 1 times the true diameter from 6 mm on, 0.9 at 4 mm.
    extent_mm
        The same line from outer face to outer face: longer by its length inside one voxel, so that
        a row of n voxels is n voxels long.
    confidence
        Mean probability of its voxels.
    """

    indices: np.ndarray
    points: np.ndarray
    volume_ml: float
    diameter_mm: float
    extent_mm: float
    confidence: float

    @property
    def centroid(self) -> np.ndarray:
        """Mean of the voxel centres, LPS millimetres."""
        return np.asarray(self.points.mean(axis=0))

    @property
    def centre_voxel(self) -> tuple[int, int, int]:
        """The lesion's own voxel that lies nearest to its centroid (the first one, if several)."""
        nearest = ((self.points - self.centroid) ** 2).sum(axis=1).round(6).argmin()
        i, j, k = (int(n) for n in self.indices[nearest])
        return i, j, k


def measure(indices: np.ndarray, probability: hd.Volume) -> LesionObject:
    """Measure a lesion.

    Parameters
    ----------
    indices
        int (n, 3): its voxels.
    probability
        float32 in [0, 1].
    """
    indices = indices[np.lexsort(indices.T[::-1])]
    affine = np.asarray(probability.affine, dtype=float)
    values = probability.array[tuple(indices.T)]
    diameter, extent = maximum_diameter(indices, affine)
    return LesionObject(
        indices=indices,
        points=indices @ affine[:3, :3].T + affine[:3, 3],
        volume_ml=len(indices) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000,
        diameter_mm=diameter,
        extent_mm=extent,
        confidence=float(values.mean(dtype=np.float64)),
    )


def maximum_diameter(indices: np.ndarray, affine: np.ndarray) -> tuple[float, float]:
    """Maximum 3D diameter and extent of a set of voxels, in millimetres; see ``LesionObject``.

    Parameters
    ----------
    indices
        int (n, 3).
    affine
        float (4, 4): indices to LPS millimetres.
    """
    axes = np.asarray(affine, dtype=float)[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    outermost = _outermost(indices)
    if len(outermost) == 1:
        return 0.0, float(spacing.min())
    points = outermost @ axes.T
    distances = pdist(points)
    farthest = int(distances.argmax())
    first, second = (rows[farthest] for rows in np.triu_indices(len(points), k=1))
    along = np.abs((points[second] - points[first]) @ (axes / spacing)) / distances[farthest]
    inside_voxel = (spacing / np.maximum(along, 1e-9)).min()
    return float(distances[farthest]), float(distances[farthest] + inside_voxel)


def _outermost(indices: np.ndarray) -> np.ndarray:
    """The voxels that are first or last in their row along each of the three axes.

    Every corner of the convex hull is among them, so they hold the farthest pair.
    """
    low = indices.min(axis=0)
    mask = np.zeros(indices.max(axis=0) - low + 1, dtype=bool)
    mask[tuple((indices - low).T)] = True
    outer = mask.copy()
    for axis in range(3):
        first = mask & (np.cumsum(mask, axis=axis) == 1)
        last = mask & (np.flip(np.cumsum(np.flip(mask, axis), axis=axis), axis) == 1)
        outer &= first | last
    return np.asarray(np.argwhere(outer) + low)


def find_lesions(
    probability: hd.Volume, threshold: float, least: LeastSize
) -> tuple[LesionObject, ...]:
    """The lesions of one image: connected voxels at or above the threshold.

    Parameters
    ----------
    probability
        float32 in [0, 1].
    threshold
        From which on a voxel is lesion.
    least
        The smallest lesion that counts.

    Returns
    -------
    tuple of LesionObject
        Largest first; equal ones by the position of their first voxel.
    """
    labels, _ = ndimage.label(probability.array >= threshold, CONNECTIVITY)
    found = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        indices = np.argwhere(labels[box] == number) + [part.start for part in box]
        lesion = measure(indices, probability)
        if least.admits(lesion.indices, probability, threshold, lesion.extent_mm):
            found.append(lesion)
    return in_order(found)


def in_order(lesions: list[LesionObject]) -> tuple[LesionObject, ...]:
    """Largest first; equal ones by the position of their first voxel."""
    return tuple(sorted(lesions, key=lambda one: (-len(one.indices), one.indices[0].tolist())))


def label_array(lesions: tuple[LesionObject, ...], shape: tuple[int, ...]) -> np.ndarray:
    """uint16 array with 1 for the first lesion's voxels, 2 for the second's, …; 0 elsewhere."""
    if len(lesions) > np.iinfo(np.uint16).max:
        raise ValueError(f"{len(lesions)} lesions do not fit into 16 bits")
    labels = np.zeros(shape, dtype=np.uint16)
    for number, lesion in enumerate(lesions, start=1):
        labels[tuple(lesion.indices.T)] = number
    return labels

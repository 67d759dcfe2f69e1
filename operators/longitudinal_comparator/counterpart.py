"""The outline of a lesion in a study in which the network did not find it."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.lesions import CONNECTIVITY, LesionObject, measure
from operators.longitudinal_comparator.links import Shape
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.size import LeastSize


def outline_in(
    lesion: LesionObject,
    lesion_affine: np.ndarray,
    other: hd.Volume,
    allowed: np.ndarray,
    to_other: np.ndarray,
    threshold: float,
    least: LeastSize,
) -> LesionObject | None:
    """A lesion of one study, outlined in its own place in another one.

    Parameters
    ----------
    lesion
        The lesion, in its own image.
    lesion_affine
        4×4: voxel indices of its image to LPS millimetres.
    other
        float32 probability of the other image.
    allowed
        bool on the grid of ``other``: voxels that belong to no lesion yet.
    to_other
        4×4: points of the lesion's image to points of the other one.
    threshold
        At least half of the lesion must have this probability there, and what is taken has it; 0
        takes the lesion's own outline.
    least
        The smallest lesion that counts. Of the lesion's own outline, any part is enough: the other
        image's voxels and the lesions beside it may cut it.

    Returns
    -------
    LesionObject or None
        In the other image; None if nothing of sufficient size is left there.
    """
    affine = np.asarray(other.affine, dtype=float)
    index = transform_points(np.linalg.inv(affine), transform_points(to_other, lesion.points))
    if threshold > 0:
        values = ndimage.map_coordinates(other.array, index.T, order=1, mode="constant", cval=0.0)
        if (values >= threshold).mean() < 0.5:
            return None
    low = np.maximum(np.floor(index.min(axis=0)) - 2, 0).astype(int)
    high = np.minimum(np.ceil(index.max(axis=0)) + 3, other.array.shape).astype(int)
    if (high <= low).any():
        return None
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    mask = (other.array[box] >= threshold) & allowed[box]
    candidates = np.argwhere(mask)
    if not len(candidates):
        return None
    centres = transform_points(np.linalg.inv(to_other), transform_points(affine, candidates + low))
    outside = Shape(lesion, lesion_affine).distance(centres, limit=0.0) > 0
    mask[tuple(candidates[outside].T)] = False
    labels, count = ndimage.label(mask, CONNECTIVITY)
    if count == 0:
        return None
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
    found = measure(np.argwhere(labels == largest) + low, other)
    if threshold > 0 and not least.admits(found.indices, other, threshold, found.extent_mm):
        return None
    return found

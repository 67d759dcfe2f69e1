"""What lies in the outermost layer of an image's voxels, where change cannot be told.

At an image's first and last slice there is no neighbour to interpolate with, blood flows in that
has not been excited before, and a slab's profile falls off: a lesion there is as bright as the
other examination's slices happen to lie.
"""

from __future__ import annotations

from collections.abc import Iterable

import highdicom as hd
import numpy as np

from operators.longitudinal_comparator.points import transform_points

_ROUNDING = 1e-3
_WHOLE = 0.9


def share_inside(points: np.ndarray, image: hd.Volume) -> float:
    """Share of points (n, 3), LPS mm, that do not lie in the image's outermost voxels."""
    index = transform_points(np.linalg.inv(np.asarray(image.affine, dtype=float)), points)
    last = np.asarray(image.spatial_shape) - 1
    within = (index >= 1 - _ROUNDING) & (index <= last - 1 + _ROUNDING)
    return float(within.all(axis=1).mean())


def is_inside(points: np.ndarray, image: hd.Volume, other: hd.Volume, to_other: np.ndarray) -> bool:
    """Whether at least half of a region lies clear of the outermost voxels of both images.

    Parameters
    ----------
    points
        float (n, 3): the region, in LPS millimetres of ``image``.
    image, other
        The two images.
    to_other
        4×4: points of ``image`` to points of ``other``.
    """
    return _least_share(points, image, other, to_other) >= 0.5


def is_cut(points: np.ndarray, image: hd.Volume, other: hd.Volume, to_other: np.ndarray) -> bool:
    """Whether a region reaches so far into the outermost voxels of either image that its volume
    there is no measure of its growth; parameters as for `is_inside`."""
    return _least_share(points, image, other, to_other) < _WHOLE


def either_is_cut(
    later: np.ndarray,
    earlier: Iterable[np.ndarray],
    images: tuple[hd.Volume, hd.Volume],
    to_earlier: np.ndarray,
) -> bool:
    """Whether a later region, or one of the earlier ones that it comes from, is cut.

    Parameters
    ----------
    later, earlier
        float (n, 3) each, in LPS millimetres of its own image.
    images
        The later and the earlier image.
    to_earlier
        4×4: points of the later image to points of the earlier one.
    """
    now, before = images
    back = np.linalg.inv(to_earlier)
    return is_cut(later, now, before, to_earlier) or any(
        is_cut(points, before, now, back) for points in earlier
    )


def _least_share(
    points: np.ndarray, image: hd.Volume, other: hd.Volume, to_other: np.ndarray
) -> float:
    return min(share_inside(points, image), share_inside(transform_points(to_other, points), other))

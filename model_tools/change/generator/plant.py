"""Planting a lesion into the images of a study, as its own slices would have shown it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.change.generator.scans import Matrix

SUBSAMPLE_MM = 0.5


@dataclass(frozen=True)
class Painted:
    """A lesion to paint.

    Attributes
    ----------
    occupied
        Share of each small cube that is lesion, in FLAIR millimetres.
    ratio
        By role: intensity of lesion over that of white matter.
    """

    occupied: hd.Volume
    ratio: dict[str, float]


def partial_volume(
    occupied: hd.Volume, image: hd.Volume, to_image: Matrix
) -> tuple[tuple[slice, slice, slice], NDArray[np.float32]]:
    """Share of each voxel of an image that a lesion fills.

    The mean over the voxel (a box as thick as the slice distance), from points at most 0.5 mm
    apart.

    Parameters
    ----------
    occupied
        Share of small cubes, see `shapes.occupancy`.
    image
        The image whose voxels are filled.
    to_image
        4x4: points of ``occupied`` to points of ``image``.

    Returns
    -------
    tuple
        The box of voxels concerned (maybe empty), and float32 shares in [0, 1] in it.
    """
    fine_to_index = np.linalg.inv(np.asarray(image.affine)) @ to_image @ np.asarray(occupied.affine)
    shape = np.asarray(occupied.array.shape)
    corners = np.array([[*c, 1.0] for c in product(*((-0.5, n - 0.5) for n in shape))]).T
    found = (fine_to_index @ corners)[:3]
    low = np.clip(np.floor(found.min(1) + 0.5).astype(int), 0, image.spatial_shape)
    high = np.clip(np.ceil(found.max(1) - 0.5).astype(int) + 1, low, image.spatial_shape)
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    size = high - low
    if not size.all():
        return box, np.zeros(tuple(size), np.float32)  # type: ignore[return-value]
    parts = [max(1, int(np.ceil(s / SUBSAMPLE_MM))) for s in image.spacing]
    axes = [
        a + (np.arange(n * p) + 0.5) / p - 0.5 for a, n, p in zip(low, size, parts, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    back = np.linalg.inv(fine_to_index)
    values = ndimage.map_coordinates(
        occupied.array, back[:3, :3] @ grid + back[:3, 3:], order=1, mode="constant"
    )
    blocks = values.reshape(size[0], parts[0], size[1], parts[1], size[2], parts[2]).mean((1, 3, 5))
    return box, blocks.astype(np.float32)  # type: ignore[return-value]


def share_map(
    occupied: Sequence[hd.Volume], image: hd.Volume, to_image: Matrix | None = None
) -> NDArray[np.float32]:
    """Share of each voxel of an image that the lesions fill together, float32 (i, j, k)."""
    result = np.zeros(image.spatial_shape, np.float32)
    for one in occupied:
        box, share = partial_volume(one, image, np.eye(4) if to_image is None else to_image)
        result[box] = np.maximum(result[box], share)
    return result


def plant(
    image: hd.Volume,
    role: str,
    lesions: Sequence[Painted],
    white: hd.Volume,
    to_image: Matrix,
    image_to_white: Matrix,
) -> hd.Volume:
    """Add lesions to an image: what is there stays, with its noise and texture.

    Each voxel changes by its share of lesion times the difference between lesion and local white
    matter.

    Parameters
    ----------
    image
        One sequence of a study.
    role
        Which one.
    lesions
        What to paint.
    white
        Local intensity of white matter in this sequence.
    to_image
        4x4: points of the lesions to points of the image.
    image_to_white
        4x4: points of the image to points of ``white``.
    """
    array = np.array(image.array, dtype=np.float32)
    to_index = np.linalg.inv(np.asarray(white.affine)) @ image_to_white @ np.asarray(image.affine)
    for lesion in lesions:
        box, share = partial_volume(lesion.occupied, image, to_image)
        if not share.size:
            continue
        grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"))
        where = np.tensordot(to_index[:3, :3], grid, 1) + to_index[:3, 3][:, None, None, None]
        level = ndimage.map_coordinates(white.array, where, order=1, mode="nearest")
        array[box] += share * level * (lesion.ratio[role] - 1)
    return image.with_array(np.maximum(array, 0))

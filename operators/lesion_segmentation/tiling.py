"""A network over a volume larger than its patch: overlapping tiles, blended by a Gaussian.

Step, weights and blending follow nnU-Net (Isensee et al., "nnU-Net: a self-configuring method for
deep learning-based biomedical image segmentation", Nature Methods 18, 203-211, 2021): tiles
overlap by half a patch, and each tile's answer is weighted by a Gaussian whose standard deviation
is an eighth of the patch, because a convolutional network is least sure at the patch's border.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Predictor = Callable[[np.ndarray], np.ndarray]
"""(1, channels, z, y, x) float32 to (1, labels, z, y, x) float32."""
TileSum = Callable[[np.ndarray, Sequence[tuple[int, int, int]], np.ndarray], np.ndarray]
"""Image (channels, z, y, x), first voxels of the tiles and a tile's importance (z, y, x) to the
float32 sum (labels, z, y, x) of importance times answer over the tiles."""


def tile_starts(size: int, patch: int, step: float) -> tuple[int, ...]:
    """First voxel of each tile along one axis.

    The fewest tiles whose distance is at most ``step * patch``, evenly spread so that the first
    and the last lie flush with the ends.

    Parameters
    ----------
    size
        Voxels along the axis, at least ``patch``.
    patch
        Voxels of a tile along the axis.
    step
        Largest distance between tiles, as a fraction of the patch.
    """
    if size < patch:
        raise ValueError(f"an axis of {size} voxels is shorter than the patch of {patch}")
    distance = patch * step
    count = math.ceil((size - patch) / distance) + 1
    if count == 1:
        return (0,)
    return tuple(round(i * (size - patch) / (count - 1)) for i in range(count))


def importance(patch: tuple[int, int, int], sigma: float = 1 / 8) -> np.ndarray:
    """Gaussian weight of each voxel of a tile.

    Parameters
    ----------
    patch
        Voxels along (z, y, x).
    sigma
        Standard deviation as a fraction of the patch.

    Returns
    -------
    numpy.ndarray
        float32 with the patch's shape, 1 at voxel ``patch // 2``, positive everywhere.
    """
    weights = np.ones(1)
    for size in patch:
        distance = (np.arange(size) - size // 2) / (sigma * size)
        weights = np.multiply.outer(weights, np.exp(-0.5 * distance**2))
    return np.asarray(weights[0], dtype=np.float32)


def sum_on_host(predict: Predictor, labels: int) -> TileSum:
    """Run tiles one by one and add up their answers in main memory, in float32."""

    def run(
        image: np.ndarray, corners: Sequence[tuple[int, int, int]], weights: np.ndarray
    ) -> np.ndarray:
        total = np.zeros((labels, *image.shape[1:]), dtype=np.float32)
        for corner in corners:
            where = _place(corner, weights.shape)
            answer = predict(image[(slice(None), *where)][None])[0]
            answer *= weights
            total[(slice(None), *where)] += answer
        return total

    return run


def tile_sum_of(engine: Any, labels: int) -> TileSum:
    """An engine's own ``run_tiles``, which keeps image and sums on its device; else the host's."""
    own: TileSum | None = getattr(engine, "run_tiles", None)
    return own if own is not None else sum_on_host(engine.run, labels)


def predict_tiled(
    image: np.ndarray,
    mask: np.ndarray,
    predict: Predictor,
    *,
    labels: int,
    patch: tuple[int, int, int],
    step: float = 0.5,
) -> np.ndarray:
    """``run_tiled`` for a function that takes one patch; the sums are the host's.

    Parameters
    ----------
    image, mask, patch, step
        See ``run_tiled``.
    predict
        The network.
    labels
        Number of the network's output channels.

    Returns
    -------
    numpy.ndarray
        float32 (labels, z, y, x): the weighted mean of the tiles, 0 where no tile ran.
    """
    return run_tiled(image, mask, sum_on_host(predict, labels), patch=patch, step=step)


def run_tiled(
    image: np.ndarray,
    mask: np.ndarray,
    tiles: TileSum,
    *,
    patch: tuple[int, int, int],
    step: float = 0.5,
    sigma: float = 1 / 8,
) -> np.ndarray:
    """Run a network over a volume, tile by tile.

    Tiles without a voxel of the mask are skipped; inside the mask the result is the same as
    without skipping, because every tile that covers such a voxel runs. A volume smaller than the
    patch is padded with 0 on both sides. One tile is in memory at a time, beside the image and
    the float32 sums (``labels`` + 1 volumes).

    Parameters
    ----------
    image
        float32 (channels, z, y, x).
    mask
        bool (z, y, x); where an answer is needed.
    tiles
        Runs the network and adds up what it answers, where the engine has its memory.
    patch, step, sigma
        See ``importance`` and ``tile_starts``.

    Returns
    -------
    numpy.ndarray
        float32 (labels, z, y, x): the weighted mean of the tiles, 0 where no tile ran.
    """
    shape = mask.shape
    missing = [max(0, p - n) for p, n in zip(patch, shape, strict=True)]
    padding = [(m // 2, m - m // 2) for m in missing]
    if any(missing):
        image = np.pad(image, [(0, 0), *padding])
        mask = np.pad(mask, padding)
    weights = importance(patch, sigma)
    weight = np.zeros(mask.shape, dtype=np.float32)
    starts = [tile_starts(n, p, step) for n, p in zip(mask.shape, patch, strict=True)]
    corners = [
        (z, y, x) for z, y, x in itertools.product(*starts) if mask[_place((z, y, x), patch)].any()
    ]
    for corner in corners:
        weight[_place(corner, patch)] += weights
    total = tiles(image, corners, weights)
    np.divide(total, weight, out=total, where=weight > 0)
    inner = tuple(slice(low, low + n) for (low, _), n in zip(padding, shape, strict=True))
    return total[(slice(None), *inner)]


def _place(corner: tuple[int, ...], patch: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))

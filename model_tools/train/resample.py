"""Resampling and random fields on torch tensors; every matrix is in (z, y, x) index order.

All of it runs where its tensors are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from model_tools.train.device import CPU, onto

Matrix = NDArray[np.float64]


def sample(
    volume: torch.Tensor,
    matrix: Matrix,
    shape: tuple[int, int, int],
    displacement: torch.Tensor | None = None,
    nearest: bool = False,
) -> torch.Tensor:
    """Sample channels of a volume at affinely mapped, optionally displaced, grid points.

    Parameters
    ----------
    volume
        (c, z, y, x) float32.
    matrix
        4 x 4, output index (z, y, x, 1) to input index.
    shape
        Output (z, y, x).
    displacement
        (3, z, y, x) on the output grid in input voxels, added to the mapped points.
    nearest
        Nearest neighbour instead of linear; 0 outside the volume in both cases.

    Returns
    -------
    torch.Tensor
        (c, z, y, x) float32.
    """
    where = volume.device
    axes = [torch.arange(n, dtype=torch.float32, device=where) for n in shape]
    grid = torch.empty((*shape, 3), device=where)
    for row in range(3):
        m = [float(v) for v in matrix[row]]
        point = (
            m[3]
            + m[0] * axes[0][:, None, None]
            + m[1] * axes[1][None, :, None]
            + m[2] * axes[2][None, None, :]
        )
        if displacement is not None:
            point = point + displacement[row]
        size = volume.shape[1 + row]
        grid[..., 2 - row] = point * (2.0 / max(size - 1, 1)) - 1.0
    result = functional.grid_sample(
        volume[None],
        grid[None],
        mode="nearest" if nearest else "bilinear",
        padding_mode="zeros",
        align_corners=True,
    )
    return result[0]


def rotation(angles: NDArray[np.float64]) -> Matrix:
    """4 x 4 rotation (z, y, x order) by three angles in radians about z, y and x."""
    result = np.eye(4)
    for (a, b), angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True):
        step = np.eye(4)
        step[a, a] = step[b, b] = np.cos(angle)
        step[a, b], step[b, a] = -np.sin(angle), np.sin(angle)
        result = step @ result
    return result


def about_centre(
    matrix: Matrix, output: tuple[int, ...], source: tuple[int, ...], shift: Matrix | None = None
) -> Matrix:
    """The matrix applied about the centres of output and input grids, plus a shift in voxels."""
    to_centre, back = np.eye(4), np.eye(4)
    to_centre[:3, 3] = [-(n - 1) / 2 for n in output]
    back[:3, 3] = [(n - 1) / 2 for n in source]
    if shift is not None:
        back[:3, 3] += shift
    return back @ matrix @ to_centre


def noise_field(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    scale_mm: float,
    channels: int = 1,
    device: torch.device = CPU,
) -> torch.Tensor:
    """Smooth Gaussian noise (channels, z, y, x) of about unit SD, correlated over ``scale_mm``.

    The random numbers are the same on every device.
    """
    coarse = [max(2, round(n / scale_mm) + 2) for n in shape]
    seed = onto(device, rng.standard_normal((1, channels, *coarse), dtype=np.float32))
    field = functional.interpolate(seed, size=shape, mode="trilinear", align_corners=True)[0]
    return field / field.std().clamp_min(1e-6)


def gaussian(volume: torch.Tensor, sigma: float) -> torch.Tensor:
    """Separable Gaussian smoothing of (c, z, y, x), sigma in voxels, zero outside."""
    if sigma <= 0:
        return volume
    radius = max(1, int(np.ceil(3 * sigma)))
    places = torch.arange(-radius, radius + 1, device=volume.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    result = volume[:, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        padding = [0, 0, 0]
        padding[axis] = radius
        result = functional.conv3d(result, kernel.reshape(shape), padding=padding)
    return result[:, 0]


def slice_matrix(length: int, first: float, step: float, thickness: float) -> NDArray[np.float32]:
    """The 1D operator that acquires thick slices and interpolates them back.

    Slices of ``thickness`` voxels (box profile) at positions first, first + step, ... are
    averaged from a line of ``length`` voxels and brought back by linear interpolation, as the
    inference resamples a 2D scan.

    Returns
    -------
    ndarray
        (length, length); rows sum to 1.
    """
    positions = np.arange(first, length - 1 + step, step)
    index = np.arange(length)
    low = np.clip(positions[:, None] - thickness / 2, -0.5, length - 0.5)
    high = np.clip(positions[:, None] + thickness / 2, -0.5, length - 0.5)
    overlap = np.minimum(index + 0.5, high) - np.maximum(index - 0.5, low)
    acquire = np.clip(overlap, 0, None)
    keep = acquire.sum(1) > 0
    acquire, positions = acquire[keep], positions[keep]
    acquire /= acquire.sum(1, keepdims=True)
    back = np.zeros((length, len(positions)))
    where = np.clip(np.searchsorted(positions, index) - 1, 0, max(len(positions) - 2, 0))
    if len(positions) == 1:
        back[:, 0] = 1
    else:
        span = positions[where + 1] - positions[where]
        weight = np.clip((index - positions[where]) / span, 0, 1)
        back[index, where] = 1 - weight
        back[index, where + 1] = weight
    result: NDArray[np.float32] = (back @ acquire).astype(np.float32)
    return result


def along(volume: torch.Tensor, operator: NDArray[np.float32], axis: int) -> torch.Tensor:
    """Apply a 1D operator to one spatial axis (0 = z) of (c, z, y, x)."""
    moved = volume.movedim(axis + 1, -1)
    return (moved @ onto(volume.device, operator).T).movedim(-1, axis + 1).contiguous()

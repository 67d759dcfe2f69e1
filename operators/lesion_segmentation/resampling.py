"""nnU-Net's resampling of images, segmentations and network outputs, as one matrix per axis.

nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021; versions 1.7 and 2.8) resizes with cubic
splines for images and linearly for probabilities, limits the values to the range of what it
resized, and treats thick slices apart: in the plane first, slice by slice, then across slices by
the nearest one. All of it is linear and separable, so each axis is one small matrix, taken from
SciPy's own interpolation of the unit vectors; a volume then costs three matrix products instead
of a spline evaluation per voxel.

Arrays are (z, y, x) in the network's axis order unless said otherwise; spacings are millimetres in
the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

_NEGLIGIBLE = 1e-9
"""Coefficients below this are rounding of SciPy's spline filter."""
_TIE = 1e-6


@dataclass(frozen=True)
class Plan:
    """How a volume is resampled from one grid to another.

    Attributes
    ----------
    shape_in, shape_out
        Voxels along each axis.
    thick_axis
        The axis across thick slices, or None where all three axes are treated alike.
    """

    shape_in: tuple[int, int, int]
    shape_out: tuple[int, int, int]
    thick_axis: int | None


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]
) -> tuple[int, int, int]:
    """Voxels that the volume has at another spacing, rounded per axis."""
    z, y, x = (max(1, round(s / t * n)) for n, s, t in zip(shape, spacing, target, strict=True))
    return z, y, x


def thick_axis(
    spacing: Sequence[float],
    target: Sequence[float],
    *,
    force: bool | None = None,
    threshold: float = 3.0,
) -> int | None:
    """The axis that nnU-Net resamples apart from the other two, or None.

    Parameters
    ----------
    spacing, target
        Of the volume at hand and of the one wanted.
    force
        True looks at ``spacing`` only, whatever its anisotropy; False never separates; None
        separates where the largest spacing is more than ``threshold`` times the smallest, in
        ``spacing`` or else in ``target``.
    threshold
        See ``force``.
    """
    if force is False:
        return None
    if force or max(spacing) / min(spacing) > threshold:
        coarse = spacing
    elif max(target) / min(target) > threshold:
        coarse = target
    else:
        return None
    axes = [axis for axis in range(3) if coarse[axis] == max(coarse)]
    # two coarse axes (as 0.2, 1, 1 mm) are not "slices": nnU-Net treats all three alike
    return axes[0] if len(axes) == 1 else None


@lru_cache(maxsize=64)
def spline_matrix(size: int, target: int, order: int) -> np.ndarray:
    """The linear map of resizing an axis, voxel edges fixed, edge values continued outwards.

    Returns
    -------
    numpy.ndarray
        float64 (target, size), read-only.
    """
    if size == target:
        matrix = np.eye(size)
    elif size == 1:
        matrix = np.ones((target, 1))
    else:
        columns = np.eye(size)
        matrix = np.empty((target, size))
        for column in range(size):
            matrix[:, column] = ndimage.zoom(
                columns[column], target / size, order=order, mode="nearest", grid_mode=True
            )
        matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    matrix.setflags(write=False)
    return matrix


@lru_cache(maxsize=64)
def slice_matrix(size: int, target: int, order: int) -> np.ndarray:
    """The linear map across thick slices; order 0 takes the nearest slice.

    Returns
    -------
    numpy.ndarray
        float64 (target, size), read-only.
    """
    places = size / target * (np.arange(target) + 0.5) - 0.5
    matrix = np.empty((target, size))
    for column, unit in enumerate(np.eye(size)):
        matrix[:, column] = ndimage.map_coordinates(unit, [places], order=order, mode="nearest")
    matrix[np.abs(matrix) < _NEGLIGIBLE] = 0
    matrix.setflags(write=False)
    return matrix


def along(volume: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Apply a matrix (new, old) along one axis of a volume, in the volume's precision."""
    if matrix.shape[0] == matrix.shape[1] and np.array_equal(matrix, np.eye(len(matrix))):
        return volume
    matrix = matrix.astype(volume.dtype)
    if axis == 0:
        flat = matrix @ volume.reshape(volume.shape[0], -1)
        return np.asarray(flat.reshape(-1, *volume.shape[1:]))
    if axis == 1:
        return np.asarray(np.matmul(matrix, volume))
    return np.asarray(np.matmul(volume, matrix.T))


def matrices(plan: Plan, order: int, order_z: int) -> list[np.ndarray]:
    """The three matrices of a plan, for axes z, y and x of the network."""
    return [
        slice_matrix(n, m, order_z) if axis == plan.thick_axis else spline_matrix(n, m, order)
        for axis, (n, m) in enumerate(zip(plan.shape_in, plan.shape_out, strict=True))
    ]


def resample(volume: np.ndarray, plan: Plan, order: int, order_z: int = 0) -> np.ndarray:
    """Resample one channel.

    Parameters
    ----------
    volume
        float32 or float64 (z, y, x).
    plan
        From which grid to which.
    order, order_z
        Spline order, and the one across thick slices.

    Returns
    -------
    numpy.ndarray
        The volume's type; within the range of the volume (of each slice, where slices are
        treated apart), because a spline overshoots at edges.
    """
    if plan.shape_in == plan.shape_out:
        return volume
    steps = matrices(plan, order, order_z)
    thick = plan.thick_axis
    result = volume
    # axes that shrink first: the products after them are smaller
    plane = sorted(
        (a for a in range(3) if a != thick),
        key=lambda a: plan.shape_out[a] / plan.shape_in[a],
    )
    for axis in plane:
        result = along(result, steps[axis], axis)
    # nnU-Net's resize limits what it interpolates to the range of its input
    others = None if thick is None else tuple(a for a in range(3) if a != thick)
    low = volume.min(axis=others, keepdims=True)
    high = volume.max(axis=others, keepdims=True)
    result = np.clip(result, low, high)
    return result if thick is None else along(result, steps[thick], thick)


def resample_labels(labels: np.ndarray, plan: Plan, order: int, order_z: int = 0) -> np.ndarray:
    """Resample a label map: each label's indicator is resized, and the largest one wins.

    A tie goes to the label of the nearest voxel where it takes part in it, otherwise to the
    smallest label.

    Parameters
    ----------
    labels
        Integer (z, y, x).
    plan, order, order_z
        As for ``resample``.

    Returns
    -------
    numpy.ndarray
        The type of ``labels``.
    """
    if plan.shape_in == plan.shape_out:
        return labels
    values = np.unique(labels)
    thick = plan.thick_axis
    # in the plane of thick slices first; the map across them then works on labels
    middle = list(plan.shape_out)
    if thick is not None:
        middle[thick] = plan.shape_in[thick]
    in_plane = Plan(plan.shape_in, (middle[0], middle[1], middle[2]), thick)
    result = _largest_indicator(labels, values, in_plane, order, order_z)
    if thick is None or plan.shape_in[thick] == plan.shape_out[thick]:
        return result
    across = slice_matrix(plan.shape_in[thick], plan.shape_out[thick], order_z)
    if order_z == 0:
        return np.asarray(np.take(result, across.argmax(axis=1), axis=thick))
    final = np.zeros(plan.shape_out, dtype=labels.dtype)
    for value in values:
        final[along((result == value).astype(np.float64), across, thick) > 0.5] = value
    return final


def _largest_indicator(
    labels: np.ndarray, values: np.ndarray, plan: Plan, order: int, order_z: int
) -> np.ndarray:
    if plan.shape_in == plan.shape_out:
        return labels
    nearest = labels
    for axis, (n, m) in enumerate(zip(plan.shape_in, plan.shape_out, strict=True)):
        if n != m:
            nearest = np.take(nearest, spline_matrix(n, m, 0).argmax(axis=1), axis=axis)
    if order == 0:
        return nearest
    best = np.full(plan.shape_out, -np.inf)
    winner = np.full(plan.shape_out, values[0], dtype=labels.dtype)
    near_score = np.full(plan.shape_out, -np.inf)
    for value in values:
        score = resample((labels == value).astype(np.float64), plan, order, order_z)
        ahead = score > best + _TIE
        winner[ahead] = value
        best[ahead] = score[ahead]
        near = nearest == value
        near_score[near] = score[near]
    return np.where(near_score >= best - _TIE, nearest, winner)


def reach(mask: np.ndarray, plan: Plan, order: int, order_z: int = 0) -> np.ndarray:
    """The voxels of a plan's input grid that a mask on its output grid is interpolated from.

    Parameters
    ----------
    mask
        bool (z, y, x) on the output grid.
    plan, order, order_z
        Of the resampling that will follow.

    Returns
    -------
    numpy.ndarray
        bool on the input grid.
    """
    result = mask.astype(np.float32)
    for axis, matrix in enumerate(matrices(plan, order, order_z)):
        result = (along(result, (np.abs(matrix) > 1e-3).T, axis) > 0).astype(np.float32)
    return np.asarray(result > 0)

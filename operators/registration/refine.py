"""Last step of a registration: mutual information of locally normalised images.

SimpleITK's optimisers can neither bound nor penalise the parameters of an affine transform, and
mutual information over a brain alone drifts to stretches of many percent without that. Here the
stretch is a small symmetric matrix with a prior: differences in scale between two acquisitions of
one head are about a percent (gradient calibration, slice spacing).

The images are first normalised to zero mean and unit deviation in a neighbourhood of each voxel,
which takes away the receive field and makes edges count rather than the brightness of regions. The
measure is Mattes mutual information with its analytic gradient (Mattes et al. 2003; Thévenaz and
Unser 2000). Everything runs in NumPy in one thread, always in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from operators.registration.linear import Matrix, index_matrix, nearest_rotation, sample
from operators.registration.settings import RegistrationSettings

_LOCAL_MM = 6.0
_LEVER_MM = 60.0
"""Turns radians and stretches into displacements at the brain's edge, so that all parameters are
millimetres."""


@dataclass(frozen=True)
class _Sampled:
    """An image prepared for sampling values and gradients at LPS points."""

    to_index: Matrix
    arrays: tuple[NDArray[np.float32], ...]
    """Values, and the derivatives along LPS x, y and z, each (z, y, x)."""

    def at(self, points: Matrix) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values (n,) and LPS gradients (3, n) at points (3, n)."""
        index = (self.to_index[:3, :3] @ points + self.to_index[:3, 3:])[::-1]
        found = [
            map_coordinates(array, index, order=1, mode="nearest", output=np.float32)
            for array in self.arrays
        ]
        return found[0], np.stack(found[1:])


def normalise_locally(image: sitk.Image) -> sitk.Image:
    """Subtract the local mean and divide by the local standard deviation (Gaussian, 6 mm)."""

    def smooth(data: sitk.Image) -> sitk.Image:
        return sitk.SmoothingRecursiveGaussian(data, _LOCAL_MM)

    mean = smooth(image)
    variance = sitk.Maximum(smooth(sitk.Square(image)) - sitk.Square(mean), 0.0)
    floor = 0.05 * float(np.std(sitk.GetArrayViewFromImage(image)))
    return sitk.Divide(image - mean, sitk.Sqrt(variance) + max(floor, 1e-6))


def refine(
    fixed: sitk.Image,
    moving: sitk.Image,
    points: Matrix,
    matrix: Matrix,
    settings: RegistrationSettings,
    *,
    stretch: bool,
) -> Matrix:
    """Improve a registration that is right to a few millimetres.

    Parameters
    ----------
    fixed, moving
        Locally normalised images.
    points
        (4, n) homogeneous LPS points of the fixed image, where the measure is taken.
    matrix
        4×4 start, fixed to moving points.
    settings
        Bins, prior and bounds of the stretch.
    stretch
        Fit the stretch too; otherwise the transform stays rigid.

    Returns
    -------
    numpy.ndarray
        4×4, fixed to moving points.
    """
    values, _ = sample(fixed, points)
    labels = _bins(values, settings.bins)
    target = _prepare(moving)
    centre = points[:3].mean(axis=1, keepdims=True)
    arms = points[:3] - centre
    origin = matrix[:3, :3] @ centre + matrix[:3, 3:]
    rotation = nearest_rotation(matrix[:3, :3])
    found, _ = target.at(origin + rotation @ arms)
    low, high = (float(v) for v in np.percentile(found, (0.5, 99.5)))
    if not high > low:
        return matrix

    def place(parameters: NDArray[np.float64]) -> tuple[Matrix, Matrix, Matrix]:
        turn = Rotation.from_rotvec(parameters[:3] / _LEVER_MM).as_matrix() @ rotation
        strain = _symmetric(parameters[6:] / _LEVER_MM) if stretch else np.zeros((3, 3))
        return turn, strain, origin + parameters[3:6, None]

    def cost(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        turn, strain, target_centre = place(parameters)
        rotated = turn @ (arms + strain @ arms)
        found, gradient = target.at(target_centre + rotated)
        information, slope = _information(labels, found, low, high, settings.bins)
        force = gradient * slope
        # d/d(rotation vector) of R(w) r is -[r]x to first order about the current turn; the left
        # Jacobian of the rotation is close to 1 for the few degrees moved here.
        change = np.empty(parameters.size)
        change[:3] = np.cross(rotated, force, axis=0).sum(axis=1) / _LEVER_MM
        change[3:6] = force.sum(axis=1)
        penalty = 0.0
        if stretch:
            back = turn.T @ force
            outer = back @ arms.T
            change[6:9] = np.diag(outer) / _LEVER_MM
            change[9:] = [
                (outer[a, b] + outer[b, a]) / _LEVER_MM for a, b in ((0, 1), (0, 2), (1, 2))
            ]
            loss, slope_of_loss = _unlikelihood(parameters[6:] / _LEVER_MM, settings)
            penalty = loss
            change[6:] -= slope_of_loss / _LEVER_MM
        return -(information - penalty), -change

    count = 12 if stretch else 6
    bound = settings.max_scale_change * _LEVER_MM
    result = minimize(
        cost,
        np.zeros(count),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-10, 10)] * 6 + [(-bound, bound)] * (count - 6),
        options={"maxiter": 40, "maxfun": 60, "ftol": 1e-7, "gtol": 1e-6},
    )
    turn, strain, target_centre = place(result.x)
    improved = np.eye(4)
    improved[:3, :3] = turn @ (np.eye(3) + strain)
    improved[:3, 3] = (target_centre - improved[:3, :3] @ centre)[:, 0]
    return improved


def _unlikelihood(
    six: NDArray[np.float64], settings: RegistrationSettings
) -> tuple[float, NDArray[np.float64]]:
    """Negative logarithm, per effective sample, of the prior of a stretch, and its slope."""
    counts = np.array([1.0, 1, 1, 2, 2, 2])
    weight = 1 / (settings.effective_samples * settings.scale_deviation**2)
    return 0.5 * weight * float((counts * six**2).sum()), weight * counts * six


def _symmetric(six: NDArray[np.float64]) -> Matrix:
    xx, yy, zz, xy, xz, yz = six
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def _prepare(image: sitk.Image) -> _Sampled:
    array = np.asarray(sitk.GetArrayFromImage(image), dtype=np.float32)
    spacing = np.asarray(image.GetSpacing())
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    z, y, x = np.gradient(array, *(float(s) for s in spacing[::-1]))
    lps = np.tensordot(direction.astype(np.float32), np.stack((x, y, z)), axes=1)
    return _Sampled(index_matrix(image), (array, lps[0], lps[1], lps[2]))


def _bins(values: NDArray[np.float32], bins: int) -> NDArray[np.int64]:
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = (values - low) * (bins / max(float(high - low), 1e-6))
    return np.asarray(np.clip(scaled, 0, bins - 1), dtype=np.int64)


def _information(
    labels: NDArray[np.int64],
    values: NDArray[np.float32],
    low: float,
    high: float,
    bins: int,
) -> tuple[float, NDArray[np.float64]]:
    """Mutual information in nats and its derivative by each value (cubic B-spline windows)."""
    step = (high - low) / bins
    place = (np.clip(values.astype(np.float64), low, high) - low) / step + 1.0
    clipped = (values <= low) | (values >= high)
    first = np.floor(place).astype(np.int64) - 1
    width = bins + 4
    joint = np.zeros(bins * width)
    slopes = []
    for tap in range(4):
        distance = place - (first + tap)
        size = np.abs(distance)
        near = size < 1
        weight = np.where(near, (4 - 6 * size**2 + 3 * size**3) / 6, (2 - size).clip(0) ** 3 / 6)
        slope = np.where(near, 1.5 * size**2 - 2 * size, -0.5 * (2 - size).clip(0) ** 2)
        slopes.append(slope * np.sign(distance))
        cell = labels * width + first + tap
        joint += np.bincount(cell, weights=weight, minlength=joint.size)
    joint = joint.reshape(bins, width) / values.size
    by_fixed = joint.sum(axis=1, keepdims=True)
    by_moving = joint.sum(axis=0, keepdims=True)
    safe = np.maximum(joint, 1e-12)
    ratio = np.log(safe / np.maximum(by_moving, 1e-12))
    information = float((joint * (ratio - np.log(np.maximum(by_fixed, 1e-12)))).sum())
    derivative = np.zeros(values.size)
    for tap in range(4):
        derivative += slopes[tap] * ratio[labels, first + tap]
    derivative[clipped] = 0.0
    return information, derivative / (step * values.size)

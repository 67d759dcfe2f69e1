"""Parts shared by the linear registrations: images in a coarser grid, starts, optimisation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from operators.registration.settings import RegistrationSettings
from operators.registration.similarity import normalised_mutual_information

Matrix = NDArray[np.float64]


def coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Smooth in millimetres and resample to about ``spacing_mm``, leaving coarser axes alone.

    An axis that is already as coarse (3 mm slices) is neither smoothed nor resampled, so that a 2D
    acquisition does not lose the little resolution that it has.
    """
    spacing = np.asarray(image.GetSpacing())
    size = np.asarray(image.GetSize())
    target = np.maximum(spacing, spacing_mm)
    sigma = 0.42 * np.sqrt(np.maximum(target**2 - spacing**2, 0.0))
    smooth = sitk.Cast(image, sitk.sitkFloat32)
    for axis in range(3):
        if sigma[axis] > 0 and size[axis] >= 4:
            smooth = sitk.RecursiveGaussian(smooth, float(sigma[axis]), direction=axis)
    new_size = np.maximum(1, np.floor(size * spacing / target + 1e-6)).astype(int)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    shift = ((size - 1) * spacing - (new_size - 1) * target) / 2
    origin = np.asarray(image.GetOrigin()) + direction @ shift
    return sitk.Resample(
        smooth,
        [int(n) for n in new_size],
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        target.tolist(),
        image.GetDirection(),
        0.0,
        sitk.sitkFloat32,
    )


def index_matrix(image: sitk.Image) -> Matrix:
    """4×4 from LPS points to the image's continuous (x, y, z) indices."""
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = direction * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return np.asarray(np.linalg.inv(matrix))


def points_of(image: sitk.Image, mask: NDArray[np.bool_]) -> Matrix:
    """LPS points (4, n), homogeneous, of the voxels where ``mask`` (z, y, x) is true."""
    index = np.argwhere(mask)[:, ::-1]
    homogeneous = np.vstack([index.T, np.ones(len(index))])
    return np.asarray(np.linalg.inv(index_matrix(image)) @ homogeneous)


def sample(image: sitk.Image, points: Matrix) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Linear interpolation at LPS points (4, n), and which of them lie inside the image."""
    array = sitk.GetArrayViewFromImage(image)
    index = (index_matrix(image) @ points)[:3]
    size = np.asarray(image.GetSize())[:, None]
    inside = np.all((index >= -0.5) & (index <= size - 0.5), axis=0)
    values = map_coordinates(array, index[::-1], order=1, mode="nearest", output=np.float32)
    return values, inside


def rotation_matrix(degrees: tuple[float, float, float]) -> Matrix:
    """3×3 rotation about x, then y, then z, in degrees."""
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*(float(np.deg2rad(angle)) for angle in degrees))
    return np.asarray(transform.GetMatrix(), dtype=float).reshape(3, 3)


def about(centre: Matrix, rotation: Matrix, target: Matrix) -> Matrix:
    """4×4 that rotates about ``centre`` and takes it to ``target``."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = target - rotation @ centre
    return matrix


def nearest_rotation(linear: Matrix) -> Matrix:
    """The rotation closest to a 3×3 matrix (polar decomposition)."""
    left, _, right = np.linalg.svd(linear)
    sign = np.sign(np.linalg.det(left @ right))
    return np.asarray(left @ np.diag([1.0, 1.0, sign]) @ right)


def like(mask: sitk.Image, reference: sitk.Image) -> sitk.Image:
    """A mask resampled onto a grid, by nearest neighbour."""
    return sitk.Resample(mask, reference, sitk.Transform(), sitk.sitkNearestNeighbor)


def rigid_about(matrix: Matrix, centre: Matrix) -> sitk.Euler3DTransform:
    """A rigid transform, turning about ``centre``, that equals a rigid 4×4 matrix."""
    return _with_matrix(sitk.Euler3DTransform(), matrix, centre)


def similarity_about(matrix: Matrix, centre: Matrix) -> sitk.Similarity3DTransform:
    """The same with one scale for all axes."""
    return _with_matrix(sitk.Similarity3DTransform(), matrix, centre)


def affine_about(matrix: Matrix, centre: Matrix) -> sitk.AffineTransform:
    """The same for any affine matrix."""
    return _with_matrix(sitk.AffineTransform(3), matrix, centre)


def _with_matrix(transform: sitk.Transform, matrix: Matrix, centre: Matrix) -> sitk.Transform:
    transform.SetCenter(centre.tolist())
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((matrix[:3, :3] @ centre + matrix[:3, 3] - centre).tolist())
    return transform


def optimise(
    fixed: sitk.Image,
    moving: sitk.Image,
    fixed_mask: sitk.Image,
    transform: sitk.Transform,
    settings: RegistrationSettings,
    *,
    iterations: int,
    first_step_mm: float,
    last_step_mm: float,
    correlation: bool = False,
) -> tuple[sitk.Transform, float]:
    """Maximise the agreement of two images by regular-step gradient ascent.

    The measure is Mattes mutual information (Mattes et al. 2003) or squared correlation. Samples
    are drawn with the settings' seed. SimpleITK's threads would add them in an order that changes
    from run to run, so that each registration runs in one thread; several registrations may run at
    the same time, SimpleITK releases Python's lock.

    Parameters
    ----------
    fixed, moving
        Images, float32.
    fixed_mask
        uint8 on ``fixed``'s grid: where the measure is taken.
    transform
        Start, fixed points to moving points; changed in place.
    settings
        Seed, bins and number of samples.
    iterations
        At most so many.
    first_step_mm, last_step_mm
        Length of the first step, and the length under which the search ends.
    correlation
        Use the correlation instead of mutual information.

    Returns
    -------
    tuple
        The transform and the measure it reaches (higher is better).
    """
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    if correlation:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(settings.bins)
    method.SetMetricFixedMask(fixed_mask)
    voxels = int(sitk.GetArrayViewFromImage(fixed_mask).sum())
    if voxels > settings.samples:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(settings.samples / voxels, settings.seed)
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=first_step_mm,
        minStep=last_step_mm,
        numberOfIterations=iterations,
        relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform, -float(method.GetMetricValue())


def best_start(
    points: Matrix,
    values: NDArray[np.float32],
    moving: sitk.Image,
    candidates: Iterable[Matrix],
    count: int,
    min_inside: float = 0.5,
) -> list[Matrix]:
    """The ``count`` candidate matrices with the highest normalised mutual information.

    Parameters
    ----------
    points
        (4, n) LPS points of the fixed image.
    values
        (n,) the fixed image there.
    moving
        The moving image, coarse.
    candidates
        4×4 matrices, fixed points to moving points.
    count
        How many to return, best first.
    min_inside
        A candidate that leaves a smaller part of the points inside the moving image is dropped.
    """
    scored = []
    for number, matrix in enumerate(candidates):
        sampled, inside = sample(moving, matrix @ points)
        if inside.mean() < min_inside:
            continue
        score = normalised_mutual_information(values[inside], sampled[inside], bins=24)
        scored.append((-score, number, matrix))
    scored.sort(key=lambda item: item[:2])
    return [matrix for _, _, matrix in scored[:count]]

"""The same head scanned again: a rigid motion, another grid, another bias field, more noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.change.generator.plant import Painted, plant
from model_tools.change.generator.scans import Matrix, Scan
from model_tools.train.resample import noise_field
from operators.geometry import affine_transform, from_sitk, to_sitk

MAX_TURN_DEG = 10.0
MAX_SHIFT_MM = 15.0
MAX_OBLIQUE_DEG = 5.0
"""How much the second examination's slices are turned against the first one's, in the head."""
BIAS = (0.03, 0.10)
"""Range of the standard deviation of the bias field's logarithm."""


@dataclass(frozen=True)
class Retest:
    """A made second examination of a scan.

    Attributes
    ----------
    volumes
        By role, float32 whole numbers as stored pixels are.
    flair_to
        By role: FLAIR points to points of that image.
    motion
        4x4: points of the scan's FLAIR to points of this FLAIR, the truth of the registration.
    noise
        By role: standard deviation of the added noise, in the scan's units.
    """

    volumes: Mapping[str, hd.Volume]
    flair_to: Mapping[str, Matrix]
    motion: Matrix
    noise: Mapping[str, float]


def noise_level(volume: hd.Volume, inside: NDArray[np.bool_]) -> float:
    """Standard deviation of an image's noise: robustly, from what a small in-plane Gaussian
    (1.5 pixels) takes away inside a mask of plain tissue on the image's grid."""
    array = np.asarray(volume.array, dtype=np.float32)
    thick = int(np.argmax(volume.spacing))
    sigma = [0.0 if axis == thick else 1.5 for axis in range(3)]
    rest = (array - ndimage.gaussian_filter(array, sigma))[inside]
    spread = float(np.median(np.abs(rest - np.median(rest))) * 1.4826)
    # The Gaussian keeps 1/(4 pi 1.5^2) of the noise's variance, and as much again of covariance.
    return spread / float(np.sqrt(1 - 2 / (2 * np.pi * 1.5**2) + 1 / (4 * np.pi * 1.5**2)))


def random_rigid(
    rng: np.random.Generator, centre: NDArray[np.float64], turn_deg: float, shift_mm: float
) -> Matrix:
    """A rotation about a point by up to ``turn_deg`` about a random axis, and a shift of up to
    ``shift_mm`` in a random direction, 4x4."""
    axis = rng.standard_normal(3)
    angle = np.radians(rng.uniform(0.2, 1.0) * turn_deg)
    transform = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), float(angle))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    shift = rng.standard_normal(3)
    shift *= rng.uniform(0.2, 1.0) * shift_mm / np.linalg.norm(shift)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift
    return matrix


def centre_of(volume: hd.Volume) -> NDArray[np.float64]:
    """Centre of a volume, LPS millimetres."""
    middle = [*((np.asarray(volume.spatial_shape) - 1) / 2), 1.0]
    return np.asarray((np.asarray(volume.affine) @ middle)[:3])


def second_examination(
    scan: Scan, rng: np.random.Generator, lesions: Sequence[Painted] = ()
) -> Retest:
    """Scan the same head again.

    The head is moved; each sequence gets a grid of its own that follows the head but for up to 5
    degrees, half a slice and a tenth in pixel size; the image is interpolated onto it with cubic
    B-splines; lesions are painted with the partial volume of the new slices; then come a smooth
    bias field, another gain and noise (Rician) as strong as the scan's own. What lies outside the
    scan's field of view is 0.

    Parameters
    ----------
    scan
        The real study.
    rng
        Source of chance; the same state gives the same images.
    lesions
        To be painted, in FLAIR millimetres of ``scan``.
    """
    motion = random_rigid(rng, centre_of(scan.volumes["flair"]), MAX_TURN_DEG, MAX_SHIFT_MM)
    back = np.linalg.inv(motion)
    volumes, flair_to, noise = {}, {}, {}
    for role, volume in scan.volumes.items():
        oblique = random_rigid(
            rng, centre_of(volume), MAX_OBLIQUE_DEG, float(max(volume.spacing)) / 2
        )
        finer = rng.uniform(0.95, 1.1)
        grid = _turned_grid(volume, motion @ oblique, finer)
        resampled = sitk.Resample(
            to_sitk(volume), to_sitk(grid), affine_transform(back), sitk.sitkBSpline, 0.0
        )
        image = from_sitk(resampled)
        image = image.with_array(np.maximum(image.array, 0).astype(np.float32))
        to_role = np.asarray(scan.flair_to[role])
        white = scan.tissue.grid.with_array(scan.tissue.white[role])
        image = plant(image, role, lesions, white, motion @ to_role, np.linalg.inv(to_role) @ back)
        noise[role] = noise_level(volume, _plain(scan, role))
        volumes[role] = _degraded(image, noise[role], rng)
        flair_to[role] = motion @ to_role @ back
    return Retest(volumes, flair_to, motion, noise)


def _turned_grid(volume: hd.Volume, matrix: Matrix, finer: float) -> hd.Volume:
    """The volume's grid moved by ``matrix``, with in-plane pixels ``finer`` times as large."""
    thick = int(np.argmax(volume.spacing))
    scale = np.diag([1.0 if a == thick else finer for a in range(3)])
    affine = matrix @ np.asarray(volume.affine)
    middle = (np.asarray(volume.spatial_shape) - 1) / 2
    centre = affine[:3, :3] @ middle + affine[:3, 3]
    affine[:3, :3] = affine[:3, :3] @ scale
    affine[:3, 3] = centre - affine[:3, :3] @ middle
    return hd.Volume(
        np.zeros(volume.spatial_shape, np.uint8), affine=affine, coordinate_system="PATIENT"
    )


def _plain(scan: Scan, role: str) -> NDArray[np.bool_]:
    """Normal-appearing white matter on a sequence's own grid."""
    volume = scan.volumes[role]
    to_index = (
        np.linalg.inv(np.asarray(scan.tissue.grid.affine))
        @ np.linalg.inv(np.asarray(scan.flair_to[role]))
        @ np.asarray(volume.affine)
    )
    return np.asarray(
        ndimage.affine_transform(
            scan.tissue.free.astype(np.uint8),
            to_index[:3, :3],
            to_index[:3, 3],
            output_shape=volume.spatial_shape,
            order=0,
        )
        > 0
    )


def _degraded(image: hd.Volume, noise: float, rng: np.random.Generator) -> hd.Volume:
    shape = image.spatial_shape
    mm = [max(2, round(n * s)) for n, s in zip(shape, image.spacing, strict=True)]
    coarse = noise_field(rng, tuple(max(4, round(n / 8)) for n in mm), rng.uniform(60, 110) / 8)
    zoom = [n / m for n, m in zip(shape, coarse.shape[1:], strict=True)]
    field = ndimage.zoom(coarse[0].numpy(), zoom, order=1, grid_mode=False)
    bias = np.exp(rng.uniform(*BIAS) * field)
    gain = float(np.exp(rng.uniform(np.log(0.8), np.log(1.25))))
    real = image.array * bias + noise * rng.standard_normal(shape, dtype=np.float32)
    imaginary = noise * rng.standard_normal(shape, dtype=np.float32)
    head = image.array > 0
    magnitude = np.where(head, np.sqrt(real**2 + imaginary**2), np.abs(imaginary))
    return image.with_array(np.rint(gain * magnitude).astype(np.float32))

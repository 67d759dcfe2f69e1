"""Scanning the head: grids, head poses, slice profiles, coil sensitivity and noise.

Frames: a *pose* is the 4×4 LPS matrix that maps points of the anatomy's frame to points of the
scanner's frame while one sequence runs. A scanned volume has the axes of a DICOM series read with
highdicom: slices, rows, columns, in a right-handed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import highdicom as hd
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from demo.anatomy import Anatomy, FloatArray, TissueIntensity, signal
from demo.lesions import PlantedLesion

Matrix = npt.NDArray[np.float64]
Plane = Literal["axial", "sagittal", "coronal"]

_PER_SLICE = 6
_PROFILE = np.array([0.25, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.25])
"""Weights of the sub-slices, six of which are one slice apart: profiles of neighbours add to 1."""
_IN_PLANE = 3
_THICK_MM = 1.5
"""Thinner slices are sampled at their centre, as the anatomy itself has voxels of 1 mm."""


@dataclass(frozen=True)
class Contrast:
    """A sequence's physics as far as headers and signals need it."""

    name: str
    tissue: TissueIntensity
    repetition_time_ms: float
    echo_time_ms: float
    inversion_time_ms: float | None
    flip_angle_deg: float
    echo_train_length: int


@dataclass(frozen=True)
class Prescription:
    """The slices asked for."""

    plane: Plane
    rows: int
    columns: int
    slices: int
    row_spacing_mm: float
    """Between rows, the first value of Pixel Spacing."""
    column_spacing_mm: float
    slice_spacing_mm: float
    tilt_deg: tuple[float, float, float]
    """Rotations about L, P and S that make the slices oblique."""
    centre_lps_mm: tuple[float, float, float]
    """Centre of the stack in the scanner's frame."""
    three_d: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return (self.slices, self.rows, self.columns)

    def affine(self) -> Matrix:
        """4×4, indices (slice, row, column) to the scanner's LPS millimetres."""
        along_row, along_column = {
            "axial": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
            "sagittal": ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
            "coronal": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0)),
        }[self.plane]
        turn = Rotation.from_euler("xyz", self.tilt_deg, degrees=True).as_matrix()
        row = turn @ np.asarray(along_row)
        column = turn @ np.asarray(along_column)
        matrix = np.eye(4)
        matrix[:3, 0] = np.cross(column, row) * self.slice_spacing_mm
        matrix[:3, 1] = column * self.row_spacing_mm
        matrix[:3, 2] = row * self.column_spacing_mm
        middle = (np.asarray(self.shape) - 1) / 2.0
        matrix[:3, 3] = np.asarray(self.centre_lps_mm) - matrix[:3, :3] @ middle
        return matrix


@dataclass(frozen=True)
class Acquisition:
    """One scanned series."""

    role: str
    contrast: Contrast
    prescription: Prescription
    pose: Matrix
    """Anatomy's frame to the scanner's frame during this sequence."""
    volume: hd.Volume
    """uint16 over (slices, rows, columns)."""


def rigid(
    rotation_deg: tuple[float, float, float],
    translation_mm: tuple[float, float, float],
    centre_mm: tuple[float, float, float] = (0.0, 20.0, 0.0),
) -> Matrix:
    """4×4 rotation about a centre, about L, then P, then S, followed by a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation_deg, degrees=True).as_matrix()
    centre = np.asarray(centre_mm)
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + np.asarray(translation_mm)
    return matrix


def head_image(anatomy: Anatomy, contrast: Contrast) -> sitk.Image:
    """The head without lesions in one contrast, float32 in the anatomy's frame."""
    image = sitk.GetImageFromArray(signal(anatomy, contrast.tissue).transpose(2, 1, 0))
    image.SetOrigin(anatomy.origin.tolist())
    return image


def scan(
    head: sitk.Image,
    lesions: Sequence[tuple[PlantedLesion, float]],
    contrast: Contrast,
    prescription: Prescription,
    pose: Matrix,
    *,
    noise: float,
    gain: float,
    rng: np.random.Generator,
    frame_of_reference_uid: str,
) -> hd.Volume:
    """Scan the head in one sequence.

    Parameters
    ----------
    head
        Signal without lesions in the anatomy's frame (``head_image``).
    lesions
        Each lesion present and its volume in mm³ at the time.
    contrast, prescription, pose
        The sequence, its slices and where the head is.
    noise
        Standard deviation of the noise of each channel before magnitude (Rician noise).
    gain
        Factor from signal to stored value.
    rng
        For bias field and noise.
    frame_of_reference_uid
        The study's.

    Returns
    -------
    highdicom.Volume
        uint16 over (slices, rows, columns).
    """
    affine = prescription.affine()
    image = _sample(head, prescription, affine, pose)
    for lesion, volume_mm3 in lesions:
        found = lesion_fraction(lesion, volume_mm3, affine, prescription.shape, pose, profile=True)
        if found is None:
            continue
        box, fraction = found
        tissue = contrast.tissue
        core = tissue.white_matter + lesion.brightness * (tissue.lesion - tissue.white_matter)
        image[box] = (1.0 - fraction) * image[box] + fraction * core
    image *= gain * _bias_field(prescription, affine, rng)
    image += noise * gain * rng.standard_normal(image.shape, dtype=np.float32)
    other = noise * gain * rng.standard_normal(image.shape, dtype=np.float32)
    np.hypot(image, other, out=image)
    return hd.Volume(
        np.rint(np.clip(image, 0.0, 4095.0)).astype(np.uint16),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )


def _sample(
    head: sitk.Image, prescription: Prescription, affine: Matrix, pose: Matrix
) -> FloatArray:
    """The head averaged over each slice's profile."""
    thick = prescription.slice_spacing_mm > _THICK_MM
    steps = _PER_SLICE if thick else 1
    taps = len(_PROFILE) if thick else 1
    fine = affine.copy()
    fine[:3, 0] /= steps
    # Sub-slice 0 of slice 0 lies half the profile before the slice's centre.
    fine[:3, 3] -= fine[:3, 0] * (taps - 1) / 2.0
    count = (prescription.slices - 1) * steps + taps
    to_anatomy = np.linalg.inv(pose) @ fine
    shape = (count, prescription.rows, prescription.columns)
    sub = _resample_indices(head, to_anatomy, shape)
    if not thick:
        return sub
    windows = np.lib.stride_tricks.sliding_window_view(sub, taps, axis=0)[::steps]
    weights = (_PROFILE / _PROFILE.sum()).astype(np.float32)
    return np.asarray(windows @ weights, np.float32)


def _resample_indices(source: sitk.Image, matrix: Matrix, shape: Sequence[int]) -> FloatArray:
    """Linear interpolation of an image at ``matrix @ (i, j, k, 1)``, any 4×4 matrix."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    reference = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    result = sitk.Resample(source, reference, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.ascontiguousarray(sitk.GetArrayFromImage(result).transpose(2, 1, 0))


def lesion_fraction(
    lesion: PlantedLesion,
    volume_mm3: float,
    affine: Matrix,
    shape: tuple[int, int, int],
    pose: Matrix,
    *,
    profile: bool,
) -> tuple[tuple[slice, slice, slice], FloatArray] | None:
    """How much of each voxel near a lesion is lesion.

    Parameters
    ----------
    lesion, volume_mm3
        The lesion and its volume at the time.
    affine, shape
        The grid: (slice, row, column) to scanner LPS, and its size.
    pose
        Anatomy's frame to the scanner's.
    profile
        True weights the sub-slices by the slice profile (what the scanner sees); False gives the
        share of the voxel's box.

    Returns
    -------
    tuple or None
        The box of voxels and float32 fractions in it; None outside the grid or at no volume.
    """
    if volume_mm3 <= 0.0:
        return None
    centre = pose @ np.append(lesion.centre_lps_mm, 1.0)
    index = np.linalg.solve(affine, centre)[:3]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    reach = (lesion.reach_mm(volume_mm3) + 0.5) / spacing + np.array([1.2, 0.5, 0.5])
    low = np.maximum(np.floor(index - reach).astype(int), 0)
    high = np.minimum(np.ceil(index + reach).astype(int) + 1, shape)
    if np.any(low >= high):
        return None
    thick = spacing[0] > _THICK_MM
    per_slice = _PER_SLICE if thick else _IN_PLANE
    weights = _PROFILE if profile and thick else np.ones(per_slice)
    weights = weights / weights.sum()
    along_slice = (np.arange(len(weights)) - (len(weights) - 1) / 2.0) / per_slice
    in_plane = (np.arange(_IN_PLANE) - (_IN_PLANE - 1) / 2.0) / _IN_PLANE
    axes = [
        (np.arange(low[0], high[0])[:, None] + along_slice).ravel(),
        (np.arange(low[1], high[1])[:, None] + in_plane).ravel(),
        (np.arange(low[2], high[2])[:, None] + in_plane).ravel(),
    ]
    a, b, c = np.ix_(*axes)
    to_anatomy = np.linalg.inv(pose) @ affine
    points = np.empty((a.size * b.size * c.size, 3))
    for n in range(3):
        along = to_anatomy[n]
        points[:, n] = (along[0] * a + along[1] * b + (along[2] * c + along[3])).ravel()
    size = high - low
    inside = lesion.contains(points, volume_mm3).reshape(
        size[0], len(weights), size[1], _IN_PLANE, size[2], _IN_PLANE
    )
    fraction = np.einsum("atrbsc,t->ars", inside.astype(np.float32), weights) / _IN_PLANE**2
    box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return box, fraction.astype(np.float32)


def _bias_field(prescription: Prescription, affine: Matrix, rng: np.random.Generator) -> FloatArray:
    """Smooth receive sensitivity over the grid: a random quadratic of about ±15 %."""
    axes = [np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in prescription.shape]
    a, b, c = np.ix_(*axes)
    slopes = rng.uniform(-0.07, 0.07, 3)
    bowl = rng.uniform(-0.04, 0.10, 3)
    field = 1.0 + slopes[0] * a + slopes[1] * b + slopes[2] * c
    return np.asarray(field + bowl[0] * a**2 + bowl[1] * b**2 + bowl[2] * c**2, np.float32)

"""Brain mask of a FLAIR: an affine match of the ICBM template, then a fit of its surface.

The template is given the contrast of a FLAIR from its tissue maps and matched to the head by
correlation, then by mutual information. Its surface is then moved to the edge of the brain
(``surface.py``). Only the FLAIR is used, so that every study has its mask made in the same way,
whatever other series it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, label

from operators.errors import InputError
from operators.geometry import affine_transform, matrix_of, to_sitk
from operators.registration.linear import (
    Matrix,
    about,
    affine_about,
    best_start,
    coarser,
    like,
    optimise,
    points_of,
    rotation_matrix,
    sample,
    similarity_about,
)
from operators.registration.settings import RegistrationSettings
from operators.registration.surface import fit_surface
from operators.registration.template import load_template

_LEAST_VOXELS = 8
_VERTEX_TO_CENTRE_MM = 75.0
_TYPICAL_SCALE = 0.94
"""Of a brain to the ICBM template, which is larger than the average brain."""
_RING_MM = 8
"""How far outside the template's brain the match also looks."""
_GRID_MM = 2.0
_FIELD_SMOOTHING_MM = 15.0


@dataclass(frozen=True)
class BrainMask:
    """A brain mask and what the match with the template says about it."""

    mask: hd.Volume
    """bool on the FLAIR's grid."""
    template_to_flair: Matrix
    """float64 (4, 4) affine: FLAIR points to points of the ICBM template, LPS."""
    template_similarity: float
    """Correlation of the FLAIR with the template's FLAIR contrast, in and around the brain."""
    volume_ml: float
    cut_fraction: float
    """Part of the template's brain that lies outside the FLAIR's field of view."""


def find_brain(flair: hd.Volume, settings: RegistrationSettings, subject: str) -> BrainMask:
    """Find the brain in a FLAIR of a head.

    Parameters
    ----------
    flair
        FLAIR, any orientation and spacing, one number per voxel.
    settings
        The stage's settings.
    subject
        What to call the series in an error.

    Raises
    ------
    InputError
        If the image holds nothing, or nothing like a brain.
    """
    array = flair.array
    if not np.isfinite(array).all() or not array.max() > array.min():
        raise InputError(
            subject,
            "A FLAIR must have finite and varying pixel values.",
            "Export the series again.",
        )
    if min(flair.spatial_shape) < _LEAST_VOXELS:
        raise InputError(
            subject,
            f"A FLAIR must have at least {_LEAST_VOXELS} voxels along every axis.",
            "Give a FLAIR that covers the brain.",
        )
    image = to_sitk(flair)
    match = match_template(image, settings)
    if match is None:
        raise InputError(
            subject,
            "The field of view holds less than half of a brain.",
            "Give a FLAIR that covers the brain.",
        )
    matrix, similarity, fine = match
    if similarity < settings.min_template_similarity:
        raise InputError(
            subject,
            f"No brain was found (likeness with the ICBM template {similarity:.2f}, at least "
            f"{settings.min_template_similarity:.2f} is needed).",
            "Check that the series is a FLAIR of the head, not localiser or damaged pixels.",
        )
    template = load_template()
    grid = _cube_grid(image, _GRID_MM)
    soft = sitk.Resample(
        to_sitk(template.mask),
        grid,
        affine_transform(matrix),
        sitk.sitkLinear,
        0.0,
        sitk.sitkFloat32,
    )
    field = fit_surface(soft, relative_brightness(fine, soft))
    field = sitk.Resample(field, image, sitk.Transform(), sitk.sitkLinear, 1e3)
    mask = _one_piece(sitk.GetArrayFromImage(field).transpose(2, 1, 0) < 0)
    if not mask.any():
        raise InputError(
            subject,
            "No brain was found.",
            "Check that the series is a FLAIR of the head, not localiser or damaged pixels.",
        )
    coarse_brain = coarser(to_sitk(template.mask), 8.0)
    brain_points = points_of(coarse_brain, sitk.GetArrayViewFromImage(coarse_brain) > 0.5)
    _, inside = sample(image, np.linalg.inv(matrix) @ brain_points)
    return BrainMask(
        mask=flair.with_array(mask),
        template_to_flair=matrix,
        template_similarity=similarity,
        volume_ml=float(mask.sum() * np.prod(flair.spacing) / 1000),
        cut_fraction=float(1 - inside.mean()),
    )


def match_template(
    flair: sitk.Image, settings: RegistrationSettings
) -> tuple[Matrix, float, sitk.Image] | None:
    """Match the ICBM template to the FLAIR of a head.

    Returns
    -------
    tuple or None
        None when less than half of the template fits into the field of view; otherwise the 4×4
        affine from FLAIR points to template points (LPS); correlation of the FLAIR with the
        template's FLAIR contrast; and the FLAIR at about 2 mm.
    """
    template = load_template()
    expected = coarser(to_sitk(template.flair), 4.0)
    brain = to_sitk(template.mask, np.uint8)

    fixed = coarser(expected, 8.0)
    fixed_mask = _ring(brain, fixed)
    points = points_of(fixed, sitk.GetArrayViewFromImage(fixed_mask) > 0)
    values, _ = sample(fixed, points)
    centre = points[:3].mean(axis=1)

    fine = coarser(flair, _GRID_MM)
    raw = coarser(fine, 8.0)
    starts = best_start(points, values, raw, _starts(raw, centre), 1)
    if not starts:
        return None
    core = points[:, np.linalg.norm(points[:3] - centre[:, None], axis=0) < 45]
    level = float(np.median(sample(raw, starts[0] @ core)[0]))
    folded = fold_bright(fine, 1.4 * level)
    moving = coarser(folded, 8.0)

    best: tuple[Matrix, float] | None = None
    for start in best_start(points, values, moving, _starts(raw, centre), 3):
        transform, value = optimise(
            fixed,
            moving,
            fixed_mask,
            similarity_about(start, centre),
            settings,
            iterations=60,
            first_step_mm=4.0,
            last_step_mm=0.1,
            correlation=True,
        )
        if best is None or value > best[1]:
            best = matrix_of(transform), value
    assert best is not None
    matrix = best[0]

    for spacing, correlation in ((6.0, True), (4.0, False)):
        fixed = coarser(expected, spacing)
        fixed_mask = _ring(brain, fixed)
        moving = coarser(folded, spacing)
        transform, _ = optimise(
            fixed,
            moving,
            fixed_mask,
            affine_about(matrix, centre),
            settings,
            iterations=80,
            first_step_mm=1.0,
            last_step_mm=0.02,
            correlation=correlation,
        )
        matrix = matrix_of(transform)

    points = points_of(fixed, sitk.GetArrayViewFromImage(fixed_mask) > 0)
    values, _ = sample(fixed, points)
    found, inside = sample(moving, matrix @ points)
    similarity = 0.0
    if inside.sum() > 100 and found[inside].std() > 0:
        similarity = float(np.corrcoef(values[inside], found[inside])[0, 1])
    return np.asarray(np.linalg.inv(matrix)), similarity, fine


def _ring(brain: sitk.Image, grid: sitk.Image) -> sitk.Image:
    """uint8 on the grid: the template's brain and a ring around it."""
    radius = [max(1, round(_RING_MM / spacing)) for spacing in grid.GetSpacing()]
    return sitk.BinaryDilate(like(brain, grid), radius)


def fold_bright(image: sitk.Image, top: float) -> sitk.Image:
    """Mirror intensities above ``top`` downwards, so that fat, brighter than brain, turns dark."""
    array = sitk.GetArrayFromImage(image)
    folded = np.where(array > top, np.maximum(2 * top - array, 0), array).astype(np.float32)
    result = sitk.GetImageFromArray(folded)
    result.CopyInformation(image)
    return result


def relative_brightness(flair: sitk.Image, brain: sitk.Image) -> sitk.Image:
    """The FLAIR divided by the local brightness of brain tissue.

    Parameters
    ----------
    flair
        FLAIR of a head at about 2 mm.
    brain
        Soft brain mask in [0, 1] on a 2 mm grid that covers the FLAIR.
    """
    depth = sitk.SignedMaurerDistanceMap(
        brain > 0.5, insideIsPositive=True, squaredDistance=False, useImageSpacing=True
    )
    values = sitk.GetArrayFromImage(
        sitk.Resample(flair, brain, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    )
    core = (sitk.GetArrayViewFromImage(depth) > 5) & (values > 0)
    if not core.any():
        core = values > 0
    typical = float(np.median(values[core]))
    core &= (values > 0.6 * typical) & (values < 1.5 * typical)

    def spread(data: NDArray[np.float32]) -> NDArray[np.float32]:
        image = sitk.GetImageFromArray(data.astype(np.float32))
        image.CopyInformation(brain)
        smooth = sitk.SmoothingRecursiveGaussian(image, _FIELD_SMOOTHING_MM)
        return np.asarray(sitk.GetArrayFromImage(smooth), dtype=np.float32)

    level = (spread(values * core) + 1e-3 * typical) / (spread(core.astype(np.float32)) + 1e-3)
    field = sitk.GetImageFromArray(level)
    field.CopyInformation(brain)
    field = sitk.Resample(
        field, flair, sitk.Transform(), sitk.sitkLinear, typical, sitk.sitkFloat32
    )
    return sitk.Divide(flair, sitk.Maximum(field, 1e-6))


def head_of(image: sitk.Image) -> NDArray[np.bool_]:
    """Foreground (z, y, x) of a coarse head image: brighter than half of Otsu's threshold."""
    threshold = sitk.OtsuThresholdImageFilter()
    threshold.Execute(image)
    return np.asarray(sitk.GetArrayViewFromImage(image) > threshold.GetThreshold() / 2)


def _starts(coarse: sitk.Image, centre: Matrix) -> Iterator[Matrix]:
    """Places where the brain may lie, below the vertex of the head, and ways it may be turned."""
    head = points_of(coarse, head_of(coarse))[:3]
    top = float(np.percentile(head[2], 99.5))
    upper = head[:, head[2] > top - 120]
    base = np.array([upper[0].mean(), upper[1].mean(), top - _VERTEX_TO_CENTRE_MM])
    for x, y, z, pitch, yaw in product(
        (-10, 10), (-15, 0, 15), (-30, -15, 0, 15, 30), (-20, 0, 20), (-15, 0, 15)
    ):
        turn = _TYPICAL_SCALE * rotation_matrix((pitch, 0, yaw))
        yield about(centre, turn, base + np.array([x, y, z], dtype=float))


def _cube_grid(image: sitk.Image, spacing_mm: float, margin: int = 6) -> sitk.Image:
    """An empty image with cubic voxels that covers ``image`` and ``margin`` voxels around it."""
    spacing = np.asarray(image.GetSpacing())
    size = np.asarray(image.GetSize())
    count = np.ceil(size * spacing / spacing_mm).astype(int) + 2 * margin
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    shift = ((size - 1) * spacing - (count - 1) * spacing_mm) / 2
    grid = sitk.Image([int(n) for n in count], sitk.sitkUInt8)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetOrigin((np.asarray(image.GetOrigin()) + direction @ shift).tolist())
    grid.SetDirection(image.GetDirection())
    return grid


def _one_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without small pieces (under 2 % of the largest) and without holes."""
    pieces, count = label(mask)
    if count > 1:
        sizes = np.bincount(pieces.ravel())[1:]
        keep = np.flatnonzero(sizes >= 0.02 * sizes.max()) + 1
        mask = np.isin(pieces, keep)
    return np.asarray(binary_fill_holes(mask))

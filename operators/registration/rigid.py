"""Registration of two images of one head, and whether its result can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from operators.geometry import matrix_of, to_sitk
from operators.messages import Registration
from operators.registration.brain_mask import head_of
from operators.registration.linear import (
    Matrix,
    about,
    best_start,
    coarser,
    like,
    nearest_rotation,
    optimise,
    points_of,
    rigid_about,
    rotation_matrix,
    sample,
)
from operators.registration.refine import normalise_locally, refine
from operators.registration.settings import RegistrationSettings
from operators.registration.similarity import normalised_mutual_information

_BRAIN_MARGIN_MM = 3.0
_LEAST_VOXELS = 4


def register_rigid(
    fixed: hd.Volume,
    moving: hd.Volume,
    fixed_mask: hd.Volume | None,
    settings: RegistrationSettings,
    *,
    starts: Sequence[Matrix] = (),
    min_similarity: float = 1.0,
    max_translation_mm: float = float("inf"),
    max_rotation_deg: float = 180.0,
) -> Registration:
    """Register one image of a head to another one of the same head.

    Mattes mutual information is maximised for a rigid transform in three levels (8, 4 and 2 mm),
    within the brain of the fixed image; then, if the settings say so, for an affine transform
    close to it, which takes up differences in scale between acquisitions.

    Parameters
    ----------
    fixed, moving
        Images of a head; any contrast, orientation and spacing.
    fixed_mask
        bool on ``fixed``'s grid, the brain; without it the head is used.
    settings
        The stage's settings.
    starts
        4×4 matrices (fixed to moving points, LPS) to try besides the headers' own coordinates and
        the superposition of the heads' centres, each as it is and turned by up to 20 degrees.
    min_similarity, max_translation_mm, max_rotation_deg
        Beyond these, the result is not accepted.

    Returns
    -------
    Registration
        ``matrix_lps`` maps fixed points to moving points. Its ``accepted`` is False also for
        images that hold nothing to match, such as a single slice or a constant.
    """
    if _is_flat(fixed.array) or _is_flat(moving.array):
        return _refused()
    fine_fixed = coarser(to_sitk(fixed), settings.fine_spacing_mm)
    fine_moving = coarser(to_sitk(moving), settings.fine_spacing_mm)
    if min(*fine_fixed.GetSize(), *fine_moving.GetSize()) < _LEAST_VOXELS:
        return _refused()
    middle_fixed, middle_moving = coarser(fine_fixed, 4.0), coarser(fine_moving, 4.0)
    coarse_fixed, coarse_moving = coarser(middle_fixed, 8.0), coarser(middle_moving, 8.0)
    brain = None if fixed_mask is None else to_sitk(fixed_mask, np.uint8)

    coarse_mask = _around(brain, coarse_fixed, 15.0)
    points = points_of(coarse_fixed, sitk.GetArrayViewFromImage(coarse_mask) > 0)
    values, _ = sample(coarse_fixed, points)
    centre = points[:3].mean(axis=1)
    candidates = _candidates(coarse_fixed, coarse_moving, centre, starts)
    chosen = best_start(points, values, coarse_moving, candidates, 3)
    if not chosen:
        return _refused()

    matrix, best = np.eye(4), -np.inf
    for start in chosen:
        transform, value = optimise(
            coarse_fixed,
            coarse_moving,
            coarse_mask,
            rigid_about(start, centre),
            settings,
            iterations=60,
            first_step_mm=2.0,
            last_step_mm=0.1,
        )
        if value > best:
            matrix, best = matrix_of(transform), value

    transform, _ = optimise(
        middle_fixed,
        middle_moving,
        _around(brain, middle_fixed, 10.0),
        rigid_about(matrix, centre),
        settings,
        iterations=60,
        first_step_mm=1.0,
        last_step_mm=0.05,
    )
    matrix = matrix_of(transform)

    fine_mask = _around(brain, fine_fixed, _BRAIN_MARGIN_MM)
    points = points_of(fine_fixed, sitk.GetArrayViewFromImage(fine_mask) > 0)
    fine_fixed, fine_moving = normalise_locally(fine_fixed), normalise_locally(fine_moving)
    if points.shape[1] > settings.samples:
        order = np.random.default_rng(settings.seed).permutation(points.shape[1])
        points = points[:, np.sort(order[: settings.samples])]
    matrix = refine(fine_fixed, fine_moving, points, matrix, settings, stretch=False)
    if settings.affine:
        matrix = refine(fine_fixed, fine_moving, points, matrix, settings, stretch=True)

    return assess(
        fine_fixed,
        fine_moving,
        points,
        matrix,
        min_similarity=min_similarity,
        max_translation_mm=max_translation_mm,
        max_rotation_deg=max_rotation_deg,
    )


def assess(
    fixed: sitk.Image,
    moving: sitk.Image,
    points: Matrix,
    matrix: Matrix,
    *,
    min_similarity: float,
    max_translation_mm: float,
    max_rotation_deg: float,
) -> Registration:
    """Describe a transform and judge it by its size and by the likeness of the images under it."""
    values, _ = sample(fixed, points)
    found, inside = sample(moving, matrix @ points)
    similarity = normalised_mutual_information(values[inside], found[inside])
    centre = points.mean(axis=1)
    translation = float(np.linalg.norm((matrix @ centre - centre)[:3]))
    rotation = rotation_angle(matrix)
    return Registration(
        matrix_lps=matrix,
        translation_mm=translation,
        rotation_deg=rotation,
        similarity=similarity,
        accepted=(
            similarity >= min_similarity
            and translation <= max_translation_mm
            and rotation <= max_rotation_deg
            and bool(inside.mean() >= 0.5)
        ),
    )


def rotation_angle(matrix: Matrix) -> float:
    """The angle in degrees of the rotation in a 4×4 matrix."""
    trace = float(np.trace(nearest_rotation(matrix[:3, :3])))
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def _candidates(
    fixed: sitk.Image, moving: sitk.Image, centre: Matrix, starts: Sequence[Matrix]
) -> Iterator[Matrix]:
    heads = [points_of(image, head_of(image))[:3].mean(axis=1) for image in (fixed, moving)]
    superposed = np.eye(4)
    superposed[:3, 3] = heads[1] - heads[0]
    for start in (np.eye(4), *starts, superposed):
        rotation = nearest_rotation(start[:3, :3])
        target = start[:3, :3] @ centre + start[:3, 3]
        for x, y, z in product((0.0, -20.0, 20.0), repeat=3):
            turned = np.asarray(rotation @ rotation_matrix((x, y, z)))
            yield about(centre, turned, target)
    for shift in product((-20, 0, 20), (-20, 0, 20), (-40, -20, 0, 20, 40)):
        yield about(centre, np.eye(3), centre + superposed[:3, 3] + np.asarray(shift, dtype=float))


def _around(brain: sitk.Image | None, grid: sitk.Image, margin_mm: float) -> sitk.Image:
    """uint8 on the grid: the brain and ``margin_mm`` around it; everything without a brain."""
    if brain is None:
        whole = sitk.Image(grid.GetSize(), sitk.sitkUInt8) + 1
        whole.CopyInformation(grid)
        return whole
    return sitk.BinaryDilate(
        like(brain, grid), [round(margin_mm / spacing) for spacing in grid.GetSpacing()]
    )


def _is_flat(array: NDArray[np.generic]) -> bool:
    values = np.asarray(array, dtype=np.float32)
    return not np.isfinite(values).all() or not values.max() > values.min()


def _refused() -> Registration:
    return Registration(
        matrix_lps=np.eye(4), translation_mm=0.0, rotation_deg=0.0, similarity=1.0, accepted=False
    )

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
        images that hold nothing to match.
    """
    if _is_flat(fixed.array) or _is_flat(moving.array):
        return _refused()
    fixed_image, moving_image = to_sitk(fixed), to_sitk(moving)
    mask = _mask_image(fixed_image, fixed_mask, 15.0)

    coarse_fixed, coarse_moving = coarser(fixed_image, 8.0), coarser(moving_image, 8.0)
    coarse_mask = like(mask, coarse_fixed)
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

    level_fixed, level_moving = coarser(fixed_image, 4.0), coarser(moving_image, 4.0)
    transform, _ = optimise(
        level_fixed,
        level_moving,
        like(_mask_image(fixed_image, fixed_mask, 10.0), level_fixed),
        rigid_about(matrix, centre),
        settings,
        iterations=60,
        first_step_mm=1.0,
        last_step_mm=0.05,
    )
    matrix = matrix_of(transform)

    fine_fixed = normalise_locally(coarser(fixed_image, settings.fine_spacing_mm))
    fine_moving = normalise_locally(coarser(moving_image, settings.fine_spacing_mm))
    brain = _mask_image(fixed_image, fixed_mask, _BRAIN_MARGIN_MM)
    inside = sitk.GetArrayViewFromImage(like(brain, fine_fixed)) > 0
    points = points_of(fine_fixed, inside)
    if points.shape[1] > settings.samples:
        chosen_points = np.random.default_rng(settings.seed).permutation(points.shape[1])
        points = points[:, np.sort(chosen_points[: settings.samples])]
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
        for angles in product((0, -20, 20), repeat=3):
            yield about(centre, rotation @ rotation_matrix(angles), target)
    for shift in product((-20, 0, 20), (-20, 0, 20), (-40, -20, 0, 20, 40)):
        yield about(centre, np.eye(3), centre + superposed[:3, 3] + np.asarray(shift, dtype=float))


def _mask_image(fixed: sitk.Image, mask: hd.Volume | None, margin: float) -> sitk.Image:
    """uint8 on the fixed grid: the brain and a few millimetres around it, or all."""
    if mask is None:
        whole = sitk.Image(fixed.GetSize(), sitk.sitkUInt8) + 1
        whole.CopyInformation(fixed)
        return whole
    radius = [round(margin / s) for s in fixed.GetSpacing()]
    return sitk.BinaryDilate(to_sitk(mask, np.uint8), radius)


def _is_flat(array: NDArray[np.generic]) -> bool:
    values = np.asarray(array, dtype=np.float32)
    return not np.isfinite(values).all() or not values.max() > values.min()


def _refused() -> Registration:
    return Registration(
        matrix_lps=np.eye(4), translation_mm=0.0, rotation_deg=0.0, similarity=1.0, accepted=False
    )

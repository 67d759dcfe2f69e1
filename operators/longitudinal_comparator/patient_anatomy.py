"""The patient's own lateral ventricles and cortex, found in the patient's images.

The atlas, brought onto the patient by an affine transform, says where to look; the images say where
the ventricles and the cortex are. Everything happens on a grid of 1 mm along the FLAIR's axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from operators.geometry import resample_to, to_sitk
from operators.longitudinal_comparator.atlas import Atlas, Label
from operators.longitudinal_comparator.tissue import FLUID, GREY, tissue_probabilities
from operators.messages import AlignedStudy

STEP_MM = 1.0
"""Size of the working grid's voxels."""

_MARGIN_MM = 6.0
_VENTRICLE_REACH_MM = 10.0
"""How far from the atlas's ventricles a patient's own may lie: they widen with atrophy."""
_THIRD_VENTRICLE = (4.0, 14.0)
"""Template millimetres: nearer to the midline and lower than this is not a lateral ventricle."""
_DEEP_BOX = ((-33.0, 33.0), (-22.0, 35.0), (-15.0, 22.0))
"""Template LPS millimetres around basal ganglia and thalami, whose grey matter is no cortex."""
_PLAUSIBLE_VENTRICLES_ML = (2.0, 200.0)
_PLAUSIBLE_CORTEX_ML = (150.0, 1200.0)
_LEAST_PART_ML = 0.5
_RIM_STEPS = 2
_LEAST_WHITE_ML = 20.0
"""With less white matter in the image there is nothing to learn its intensity from."""


@dataclass(frozen=True)
class PatientAnatomy:
    """Maps on the working grid.

    Attributes
    ----------
    labels
        uint8: the atlas's labels, as the affine transform brings them here.
    ventricles, cortex
        bool: the patient's own; None if what was found is not plausible.
    ventricle_mm, cortex_mm
        float32: distance between voxel centres, 0 inside; to the patient's own, to the atlas's
        where the patient's own are None.
    """

    labels: hd.Volume
    ventricles: hd.Volume | None
    cortex: hd.Volume | None
    ventricle_mm: hd.Volume
    cortex_mm: hd.Volume


def find_anatomy(study: AlignedStudy, lesions: hd.Volume, atlas: Atlas) -> PatientAnatomy:
    """Find the lateral ventricles and the cortex of one patient.

    Parameters
    ----------
    study
        The study; its FLAIR is used, and its T2 and T1 where they fit the FLAIR.
    lesions
        bool on the FLAIR's grid: lesion voxels, which hold no healthy tissue.
    atlas
        See ``load_atlas``.
    """
    grid = _working_grid(study.brain_mask)
    brain = resample_to(study.brain_mask, grid, nearest=True).array.astype(bool)
    template = np.asarray(study.template_to_flair, dtype=float)
    labels = resample_to(atlas.labels, grid, template, nearest=True)
    tissues = _tissues(study, grid, brain, lesions, atlas, template)
    atlas_ventricles = labels.array == Label.LATERAL_VENTRICLE
    x, y, z = _template_coordinates(grid, template)

    fluid = tissues[FLUID] > 0.5
    near = _within(grid.with_array(atlas_ventricles), _VENTRICLE_REACH_MM)
    near |= labels.array == Label.TEMPORAL_HORN
    third = (np.abs(x) < _THIRD_VENTRICLE[0]) & (z < _THIRD_VENTRICLE[1])
    clear = ~third & (labels.array != Label.INFRATENTORIAL) & (labels.array != Label.CORTEX)
    ventricles = _parts_with(fluid & near & clear, atlas_ventricles)

    (left, right), (front, back), (low, high) = _DEEP_BOX
    deep = (x > left) & (x < right) & (y > front) & (y < back) & (z > low) & (z < high)
    cortex = (tissues[GREY] > 0.5) & ~deep & (labels.array != Label.INFRATENTORIAL)
    cortex = _large_parts(cortex)

    own_ventricles = _plausible(ventricles, _PLAUSIBLE_VENTRICLES_ML)
    own_cortex = _plausible(cortex, _PLAUSIBLE_CORTEX_ML)
    return PatientAnatomy(
        labels=labels,
        ventricles=grid.with_array(ventricles) if own_ventricles else None,
        cortex=grid.with_array(cortex) if own_cortex else None,
        ventricle_mm=_distance(grid.with_array(ventricles if own_ventricles else atlas_ventricles)),
        cortex_mm=_distance(
            grid.with_array(cortex if own_cortex else labels.array == Label.CORTEX)
        ),
    )


def template_anatomy(atlas: Atlas) -> PatientAnatomy:
    """The atlas as if it were a patient: for lesions of which there is only a mask in its space."""
    labels = atlas.labels
    return PatientAnatomy(
        labels=labels,
        ventricles=None,
        cortex=None,
        ventricle_mm=_distance(labels.with_array(labels.array == Label.LATERAL_VENTRICLE)),
        cortex_mm=_distance(labels.with_array(labels.array == Label.CORTEX)),
    )


def _working_grid(mask: hd.Volume) -> hd.Volume:
    """An empty volume of 1 mm along the mask's axes around its true voxels."""
    inside = mask.array.astype(bool)
    if not inside.any():
        inside = np.ones_like(inside)
    spacing = np.asarray(mask.spacing, dtype=float)
    bounds = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        bounds.append((found[0] - 0.5, found[-1] + 0.5))
    first = np.array([low for low, _ in bounds]) - _MARGIN_MM / spacing
    last = np.array([high for _, high in bounds]) + _MARGIN_MM / spacing
    shape = np.maximum(np.ceil((last - first) * spacing / STEP_MM).astype(int), 1)
    affine = np.asarray(mask.affine, dtype=float).copy()
    start = first + 0.5 * STEP_MM / spacing
    affine[:3, 3] = affine[:3, :3] @ start + affine[:3, 3]
    affine[:3, :3] = affine[:3, :3] / spacing * STEP_MM
    return hd.Volume(
        np.zeros(shape, dtype=np.uint8),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=mask.frame_of_reference_uid,
    )


def _tissues(
    study: AlignedStudy,
    grid: hd.Volume,
    brain: np.ndarray,
    lesions: hd.Volume,
    atlas: Atlas,
    template: np.ndarray,
) -> np.ndarray:
    """float32 (3, i, j, k): probability of grey matter, white matter and fluid; 0 outside the
    brain, and everywhere if the image holds too little of it."""
    found = np.zeros((3, *grid.spatial_shape), dtype=np.float32)
    priors = np.stack(
        [resample_to(part, grid, template).array[brain] for part in (atlas.grey, atlas.white)]
    )
    if (priors[1] > 0.7).sum() < _LEAST_WHITE_ML * 1000.0 / STEP_MM**3:
        return found
    series = study.selected.series
    images = [resample_to(series["flair"].volume, grid).array[brain]]
    for role, registration in sorted(study.to_flair.items()):
        if registration.accepted and role in series:
            moved = resample_to(series[role].volume, grid, registration.matrix_lps)
            images.append(moved.array[brain])
    # the rim of a lesion, half healthy, looks like grey matter
    lesion = ndimage.binary_dilation(
        resample_to(lesions, grid, nearest=True).array.astype(bool), iterations=_RIM_STEPS
    )
    voxels = np.argwhere(brain).astype(np.float32)
    places = 2.0 * voxels / np.asarray(grid.spatial_shape, dtype=np.float32) - 1.0
    found[:, brain] = tissue_probabilities(np.stack(images), priors, places, lesion[brain])
    return found


def _template_coordinates(grid: hd.Volume, template: np.ndarray) -> tuple[np.ndarray, ...]:
    """Template LPS millimetres of every voxel: x, y and z, each float32 (i, j, k)."""
    matrix = template @ np.asarray(grid.affine, dtype=float)
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.spatial_shape)]
    return tuple(
        (row[0] * i + row[1] * j + row[2] * k + row[3]).astype(np.float32) for row in matrix[:3]
    )


def _parts_with(mask: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that hold seeds."""
    parts, _ = ndimage.label(mask)
    kept = np.zeros(int(parts.max()) + 1, dtype=bool)
    kept[np.unique(parts[mask & seeds])] = True
    kept[0] = False
    return np.asarray(kept[parts])


def _large_parts(mask: np.ndarray) -> np.ndarray:
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) * STEP_MM**3 / 1000.0 >= _LEAST_PART_ML
    large[0] = False
    return np.asarray(large[parts])


def _plausible(mask: np.ndarray, range_ml: tuple[float, float]) -> bool:
    return bool(range_ml[0] <= mask.sum() * STEP_MM**3 / 1000.0 <= range_ml[1])


def _within(mask: hd.Volume, reach_mm: float) -> np.ndarray:
    """bool (i, j, k): voxels at most this far from the nearest one in the mask."""
    near = np.zeros(mask.spatial_shape, dtype=bool)
    if mask.array.any():
        (box,) = ndimage.find_objects(mask.array.astype(np.uint8))
        margin = int(np.ceil(reach_mm / STEP_MM)) + 1
        box = tuple(
            slice(max(0, part.start - margin), min(part.stop + margin, size))
            for part, size in zip(box, mask.spatial_shape, strict=True)
        )
        near[box] = _distance(mask[box]).array <= reach_mm
    return near


def _distance(mask: hd.Volume) -> hd.Volume:
    """Distance from each voxel's centre to the nearest one in the mask, in millimetres."""
    if not mask.array.any():
        return mask.with_array(np.full(mask.spatial_shape, np.inf, dtype=np.float32))
    image = sitk.SignedMaurerDistanceMap(
        to_sitk(mask, np.uint8), insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    # the map counts from the centres of the mask's outermost voxels and is negative inside
    distance = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return mask.with_array(np.ascontiguousarray(np.maximum(distance, 0.0), dtype=np.float32))

"""Where in the brain a lesion lies, from an atlas derived from the ICBM 152 maps in nilearn.

The maps (T1, grey and white matter of the symmetric ICBM 2009a template, 1 mm; Fonov et al.,
NeuroImage 47:S102, 2009) come with nilearn. From them, in MNI millimetres (x right, y anterior, z
superior):

- **Lateral ventricles**: dark on T1, little grey and white matter, more than 14 mm from the
  brain's surface; the left and the right connected part that hold the points (±10, -10, 24). The
  temporal horns are too thin for the maps and are not part of it.
- **Infratentorial**: cerebellum and brainstem, grown by a watershed on the T1 (the dark gap of the
  tentorium is the ridge) from seeds in the cerebellar hemispheres, pons and medulla against seeds
  in the cerebrum; the midbrain ends at z = -9.
- **Cortex**: grey matter above the tentorium without the basal ganglia and the thalami, which lie
  in the box |x| ≤ 33, -35 ≤ y ≤ 22, -15 ≤ z ≤ 22.

The atlas reaches the patient by an affine transform only. Distances are therefore right to a few
millimetres, and enlarged ventricles are underestimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import AlignedStudy, Region

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Atlas:
    """Maps on the template's grid, array axes (i, j, k).

    Attributes
    ----------
    affine_lps
        float64 (4, 4): voxel indices to the template's points, LPS millimetres.
    infratentorial
        bool.
    ventricle_mm
        float32: distance to the lateral ventricles, 0 inside, infinite far away.
    cortex_mm
        float32: distance to the cortex, 0 inside.
    """

    affine_lps: np.ndarray
    infratentorial: np.ndarray
    ventricle_mm: np.ndarray
    cortex_mm: np.ndarray


@lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """Derive the atlas from the maps in nilearn: four seconds of one processor, once a process."""
    from nilearn import datasets

    image = datasets.load_mni152_template(resolution=1)
    t1 = np.asarray(image.dataobj, dtype=np.float32)
    grey = np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj, dtype=np.float32)
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, dtype=np.float32)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0
    affine = np.asarray(image.affine, dtype=float)
    x, y, z = (
        (np.arange(n) * affine[axis, axis] + affine[axis, 3]).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        for axis, n in enumerate(t1.shape)
    )
    spacing = np.abs(np.diag(affine)[:3])

    infratentorial = _infratentorial(t1, grey + white, brain, x, y, z)
    ventricles = _lateral_ventricles(t1, grey + white, brain, x, y, z, affine)
    deep = (np.abs(x) <= 33) & (y >= -35) & (y <= 22) & (z >= -15) & (z <= 22)
    cortex = brain & (grey > 0.5) & (grey > white) & ~deep & ~infratentorial
    return Atlas(
        affine_lps=_RAS_TO_LPS @ affine,
        infratentorial=infratentorial,
        ventricle_mm=_distance(ventricles, spacing),
        cortex_mm=_distance(cortex, spacing),
    )


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, part.start - margin), part.stop + margin)
        for part in ndimage.find_objects(mask.astype(np.uint8))[0]
    )


def _distance(mask: np.ndarray, spacing: np.ndarray, reach: int = 30) -> np.ndarray:
    """Distance to the mask, in millimetres; infinite beyond ``reach`` voxels of its box."""
    distance = np.full(mask.shape, np.inf, dtype=np.float32)
    box = _bounding_box(mask, reach)
    distance[box] = ndimage.distance_transform_edt(~mask[box], spacing)
    return distance


def _lateral_ventricles(
    t1: np.ndarray,
    tissue: np.ndarray,
    brain: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    affine: np.ndarray,
) -> np.ndarray:
    box = (np.abs(x) >= 1) & (np.abs(x) <= 38) & (y >= -62) & (y <= 38) & (z >= -18) & (z <= 34)
    dark = brain & (tissue < 0.7) & (t1 < 0.6) & box
    near = _bounding_box(dark, 15)
    dark[near] &= ndimage.distance_transform_edt(brain[near]) > 14
    parts, _ = ndimage.label(dark)
    ventricles = np.zeros(brain.shape, dtype=bool)
    for side in (-1, 1):
        seed = np.linalg.solve(affine, (side * 10, -10, 24, 1))[:3].round().astype(int)
        label = parts[tuple(seed)]
        if label == 0:
            raise RuntimeError("nilearn's template is not the one that this atlas was made for")
        ventricles |= parts == label
    return ventricles


def _infratentorial(
    t1: np.ndarray,
    tissue: np.ndarray,
    brain: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
) -> np.ndarray:
    # the watershed needs only what lies near or below the tentorium
    whole, top = brain, int((z <= 12).sum())
    t1, tissue, brain, z = t1[..., :top], tissue[..., :top], brain[..., :top], z[..., :top]
    side = np.abs(x)
    solid = brain & (tissue > 0.8)
    below = solid & (
        ((side <= 40) & (y <= -50) & (y >= -80) & (z <= -28) & (z >= -50))
        | ((side <= 6) & (y <= -20) & (y >= -36) & (z <= -14))
        | ((side <= 5) & (z <= -50))
    )
    above = solid & (
        (z >= 4)
        | (y >= -12)
        | ((z >= -5) & (side <= 30) & (y >= -30))
        | ((side >= 30) & (y >= -45) & (z >= -20))
        | ((y <= -85) & (z >= -10))
    )
    seeds = np.zeros(brain.shape, dtype=np.int16)
    seeds[~brain] = 3
    seeds[below] = 1
    seeds[above] = 2
    height = (255 * (1 - np.clip(t1, 0, 1))).astype(np.uint8)
    grown = ndimage.watershed_ift(height, seeds) == 1
    box = _bounding_box(grown, 4)
    grown[box] = ndimage.binary_closing(grown[box], iterations=3)
    infratentorial = np.zeros_like(whole)
    infratentorial[..., :top] = grown & brain & ((y <= -38) | (z <= -9))
    return infratentorial


def region_of(
    points_lps: np.ndarray, atlas: Atlas, settings: LongitudinalComparatorSettings
) -> Region:
    """The region of one lesion.

    In this order: infratentorial if at least half of it lies there; periventricular if it comes
    within ``periventricular_mm`` of a lateral ventricle; juxtacortical if ``juxtacortical_share``
    of it lies within ``juxtacortical_mm`` of the cortex; otherwise deep white matter. A lesion of
    which less than half lies on the atlas is unspecified.

    Parameters
    ----------
    points_lps
        float (n, 3): the lesion's voxel centres as points of the template, LPS millimetres.
    atlas
        See ``load_atlas``.
    settings
        Distances and shares.
    """
    inverse = np.linalg.inv(atlas.affine_lps)
    index = np.rint(points_lps @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    on_atlas = ((index >= 0) & (index < atlas.infratentorial.shape)).all(axis=1)
    if on_atlas.mean() < 0.5:
        return "unspecified"
    where = tuple(index[on_atlas].T)
    if atlas.infratentorial[where].mean() >= 0.5:
        return "infratentorial"
    if atlas.ventricle_mm[where].min() <= settings.periventricular_mm:
        return "periventricular"
    near_cortex = atlas.cortex_mm[where] <= settings.juxtacortical_mm
    if near_cortex.mean() >= settings.juxtacortical_share:
        return "juxtacortical"
    return "deep_white_matter"


@dataclass(frozen=True)
class Place:
    """Where one lesion lies.

    Attributes
    ----------
    region
        See ``region_of``.
    distance_to_ventricle_mm, distance_to_cortex_mm
        From the lesion's nearest edge; 0 for contact; None where it cannot be told.
    """

    region: Region
    distance_to_ventricle_mm: float | None = None
    distance_to_cortex_mm: float | None = None


def locate(
    lesions: Sequence[LesionObject], study: AlignedStudy, settings: LongitudinalComparatorSettings
) -> tuple[Place, ...]:
    """The place of each lesion of one study, in the order of the lesions.

    Parameters
    ----------
    lesions
        Lesions of that study, their points in its FLAIR's patient space.
    study
        The study that they were found in.
    settings
        Distances and shares.
    """
    if not lesions:
        return ()
    atlas = load_atlas()
    matrix = np.asarray(study.template_to_flair, dtype=float)
    return tuple(
        Place(region_of(transform_points(matrix, lesion.points), atlas, settings))
        for lesion in lesions
    )

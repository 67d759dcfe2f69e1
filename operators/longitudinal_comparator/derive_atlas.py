"""Derive ``atlas.npz`` from the ICBM 152 maps that come with nilearn.

Run ``python -m operators.longitudinal_comparator.derive_atlas`` to write it again; a test compares
the file with what this script makes. nilearn has tissue maps but no labels; the maps are the T1,
the grey and the white matter of the symmetric ICBM 2009a template at 1 mm (Fonov et al., NeuroImage
47:S102, 2009). In MNI millimetres (x right, y anterior, z superior):

- **Lateral ventricles**: dark on T1, little grey and white matter, more than 14 mm from the surface
  of the brain; the left and the right connected part that hold the points (±10, -10, 24).
- **Temporal horns**, too thin for the mean of many brains: a tube of 5 mm around the line
  (±27, -42, 4), (±33, -34, -3), (±34, -22, -12), (±31, -9, -20). It says where a patient's own horn
  may lie.
- **Infratentorial**: cerebellum and brainstem, grown by a watershed on the T1 (the dark gap of the
  tentorium is the ridge) from seeds in the cerebellar hemispheres, pons and medulla against seeds
  in the cerebrum; the midbrain ends at z = -9.
- **Deep grey matter**: grey matter in the box |x| ≤ 33, -35 ≤ y ≤ 22, -15 ≤ z ≤ 22 but for its
  outermost 3 mm at the insula: basal ganglia and thalami.
- **Corpus callosum**: white matter up to 8 mm from the midline that is connected, in the plane
  between the hemispheres, with the body above the ventricles.
- **Cortex**: the remaining grey matter above the tentorium, where at least 65 % is grey.
- **Priors**: the fractions of grey and white matter, blurred by 2 mm, on a 3 mm grid.

The template is Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal
Neurological Institute, McGill University; its licence permits use, modification and distribution
for any purpose without fee, provided that this notice appears in all copies.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.atlas import ATLAS_FILE, PRIOR_STEP, Label

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HORN = ((27.0, -42.0, 4.0), (33.0, -34.0, -3.0), (34.0, -22.0, -12.0), (31.0, -9.0, -20.0))
_HORN_RADIUS_MM = 5.0
_PRIOR_BLUR_MM = 2.0
_CORTEX_GREY = 0.65
"""Gives 650 ml; the mean of many cortices is thicker than each of them at half its height."""


def derive() -> dict[str, np.ndarray]:
    """The arrays of the atlas file.

    Returns
    -------
    dict
        ``affine_lps`` float64 (4, 4), voxel indices to the template's points in LPS millimetres;
        ``labels`` uint8, see ``atlas.Label``; ``priors`` uint8 (2, …), 255 times the fraction of
        grey and of white matter on every third voxel.

    Raises
    ------
    RuntimeError
        If nilearn's template is another one.
    """
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
    below = _infratentorial(t1, grey + white, brain, x, y, z)
    ventricles = _lateral_ventricles(t1, grey + white, brain, x, y, z, affine)
    grey_here = brain & (grey > 0.5) & (grey > white)
    box = (np.abs(x) <= 33) & (y >= -35) & (y <= 22) & (z >= -15) & (z <= 22)
    labels = np.zeros(t1.shape, dtype=np.uint8)
    labels[brain & (white >= 0.5)] = Label.WHITE_MATTER
    labels[grey_here & ~box & (grey > _CORTEX_GREY)] = Label.CORTEX
    labels[grey_here & box & (np.abs(x) <= 30)] = Label.DEEP_GREY_MATTER
    labels[_corpus_callosum(white, x, y, z)] = Label.CORPUS_CALLOSUM
    labels[_temporal_horns(x, y, z) & ~below & brain] = Label.TEMPORAL_HORN
    labels[ventricles] = Label.LATERAL_VENTRICLE
    labels[below] = Label.INFRATENTORIAL
    priors = np.stack(
        [
            ndimage.gaussian_filter(part, _PRIOR_BLUR_MM)[::PRIOR_STEP, ::PRIOR_STEP, ::PRIOR_STEP]
            for part in (grey, white)
        ]
    )
    return {
        "affine_lps": _RAS_TO_LPS @ affine,
        "labels": labels,
        "priors": np.rint(255.0 * priors).clip(0, 255).astype(np.uint8),
    }


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


def _temporal_horns(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    where = np.stack(np.broadcast_arrays(np.abs(x), y, z), axis=-1).astype(np.float32)
    inside = np.zeros(where.shape[:-1], dtype=bool)
    for first, second in pairwise(_HORN):
        start, line = np.asarray(first), np.asarray(second) - np.asarray(first)
        along = np.clip((where - start) @ line / (line @ line), 0.0, 1.0)
        inside |= np.linalg.norm(where - start - along[..., None] * line, axis=-1) < _HORN_RADIUS_MM
    return inside


def _corpus_callosum(white: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    box = (y >= -48) & (y <= 36) & (z >= -8) & (z <= 34)
    middle = int(np.abs(x).argmin())
    parts, _ = ndimage.label(((white > 0.5) & box)[middle])
    top = ((y == -8) & (z >= 20) & (z <= 30))[0]
    inside = np.unique(parts[top & (parts > 0)])
    if len(inside) != 1:
        raise RuntimeError("nilearn's template is not the one that this atlas was made for")
    plane = ndimage.binary_dilation(parts == inside[0], iterations=1)
    callosum: np.ndarray = (white > 0.5) & box & (np.abs(x) <= 8) & plane[None]
    return callosum


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


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, part.start - margin), part.stop + margin)
        for part in ndimage.find_objects(mask.astype(np.uint8))[0]
    )


def main() -> None:
    """Write the atlas beside this module."""
    np.savez_compressed(Path(__file__).with_name(ATLAS_FILE), **derive())  # type: ignore[arg-type]


if __name__ == "__main__":
    main()

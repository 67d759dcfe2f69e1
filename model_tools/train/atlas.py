"""The ICBM maps and the real lesion masks on one 1 mm grid (z, y, x in LPS directions).

Grid: 189 x 233 x 197 voxels of 1 mm; index (k, j, i) is MNI (RAS) x = 98 - i, y = 98 - j,
z = k - 72, the grid of nilearn's ICBM 2009 maps turned to LPS.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
from nilearn import datasets
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (189, 233, 197)
FIRST_LPS = (-98.0, -98.0, -72.0)
"""Where voxel (0, 0, 0) lies: LPS millimetres (x, y, z)."""
PERIVENTRICULAR, JUXTACORTICAL, INFRATENTORIAL, DEEP = 1, 2, 3, 4


@dataclass(frozen=True)
class Atlas:
    """Tissue maps (z, y, x), float32 in 0..1, and the map of white-matter regions (uint8)."""

    t1: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    brain: NDArray[np.float32]
    ventricles: NDArray[np.float32]
    regions: NDArray[np.uint8]
    centre: tuple[float, float, float] = (80.0, 122.0, 98.0)
    """Centre of the brain in voxels."""

    def tissues(self) -> tuple[hd.Volume, hd.Volume]:
        """White and grey matter as volumes (i, j, k) in the template's LPS millimetres."""
        affine = np.eye(4)
        affine[:3, 3] = FIRST_LPS
        white, grey = (
            hd.Volume(
                np.ascontiguousarray(part.transpose(2, 1, 0)),
                affine=affine,
                coordinate_system="PATIENT",
            )
            for part in (self.white, self.grey)
        )
        return white, grey


def _lps(image: Any) -> NDArray[np.float32]:
    """An axis-aligned 1 mm MNI image placed on the atlas grid."""
    data = np.asarray(image.dataobj, dtype=np.float32)
    affine = image.affine
    for axis in (0, 1):
        if affine[axis, axis] > 0:
            data = np.flip(data, axis)
    first = [
        max(affine[axis, 3], affine[axis, 3] + affine[axis, axis] * (data.shape[axis] - 1))
        for axis in (0, 1)
    ]
    start = (round(affine[2, 3] + 72), round(98 - first[1]), round(98 - first[0]))
    data = data.transpose(2, 1, 0)
    result = np.zeros(SHAPE, np.float32)
    target, source = [], []
    for offset, size, limit in zip(start, data.shape, SHAPE, strict=True):
        low, high = max(offset, 0), min(offset + size, limit)
        target.append(slice(low, high))
        source.append(slice(low - offset, high - offset))
    result[tuple(target)] = data[tuple(source)]
    return result


def load_atlas() -> Atlas:
    """Read nilearn's ICBM maps (no download) and derive ventricles and white-matter regions."""
    t1 = _lps(datasets.load_mni152_template(resolution=1))
    grey = _lps(datasets.load_mni152_gm_template(resolution=1))
    white = _lps(datasets.load_mni152_wm_template(resolution=1))
    brain = _lps(datasets.load_mni152_brain_mask(resolution=1))
    inner = ndimage.binary_erosion(brain > 0, iterations=12)
    fluid = inner & (grey + white < 0.5)
    k, j, i = np.indices(SHAPE, sparse=True)
    central = (abs(98 - i) < 45) & (abs(98 - j + 20) < 65) & (abs(k - 72 - 15) < 30)
    labels, _ = ndimage.label(fluid & central)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    ventricles = np.isin(labels, np.flatnonzero(sizes > 200))
    to_ventricles = ndimage.distance_transform_edt(~ventricles)
    to_cortex = ndimage.distance_transform_edt(~((grey > 0.6) & (to_ventricles > 12)))
    tissue = white > 0.6
    regions = np.zeros(SHAPE, np.uint8)
    regions[tissue] = DEEP
    regions[tissue & (to_cortex < 3.5)] = JUXTACORTICAL
    regions[tissue & (to_ventricles < 7)] = PERIVENTRICULAR
    below = (k - 72 < -20) & (98 - j < -8)
    regions[tissue & below] = INFRATENTORIAL
    return Atlas(t1, grey, white, brain, ventricles.astype(np.float32), regions)


def load_lesion_masks(data: Path, without: tuple[str, ...] = ()) -> dict[str, NDArray[np.uint8]]:
    """The consensus masks of open_ms_data on the atlas grid, by patient folder name."""
    result = {}
    for folder in sorted((data / "cross_sectional" / "MNI").iterdir()):
        if folder.name in without:
            continue
        (path,) = folder.glob("GOLD_STANDARD*.nii.gz")
        result[folder.name] = (_lps(nibabel.load(path)) > 0.5).astype(np.uint8)
    return result


def load_case(data: Path, patient: str = "patient26") -> tuple[NDArray[np.float32], ...]:
    """FLAIR, T2 and T1 of an MNI case with its mask and brain mask, on the atlas grid.

    Returns
    -------
    tuple
        (3, z, y, x) float32 images and two (z, y, x) float32 masks: lesions, brain.
    """
    folder = data / "cross_sectional" / "MNI" / patient
    images = [
        _lps(nibabel.load(next(folder.glob(f"{name}_N4*.nii.gz"))))
        for name in ("FLAIR", "T2", "T1")
    ]
    lesions = _lps(nibabel.load(next(folder.glob("GOLD_STANDARD*.nii.gz"))))
    brain = ndimage.binary_fill_holes(images[0] != 0)
    return np.stack(images), (lesions > 0.5).astype(np.float32), brain.astype(np.float32)

"""How bright real lesions are: intensity over that of the white matter around, per sequence.

Two sources: the lesions of case 26, where three raters drew the outlines (faint ones included,
another scanner, 3D), and the hyperintensities of the scan itself (right sequence and scanner, but
found by a threshold, so that the faintest are missing). A planted lesion takes all its ratios from
one real lesion, so that FLAIR, T2 and T1 go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.change.generator.scans import FILES, Scan
from model_tools.train.atlas import Atlas, load_case
from model_tools.train.backgrounds import describe_case
from operators.geometry import resample_to

_LEAST_VOXELS = 8


@dataclass(frozen=True)
class Contrast:
    """Intensity in the core of a lesion over that of normal white matter, by role."""

    source: str
    ratio: dict[str, float]


def _of_labels(
    labels: NDArray[np.integer],
    ratios: dict[str, NDArray[np.float32]],
    source: str,
    core_from: float,
) -> list[Contrast]:
    """The mean over each lesion's core: its voxels from this quantile of the FLAIR on."""
    result = []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        inside = labels[box] == number
        if inside.sum() < _LEAST_VOXELS:
            continue
        flair = ratios["flair"][box][inside]
        core = flair >= np.quantile(flair, core_from)
        result.append(
            Contrast(
                f"{source}/{number}",
                {role: float(np.mean(ratios[role][box][inside][core])) for role in ratios},
            )
        )
    return result


def contrasts_of_case(data: Path, atlas: Atlas) -> tuple[Contrast, ...]:
    """Of each lesion of case 26, 8 mm³ or more: its brighter half, the rest is partial volume."""
    images, lesions, brain = load_case(data)
    case = describe_case(atlas, images, lesions, brain)
    if case.lesions is None:
        raise AssertionError("case 26 has a lesion mask")
    labels = cc3d.connected_components(case.lesions.astype(np.uint8), connectivity=26)
    ratios = {
        role: case.images[number] / np.maximum(case.white_local[number], 1e-3)
        for number, role in enumerate(FILES)
    }
    return tuple(_of_labels(labels, ratios, "case 26", 0.5))


def contrasts_of_scan(scan: Scan) -> tuple[Contrast, ...]:
    """Of the scan's own hyperintensities without their outermost millimetre, likewise."""
    tissue = scan.tissue
    core = ndimage.binary_erosion(tissue.own)
    labels = cc3d.connected_components(core.astype(np.uint8), connectivity=26)
    ratios = {}
    for role, volume in scan.volumes.items():
        moved = resample_to(volume, tissue.grid, scan.flair_to[role]).array
        ratios[role] = moved / np.maximum(tissue.white[role], 1e-3)
    found = _of_labels(labels, ratios, scan.name, 0.5)
    # above this, fat or vessels; below, no lesion
    return tuple(c for c in found if 1.15 < c.ratio["flair"] < 2.2)


def choose_contrast(
    case: tuple[Contrast, ...], own: tuple[Contrast, ...], rng: np.random.Generator
) -> Contrast:
    """A random lesion of either source, both alike often."""
    pool = case if not own or rng.random() < 0.5 else own
    return pool[rng.integers(len(pool))]

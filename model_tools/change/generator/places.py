"""Where a lesion may be planted: normal-appearing white matter, away from what is bright."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from numpy.typing import NDArray

from model_tools.change.generator.scans import Scan

REGION_WEIGHTS = {1: 0.30, 2: 0.30, 3: 0.05, 4: 0.35}
"""How often periventricular, juxtacortical, infratentorial and deep white matter are chosen."""
LEAST_SHARE = 0.9
"""Of a lesion that must lie in normal-appearing white matter."""
_TRIES = 400


def choose_place(
    scan: Scan,
    reach_mm: float,
    taken: list[tuple[NDArray[np.float64], float]],
    rng: np.random.Generator,
) -> NDArray[np.float64] | None:
    """A random point (LPS) around which a lesion of this reach may fit, or None.

    Parameters
    ----------
    scan
        The study.
    reach_mm
        Radius of the lesion to be planted.
    taken
        Centre and radius of the lesions planted before; 8 mm stay between two of them.
    rng
        Source of chance.
    """
    tissue = scan.tissue
    affine = np.asarray(tissue.grid.affine)
    allowed = tissue.free & (tissue.room >= min(reach_mm * 0.6, 3.0))
    regions = list(REGION_WEIGHTS)
    places = {r: np.flatnonzero(allowed & (tissue.region == r)) for r in regions}
    for _ in range(_TRIES):
        inside = places[int(rng.choice(regions, p=list(REGION_WEIGHTS.values())))]
        if not len(inside):
            continue
        index = np.array(np.unravel_index(rng.choice(inside), allowed.shape), dtype=float)
        index += rng.uniform(-0.5, 0.5, 3)
        point = np.asarray((affine @ [*index, 1.0])[:3])
        if all(np.linalg.norm(point - c) > reach_mm + r + 8.0 for c, r in taken):
            return point
    return None


def share_free(scan: Scan, occupied: hd.Volume) -> float:
    """Share of a lesion (as `occupancy` gives it) in normal-appearing white matter."""
    weight = occupied.array
    index = np.argwhere(weight > 0.05)
    points = np.asarray(occupied.affine) @ np.c_[index, np.ones(len(index))].T
    where = np.rint((np.linalg.inv(np.asarray(scan.tissue.grid.affine)) @ points)[:3]).astype(int)
    shape = np.array(scan.tissue.free.shape)[:, None]
    if not ((where >= 0) & (where < shape)).all():
        return 0.0
    values = weight[tuple(index.T)]
    return float((values * scan.tissue.free[tuple(where)]).sum() / values.sum())

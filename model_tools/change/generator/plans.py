"""Which lesions a trial plants, and where: all chance comes from one seed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import highdicom as hd
import numpy as np

from model_tools.change.generator.contrast import Contrast, choose_contrast
from model_tools.change.generator.places import LEAST_SHARE, choose_place, share_free
from model_tools.change.generator.plant import Painted
from model_tools.change.generator.scans import Scan
from model_tools.change.generator.shapes import (
    Shape,
    ball_diameter,
    ball_volume,
    choose_shape,
    occupancy,
)

SEED = 20261121
NEW_DIAMETERS_MM = (3.0, 4.0, 5.0, 6.0, 7.0, 8.5, 10.0, 12.0)
"""Of the balls with the volumes of a trial's new lesions."""
GROWING: tuple[tuple[float, float], ...] = ((6.0, 1.5), (7.0, 2.0), (8.5, 3.0))
"""Earlier diameter and ratio of volumes of a trial's enlarging lesions."""
CONSTANT_MM = (6.0, 9.0)
"""Diameters of lesions planted alike at both time points."""
Kind = Literal["new", "enlarging", "stable"]
_PLACES = 60


@dataclass(frozen=True)
class Planted:
    """The truth of one planted lesion; its place is in millimetres of the current FLAIR."""

    number: int
    kind: Kind
    centre_lps_mm: tuple[float, float, float]
    volume_mm3: float
    prior_volume_mm3: float
    region: int
    shape: Shape
    contrast: Contrast
    now: hd.Volume
    """Share of small cubes that is lesion, now."""
    before: hd.Volume | None

    @property
    def diameter_mm(self) -> float:
        """Of the ball with its volume now."""
        return ball_diameter(self.volume_mm3)

    def painted_now(self) -> Painted:
        """For the current study's images."""
        return Painted(self.now, self.contrast.ratio)

    def painted_before(self) -> Painted | None:
        """For the earlier study's images; None for a new lesion."""
        return None if self.before is None else Painted(self.before, self.contrast.ratio)


def trial_rng(scan: str, purpose: str, number: int, seed: int = SEED) -> np.random.Generator:
    """The source of chance of one trial: the same on every machine."""
    return np.random.default_rng([seed, zlib.crc32(f"{scan}:{purpose}".encode()), number])


def make_plan(
    scan: Scan,
    shapes: tuple[Shape, ...],
    case: tuple[Contrast, ...],
    own: tuple[Contrast, ...],
    rng: np.random.Generator,
    *,
    new_only: bool = False,
) -> tuple[Planted, ...]:
    """Choose the lesions of one trial, the largest first so that they find room.

    Parameters
    ----------
    scan
        The study to plant into.
    shapes
        Real shapes.
    case, own
        Real contrasts, see `choose_contrast`.
    rng
        Source of chance.
    new_only
        Without enlarging and constant ones, for a real earlier study.

    Returns
    -------
    tuple of Planted
        In the order of planting. A lesion for which no place is found is left out.
    """
    wanted: list[tuple[Kind, float, float]] = [
        ("new", ball_volume(d), 0.0) for d in NEW_DIAMETERS_MM
    ]
    if not new_only:
        wanted += [("enlarging", ball_volume(d) * r, ball_volume(d)) for d, r in GROWING]
        wanted += [("stable", ball_volume(d), ball_volume(d)) for d in CONSTANT_MM]
    wanted.sort(key=lambda w: -w[1])
    planted: list[Planted] = []
    taken: list[tuple[np.ndarray, float]] = []
    affine = np.linalg.inv(np.asarray(scan.tissue.grid.affine))
    for kind, volume, before in wanted:
        reach = ball_diameter(volume) / 2
        for _ in range(_PLACES):
            point = choose_place(scan, reach, taken, rng)
            if point is None:
                break
            shape = choose_shape(shapes, ball_diameter(volume), rng)
            now = occupancy(shape, volume, point)
            if share_free(scan, now) < LEAST_SHARE:
                continue
            contrast = choose_contrast(case, own, rng)
            if not set(scan.volumes) <= set(contrast.ratio):
                raise ValueError(f"{contrast.source} has no contrast for every sequence")
            earlier = occupancy(shape, before, point) if before else None
            index = np.rint((affine @ [*point, 1.0])[:3]).astype(int)
            x, y, z = (float(v) for v in point)
            planted.append(
                Planted(
                    len(planted) + 1,
                    kind,
                    (x, y, z),
                    volume,
                    before,
                    int(scan.tissue.region[tuple(index)]),
                    shape,
                    contrast,
                    now,
                    earlier,
                )
            )
            taken.append((point, reach))
            break
    return tuple(planted)

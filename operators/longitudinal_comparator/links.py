"""Which lesions of two studies touch, in patient millimetres on each study's own voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings

KnownLinks = dict[tuple[LesionObject, LesionObject], float | None]
"""For a current and a prior lesion, ``Link.near_ml``, or None if they are two."""


class Shape:
    """A lesion's voxels as boxes in space, for distances to them."""

    def __init__(self, lesion: LesionObject, affine: np.ndarray) -> None:
        self.lesion = lesion
        axes = np.asarray(affine, dtype=float)[:3, :3]
        self._half = np.linalg.norm(axes, axis=0) / 2
        self._directions = axes / (2 * self._half)
        self.low = lesion.points.min(axis=0) - self._half.max()
        self.high = lesion.points.max(axis=0) + self._half.max()

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.lesion.points)

    def distance(self, points: np.ndarray, limit: float) -> np.ndarray:
        """Distance of points (n, 3) to the nearest voxel's box: 0 inside, infinite past a limit."""
        reach = limit + float(np.linalg.norm(self._half))
        count = min(8, len(self.lesion.points))
        centre_distance, nearest = self._tree.query(points, k=count, distance_upper_bound=reach)
        nearest = nearest.reshape(len(points), count)
        found = np.isfinite(centre_distance).reshape(len(points), count)
        offset = points[:, None] - self.lesion.points[np.where(found, nearest, 0)]
        outside = np.maximum(np.abs(offset @ self._directions) - self._half, 0)
        distance = np.where(found, np.linalg.norm(outside, axis=-1), np.inf).min(axis=1)
        return np.where(distance <= limit, distance, np.inf)


@dataclass(frozen=True)
class Link:
    """Two lesions that are one, or parts of one.

    Attributes
    ----------
    current, prior
        Positions in the two lists of lesions.
    near_ml
        How much of the prior lesion lies inside the current one or near it.
    """

    current: int
    prior: int
    near_ml: float


def find_links(
    current: Sequence[LesionObject],
    prior: Sequence[LesionObject],
    current_affine: np.ndarray,
    prior_affine: np.ndarray,
    prior_to_current: np.ndarray,
    settings: LongitudinalComparatorSettings,
    known: KnownLinks | None = None,
) -> list[Link]:
    """Every pair of lesions that are one.

    Two lesions are one if ``minimum_overlap`` of the smaller lies inside the other, or if
    ``minimum_near`` of it lies at most ``tolerance_mm`` away.

    Parameters
    ----------
    current, prior
        The lesions of the two studies.
    current_affine, prior_affine
        4×4: voxel indices to LPS millimetres of each study.
    prior_to_current
        4×4: points of the current study to points of the prior one.
    settings
        Limits.
    known
        What earlier calls have found for pairs of the same lesions, all else being equal; what
        this one finds is added.
    """
    if not current:
        return []
    known = {} if known is None else known
    current_shapes = [Shape(lesion, current_affine) for lesion in current]
    lows = np.stack([shape.low for shape in current_shapes])
    highs = np.stack([shape.high for shape in current_shapes])
    back = np.linalg.inv(prior_to_current)
    # the boxes are cut with the prior's voxel centres, so half its voxel is added
    reach = settings.tolerance_mm + float(np.abs(np.asarray(prior_affine)[:3, :3]).sum())
    links = []
    for p, lesion in enumerate(prior):
        points = transform_points(back, lesion.points)
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        shape = Shape(lesion, prior_affine)
        for c in np.flatnonzero(((highs >= low) & (lows <= high)).all(axis=1)).tolist():
            pair = current[c], lesion
            if pair not in known:
                moved = transform_points(prior_to_current, current[c].points)
                known[pair] = _near_ml(current_shapes[c], points, shape, moved, settings)
            near_ml = known[pair]
            if near_ml is not None:
                links.append(Link(c, p, near_ml))
    return links


def _near_ml(
    current: Shape,
    moved_prior: np.ndarray,
    prior: Shape,
    moved_current: np.ndarray,
    settings: LongitudinalComparatorSettings,
) -> float | None:
    """How much of the prior lesion lies in the current one or near it; None if they are two."""
    of_prior = current.distance(moved_prior, settings.tolerance_mm)
    of_current = prior.distance(moved_current, settings.tolerance_mm)
    inside = max((of_prior == 0).mean(), (of_current == 0).mean())
    near = max(np.isfinite(of_prior).mean(), np.isfinite(of_current).mean())
    if inside < settings.minimum_overlap and near < settings.minimum_near:
        return None
    return float(np.isfinite(of_prior).mean() * prior.lesion.volume_ml)


def nearest_of(
    points: np.ndarray, lesions: Sequence[LesionObject], affine: np.ndarray
) -> np.ndarray:
    """For each point (n, 3) the position of the lesion that is nearest to it: intp (n,)."""
    if len(lesions) == 1:
        return np.zeros(len(points), dtype=np.intp)
    distances = [Shape(lesion, affine).distance(points, limit=1e4) for lesion in lesions]
    return np.asarray(np.stack(distances).argmin(axis=0), dtype=np.intp)

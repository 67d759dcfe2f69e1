"""Which lesion of the prior study is which lesion of the current one.

Lesions are compared as sets of voxels in patient millimetres, each study on its own grid, so that
two acquisitions with different slices lose nothing by resampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import highdicom as hd
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from operators.longitudinal_comparator.lesions import (
    CONNECTIVITY,
    LesionObject,
    large_enough,
    measure,
)
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import Change


class _Shape:
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
    """Two lesions that are one.

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


@dataclass(frozen=True)
class Match:
    """What became of a lesion.

    Attributes
    ----------
    current
        Position in the current lesions; None for a resolved one.
    heir_of
        Position of the prior lesion whose identity this one carries on; None for a new identity.
    change
        The class of change.
    prior_volume_ml
        Volume, in the prior study, of what became this lesion.
    """

    current: int | None
    heir_of: int | None
    change: Change
    prior_volume_ml: float


@dataclass(frozen=True)
class Matching:
    """The whole comparison.

    Attributes
    ----------
    matches
        One for each current lesion, in order, then one for each resolved one, in order.
    successor
        For each prior lesion, for each of its voxels the position in ``matches``: intp (n,).
    """

    matches: tuple[Match, ...]
    successor: tuple[np.ndarray, ...]


def match(
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    current_affine: np.ndarray,
    prior_affine: np.ndarray,
    prior_to_current: np.ndarray,
    settings: LongitudinalComparatorSettings,
) -> Matching:
    """Match lesions between two studies and classify each one's change.

    Two lesions are one if ``minimum_overlap`` of the smaller lies inside the other, or if
    ``minimum_near`` of it lies at most ``tolerance_mm`` away. Each voxel of a prior lesion then
    belongs to the nearest of the current lesions it became, so that prior volumes add up. A
    current lesion is

    - *new* if it comes from no prior lesion;
    - *merged* if at least two prior lesions each make up ``lineage_share`` of what it comes from;
      it carries on the identity of the largest;
    - *split* if it is a part of a prior lesion; the largest part carries on the identity, and is
      itself only called split if the other parts hold ``lineage_share`` of their common volume;
    - *enlarging*, *shrinking* or *stable* by its volume now against then (``change_ratio``);

    and a prior lesion that became no current one is *resolved*.

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
    """
    links = _links(current, prior, current_affine, prior_affine, prior_to_current, settings)
    nearest = _nearest_parts(current, prior, current_affine, prior_to_current, links)
    share = np.zeros((len(current), len(prior)))
    for p, owners in enumerate(nearest):
        if owners is not None:
            counts = np.bincount(owners, minlength=len(current))
            share[:, p] = counts * prior[p].volume_ml / len(owners)
    main: dict[int, int] = {}
    for link in sorted(links, key=lambda one: (-share[one.current, one.prior], -one.near_ml)):
        main.setdefault(link.current, link.prior)
    parts: dict[int, list[int]] = {}
    for c, p in main.items():
        parts.setdefault(p, []).append(c)

    matches = []
    for c, lesion in enumerate(current):
        if c not in main:
            matches.append(Match(c, None, "new", 0.0))
            continue
        siblings = parts[main[c]]
        heir = c == max(siblings, key=lambda one: (current[one].volume_ml, -one))
        siblings_ml = sum(current[one].volume_ml for one in siblings)
        before = float(share[c].sum())
        change: Change
        if before == 0 or not heir:
            change = "split"
        elif (share[c] >= settings.lineage_share * before).sum() >= 2:
            change = "merged"
        elif siblings_ml - lesion.volume_ml >= settings.lineage_share * siblings_ml:
            change = "split"
        else:
            change = by_volume(
                lesion.volume_ml, before, settings.change_ratio, settings.minimum_change_ml
            )
        matches.append(Match(c, main[c] if heir else None, change, before))

    successor = []
    for p, owners in enumerate(nearest):
        if owners is None:
            owners = np.full(len(prior[p].indices), len(matches), dtype=np.intp)
            matches.append(Match(None, p, "resolved", prior[p].volume_ml))
        successor.append(owners)
    return Matching(tuple(matches), tuple(successor))


def by_volume(
    now_ml: float, before_ml: float, change_ratio: float, minimum_change_ml: float = 0.0
) -> Change:
    """Enlarging, shrinking or stable, by the same ratio in both directions.

    With a ratio of 0.3 (the rule of the source paper): enlarging from 1.3 times the volume on,
    shrinking from 1/1.3 of it on, so that exchanging the studies exchanges the two words. A
    difference below ``minimum_change_ml`` is stable.
    """
    # a value that is exactly the limit must not fail by rounding
    exact = 1 - 1e-9
    if abs(now_ml - before_ml) < minimum_change_ml * exact:
        return "stable"
    limit = (1 + change_ratio) * exact
    if now_ml >= limit * before_ml:
        return "enlarging"
    if before_ml >= limit * now_ml:
        return "shrinking"
    return "stable"


def _links(
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    current_affine: np.ndarray,
    prior_affine: np.ndarray,
    prior_to_current: np.ndarray,
    settings: LongitudinalComparatorSettings,
) -> list[Link]:
    tolerance = settings.tolerance_mm
    current_shapes = [_Shape(lesion, current_affine) for lesion in current]
    prior_shapes = [_Shape(lesion, prior_affine) for lesion in prior]
    back = np.linalg.inv(prior_to_current)
    moved_prior = [transform_points(back, lesion.points) for lesion in prior]
    links = []
    for p, points in enumerate(moved_prior):
        # the boxes are cut with the prior's voxel centres, so half its voxel is added
        reach = tolerance + float(np.abs(np.asarray(prior_affine)[:3, :3]).sum())
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        for c, shape in enumerate(current_shapes):
            if (shape.high < low).any() or (shape.low > high).any():
                continue
            of_prior = shape.distance(points, tolerance)
            of_current = prior_shapes[p].distance(
                transform_points(prior_to_current, current[c].points), tolerance
            )
            inside = max((of_prior == 0).mean(), (of_current == 0).mean())
            near = max(np.isfinite(of_prior).mean(), np.isfinite(of_current).mean())
            if inside >= settings.minimum_overlap or near >= settings.minimum_near:
                near_ml = float(np.isfinite(of_prior).mean() * prior[p].volume_ml)
                links.append(Link(c, p, near_ml))
    return links


def _nearest_parts(
    current: tuple[LesionObject, ...],
    prior: tuple[LesionObject, ...],
    current_affine: np.ndarray,
    prior_to_current: np.ndarray,
    links: list[Link],
) -> list[np.ndarray | None]:
    """For each prior lesion the current one nearest to each of its voxels; None if it has none."""
    back = np.linalg.inv(prior_to_current)
    nearest: list[np.ndarray | None] = []
    for p, lesion in enumerate(prior):
        linked = sorted(link.current for link in links if link.prior == p)
        if not linked:
            nearest.append(None)
            continue
        points = transform_points(back, lesion.points)
        distances = np.stack(
            [_Shape(current[c], current_affine).distance(points, limit=1e4) for c in linked]
        )
        nearest.append(np.asarray(linked, dtype=np.intp)[distances.argmin(axis=0)])
    return nearest


def faint_counterpart(
    lesion: LesionObject,
    lesion_affine: np.ndarray,
    other: hd.Volume,
    taken: np.ndarray,
    to_other: np.ndarray,
    threshold: float,
    settings: LongitudinalComparatorSettings,
) -> LesionObject | None:
    """What a lesion that was found at one time point only looks like at the other one.

    A lesion near the threshold crosses it by noise alone, and would be called new or resolved. It
    is therefore looked for with a lower threshold, in its own place only: at least half of it
    must lie at or above the lower threshold, and what is taken lies inside it and meets the limits
    of size.

    Parameters
    ----------
    lesion
        The lesion, in its own image.
    lesion_affine
        4×4: voxel indices of its image to LPS millimetres.
    other
        float32 probability of the other image.
    taken
        bool on the grid of ``other``: voxels that belong to a lesion already.
    to_other
        4×4: points of the lesion's image to points of the other one.
    threshold
        The lower threshold; 0 takes the lesion's own outline.
    settings
        Limits.

    Returns
    -------
    LesionObject or None
        In the other image; None if it is really absent there.
    """
    affine = np.asarray(other.affine, dtype=float)
    index = transform_points(np.linalg.inv(affine), transform_points(to_other, lesion.points))
    values = ndimage.map_coordinates(other.array, index.T, order=1, mode="constant", cval=0.0)
    if (values >= threshold).mean() < 0.5:
        return None
    low = np.maximum(np.floor(index.min(axis=0)) - 2, 0).astype(int)
    high = np.minimum(np.ceil(index.max(axis=0)) + 3, other.array.shape).astype(int)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    mask = (other.array[box] >= threshold) & ~taken[box]
    candidates = np.argwhere(mask)
    centres = transform_points(np.linalg.inv(to_other), transform_points(affine, candidates + low))
    outside = _Shape(lesion, lesion_affine).distance(centres, limit=0.0) > 0
    mask[tuple(candidates[outside].T)] = False
    labels, count = ndimage.label(mask, CONNECTIVITY)
    if count == 0:
        return None
    largest = 1 + int(np.bincount(labels.ravel())[1:].argmax())
    found = measure(np.argwhere(labels == largest) + low, other)
    big = large_enough(found, settings.minimum_voxels, settings.minimum_extent_mm)
    return found if big else None

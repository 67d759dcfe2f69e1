"""Lesions with an exact shape: planned by region and change, and planted in white matter.

A lesion is a star-shaped body: its radius is a smooth function of the direction from its centre,
so that its volume and centroid are integrals over the sphere, known to four digits, and whether a
point lies inside is decided without a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from demo.anatomy import Anatomy, BoolArray, FloatArray

Region = Literal["periventricular", "juxtacortical", "infratentorial", "deep_white_matter"]
Change = Literal["new", "enlarging", "stable", "shrinking", "resolved"]
Points = npt.NDArray[np.float64]

_GAP_MM = 7.0
"""Least distance between the surfaces of two lesions."""


@dataclass(frozen=True)
class LesionPlan:
    """A lesion to plant, before it has a place."""

    region: Region
    change: Change
    volume_mm3: float
    """In the current study; of the prior one for a resolved lesion."""

    @property
    def now_mm3(self) -> float:
        """Volume in the current study."""
        return 0.0 if self.change == "resolved" else self.volume_mm3

    @property
    def before_mm3(self) -> float:
        """Volume in the prior study."""
        factor = {"new": 0.0, "enlarging": 1 / 1.5, "stable": 1.0, "shrinking": 2.0}
        return self.volume_mm3 * factor.get(self.change, 1.0)

    @property
    def largest_mm3(self) -> float:
        """The larger of both volumes, which decides how much room it needs."""
        return max(self.now_mm3, self.before_mm3)


DEFAULT_PLAN: tuple[LesionPlan, ...] = (
    LesionPlan("periventricular", "stable", 900.0),
    LesionPlan("periventricular", "enlarging", 840.0),
    LesionPlan("periventricular", "new", 420.0),
    LesionPlan("periventricular", "shrinking", 600.0),
    LesionPlan("periventricular", "stable", 300.0),
    LesionPlan("juxtacortical", "stable", 260.0),
    LesionPlan("juxtacortical", "new", 240.0),
    LesionPlan("juxtacortical", "enlarging", 480.0),
    LesionPlan("juxtacortical", "resolved", 220.0),
    LesionPlan("infratentorial", "stable", 220.0),
    LesionPlan("infratentorial", "new", 190.0),
    LesionPlan("deep_white_matter", "stable", 700.0),
    LesionPlan("deep_white_matter", "enlarging", 600.0),
    LesionPlan("deep_white_matter", "shrinking", 300.0),
    LesionPlan("deep_white_matter", "resolved", 350.0),
    LesionPlan("deep_white_matter", "stable", 115.0),
    LesionPlan("deep_white_matter", "new", 110.0),
)


@dataclass(frozen=True)
class Blob:
    """A smooth irregular body around the origin, of unit volume."""

    stretch: Points
    """(3, 3) symmetric: the quadratic part of the logarithm of the radius."""
    bumps: Points
    """(n, 3) unit directions of its bulges."""
    heights: npt.NDArray[np.float64]
    """(n,) of the bulges, in the logarithm of the radius."""
    scale: float
    reach: float
    """Its largest radius."""
    core: float
    """No radius is smaller."""

    def radius(self, directions: Points) -> npt.NDArray[np.float64]:
        """Radius in millimetres along unit vectors of shape (n, 3)."""
        log = np.einsum("ni,ij,nj->n", directions, self.stretch, directions)
        log += np.exp(3.0 * (directions @ self.bumps.T - 1.0)) @ self.heights
        return np.asarray(self.scale * np.exp(log))


@dataclass(frozen=True)
class PlantedLesion:
    """A lesion in the anatomy's frame."""

    number: int
    plan: LesionPlan
    centre_lps_mm: Points
    """Of the star shape, anatomy's frame."""
    blob: Blob
    brightness: float
    """Factor of the lesion's excess signal."""

    def size_factor(self, volume_mm3: float) -> float:
        """Linear factor from the unit blob to a volume."""
        return float(np.cbrt(volume_mm3))

    def contains(self, points: Points, volume_mm3: float) -> npt.NDArray[np.bool_]:
        """Whether points (n, 3) in the anatomy's frame lie in the lesion at a given volume."""
        size = self.size_factor(volume_mm3)
        offset = points - self.centre_lps_mm
        distance = np.sqrt(np.einsum("ni,ni->n", offset, offset))
        inside: npt.NDArray[np.bool_] = distance <= self.blob.core * size
        unsure = np.flatnonzero(~inside & (distance <= self.blob.reach * size))
        unit = offset[unsure] / distance[unsure, None]
        inside[unsure] = distance[unsure] <= self.blob.radius(unit) * size
        return inside

    def reach_mm(self, volume_mm3: float) -> float:
        """Largest distance of its surface from its centre."""
        return self.blob.reach * self.size_factor(volume_mm3)

    def centroid(self, volume_mm3: float) -> Points:
        """Centre of mass in the anatomy's frame, LPS millimetres."""
        directions = _sphere()
        radius = self.blob.radius(directions)
        moment = (radius**4 / 4.0) @ directions * (4.0 * np.pi / len(directions))
        return np.asarray(self.centre_lps_mm + moment * self.size_factor(volume_mm3))


@cache
def _sphere(count: int = 4000) -> Points:
    """Evenly spread unit vectors (Fibonacci lattice), shape (count, 3)."""
    index = np.arange(count) + 0.5
    polar = np.arccos(1.0 - 2.0 * index / count)
    turn = np.pi * (1.0 + np.sqrt(5.0)) * index
    return np.column_stack(
        [np.cos(turn) * np.sin(polar), np.sin(turn) * np.sin(polar), np.cos(polar)]
    )


def make_blob(rng: np.random.Generator) -> Blob:
    """A random smooth body of unit volume."""
    axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    lengths = rng.uniform(-0.24, 0.24, 3)
    lengths -= lengths.mean()
    directions = rng.standard_normal((4, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    raw = Blob(
        axes @ np.diag(lengths) @ axes.T, directions, rng.uniform(-0.15, 0.25, 4), 1.0, 1.0, 0.0
    )
    radius = raw.radius(_sphere())
    scale = float((radius**3).mean() * 4.0 * np.pi / 3.0) ** (-1.0 / 3.0)
    # The margins cover directions between those of the lattice.
    return replace(
        raw,
        scale=scale,
        reach=1.01 * scale * float(radius.max()),
        core=0.98 * scale * float(radius.min()),
    )


@dataclass(frozen=True)
class Sites:
    """Where lesions may lie, on the part of the anatomy's grid that holds the brain."""

    allowed: BoolArray
    ventricle_mm: FloatArray
    cortex_mm: FloatArray
    deep_grey: BoolArray
    infratentorial: BoolArray


def find_sites(anatomy: Anatomy) -> Sites:
    """Where lesions may lie in the part of an anatomy that holds the brain."""
    x, y, z = anatomy.coordinates()
    white, grey, ventricles = anatomy.white_matter, anatomy.grey_matter, anatomy.ventricles
    below = (z < -24.0) & (y > 18.0) & (y < 78.0) & (np.abs(x) < 30.0)
    core = (np.abs(x) < 38.0) & (y > -30.0) & (y < 38.0) & (z > -22.0) & (z < 24.0)
    cortex = (grey > 0.6) & ~core
    return Sites(
        allowed=(white > 0.6) | (below & (white + grey > 0.9) & (white > 0.2)),
        ventricle_mm=ndimage.distance_transform_edt(~ventricles).astype(np.float32),
        cortex_mm=ndimage.distance_transform_edt(~cortex).astype(np.float32),
        deep_grey=core & (grey > 0.5),
        infratentorial=below,
    )


def _candidates(sites: Sites, plan: LesionPlan, radius: float, brain: Anatomy) -> BoolArray:
    """Voxels where the centre of a lesion may lie."""
    x, _, z = brain.coordinates()
    above = z > -12.0
    if plan.region == "infratentorial":
        return sites.allowed & sites.infratentorial
    if plan.region == "periventricular":
        near = (sites.ventricle_mm > 0.75 * radius) & (sites.ventricle_mm < radius + 1.5)
        body = (z > 8.0) & (np.abs(x) > 8.0)
        return sites.allowed & near & (sites.cortex_mm > 0.8 * radius) & body
    if plan.region == "juxtacortical":
        near = (sites.cortex_mm > 0.6 * radius) & (sites.cortex_mm < radius + 0.5)
        surface = (brain.brain_depth_mm > -24.0) & (sites.ventricle_mm > radius + 14.0)
        return sites.allowed & near & surface & above
    clear = (sites.ventricle_mm > radius + 7.0) & (sites.cortex_mm > radius + 3.0)
    return sites.allowed & clear & (z > 10.0)


def plant(
    anatomy: Anatomy,
    plan: Sequence[LesionPlan],
    seed: int,
    accept: Callable[[PlantedLesion], bool] = lambda lesion: True,
) -> tuple[PlantedLesion, ...]:
    """Find a place for every planned lesion.

    Parameters
    ----------
    anatomy
        The head.
    plan
        What to plant; may be empty.
    seed
        Decides shapes and places.
    accept
        A further condition on each lesion.

    Returns
    -------
    tuple of PlantedLesion
        In the plan's order, numbered from 1; every surface at least 7 mm from every other.

    Raises
    ------
    RuntimeError
        When a lesion finds no place.
    """
    if not plan:
        return ()
    rng = np.random.default_rng([seed, 2])
    brain = anatomy.brain_part()
    sites = find_sites(brain)
    order = sorted(range(len(plan)), key=lambda i: -plan[i].largest_mm3)
    planted: dict[int, PlantedLesion] = {}
    for index in order:
        planted[index] = _place(brain, sites, plan[index], index + 1, planted, rng, accept)
    return tuple(planted[i] for i in range(len(plan)))


def plant_beside(
    anatomy: Anatomy,
    sites: Sites,
    lesion: PlantedLesion,
    others: Sequence[PlantedLesion],
    number: int,
    volume_mm3: float,
    distance_mm: float,
    rng: np.random.Generator,
    accept: Callable[[PlantedLesion], bool],
) -> PlantedLesion | None:
    """A second body near a lesion, with which it may become one.

    Parameters
    ----------
    anatomy, sites
        The part of the head that holds the brain, and what ``find_sites`` says of it.
    lesion
        The first body.
    others
        All other lesions; the second body keeps 7 mm from them.
    number
        Of the second body.
    volume_mm3
        Its largest volume.
    distance_mm
        Between the centres.
    rng
        Decides shape and direction.
    accept
        A further condition.

    Returns
    -------
    PlantedLesion or None
        With the first body's brightness; None where there is no room.
    """
    plan = LesionPlan(lesion.plan.region, "stable", volume_mm3)
    clear = {one.number: one for one in others}
    for _ in range(12):
        direction = rng.standard_normal(3) * (1.0, 1.0, 0.1)
        centre = lesion.centre_lps_mm + distance_mm * direction / np.linalg.norm(direction)
        second = PlantedLesion(number, plan, centre, make_blob(rng), lesion.brightness)
        fits = _fits(anatomy, sites, second, anywhere=True)
        if fits and clear_of_others(second, clear) and accept(second):
            return second
    return None


def _place(
    anatomy: Anatomy,
    sites: Sites,
    plan: LesionPlan,
    number: int,
    planted: dict[int, PlantedLesion],
    rng: np.random.Generator,
    accept: Callable[[PlantedLesion], bool],
) -> PlantedLesion:
    mean_radius = float(np.cbrt(plan.largest_mm3 * 3.0 / (4.0 * np.pi)))
    places = np.argwhere(_candidates(sites, plan, mean_radius, anatomy))
    if len(places) == 0:
        raise RuntimeError(f"no place for lesion {number} ({plan.region})")
    blob = make_blob(rng)
    brightness = float(rng.uniform(0.85, 1.2))
    for attempt, place in enumerate(places[rng.permutation(len(places))[:4000]]):
        if attempt % 100 == 99:
            blob = make_blob(rng)
        centre = anatomy.origin + place + rng.uniform(-0.5, 0.5, 3)
        lesion = PlantedLesion(number, plan, centre, blob, brightness)
        if clear_of_others(lesion, planted) and _fits(anatomy, sites, lesion) and accept(lesion):
            return lesion
    raise RuntimeError(f"no place for lesion {number} ({plan.region})")


def clear_of_others(lesion: PlantedLesion, planted: dict[int, PlantedLesion]) -> bool:
    """Whether a lesion keeps its distance from others, all at their largest."""
    reach = lesion.reach_mm(lesion.plan.largest_mm3)
    return all(
        float(np.linalg.norm(lesion.centre_lps_mm - other.centre_lps_mm))
        > reach + other.reach_mm(other.plan.largest_mm3) + _GAP_MM
        for other in planted.values()
    )


def _fits(anatomy: Anatomy, sites: Sites, lesion: PlantedLesion, *, anywhere: bool = False) -> bool:
    """Whether a lesion at its largest lies in white matter and, unless it may lie anywhere there,
    touches what its region says."""
    volume = lesion.plan.largest_mm3
    reach = int(np.ceil(lesion.reach_mm(volume))) + 1
    middle = np.rint(lesion.centre_lps_mm - anatomy.origin).astype(int)
    if np.any(middle < reach) or np.any(middle + reach >= anatomy.white_matter.shape):
        return False
    box = tuple(slice(m - reach, m + reach + 1) for m in middle)
    indices = np.stack(np.meshgrid(*[np.arange(s.start, s.stop) for s in box], indexing="ij"), -1)
    inside = lesion.contains(indices.reshape(-1, 3) + anatomy.origin, volume)
    tissue = (anatomy.white_matter[box] + anatomy.grey_matter[box]).ravel()[inside]
    allowed = sites.allowed[box].ravel()[inside]
    deep_grey = sites.deep_grey[box].ravel()[inside]
    if inside.sum() == 0 or deep_grey.any():
        return False
    least_white = {"juxtacortical": 0.7, "infratentorial": 0.85}.get(lesion.plan.region, 0.93)
    if allowed.mean() < least_white or tissue.mean() < 0.97 or tissue.min() < 0.35:
        return False
    to_ventricle = float(sites.ventricle_mm[box].ravel()[inside].min())
    cortex = sites.cortex_mm[box].ravel()[inside]
    to_cortex = float(cortex.min())
    if anywhere:
        return True
    if lesion.plan.region == "periventricular":
        return to_ventricle <= 1.5 and to_cortex >= 2.0
    if lesion.plan.region == "juxtacortical":
        return float((cortex <= 2.0).mean()) >= 0.45 and to_ventricle >= 12.0
    if lesion.plan.region == "deep_white_matter":
        return to_ventricle >= 8.0 and to_cortex >= 4.0
    return True

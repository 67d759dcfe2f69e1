"""Regions that have become brighter, found in the two images and not in the outlines.

A network that sees one study at a time misses lesions that are faint against their surroundings. A
comparison sees them, since where nothing has changed two matched images differ by noise only. The
difference is averaged at the scales of small lesions and divided by its noise there (scale-space
detection: Lindeberg, Int J Comput Vis 30:79, 1998); what stands out is outlined at half of its own
increase. It counts only where a lesion can be: away from the brain's surface and from fluid, where
errors of the registration and flow look alike, and brighter than its surroundings now but not
before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.difference import Difference
from operators.longitudinal_comparator.evidence import Evidence, Images
from operators.longitudinal_comparator.lesions import CONNECTIVITY, maximum_diameter
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.size import LeastSize

_SCALES_MM = (1.1, 1.8, 2.8)
"""Standard deviations of the Gaussians: those of balls of 5 to 13 mm, and 1.1 for less."""
_SMOOTH_MM = 0.7
"""The increase is outlined at this blur."""
_PLATEAU = 0.75
"""Quantile of a region's increase that stands for it: its largest value has noise on top."""
_SURFACE_MM = 4.0
"""Nearer to the edge of either brain mask, what surrounds the brain mixes in."""
_FLUID = -1.5
"""Mean brightness of fluid and what is partly fluid, in common units (0 is the brain's median, 1
half the distance of its 16th and 84th percentiles): flow and ventricles that move."""
_LEAST_INCREASE, _LEAST_VOLUME_MM3 = 0.75, 30.0
"""What the network finds unsuspicious must have become brighter by this much, in common units, and
be this large: a smooth error of the matching is wide and weak, one of the registration is small."""
_CROP_MM = 6.0


@dataclass(frozen=True)
class Increase:
    """A region that has become brighter.

    Attributes
    ----------
    voxels
        int (n, 3): on the common grid.
    found
        Its signal, now and before.
    peak
        The largest increase in standard deviations of the noise, over the scales.
    suspicion
        The network's largest probability in it now.
    """

    voxels: np.ndarray
    found: Evidence
    peak: float
    suspicion: float


def find_changes(
    images: Images, settings: LongitudinalComparatorSettings, least: LeastSize
) -> tuple[list[Increase], list[Increase]]:
    """Every region whose change cannot be chance: what is brighter now, and what is darker.

    Parameters
    ----------
    images
        The pair.
    settings, least
        Limits.

    Returns
    -------
    tuple of list of Increase
        The strongest first. Those that have become darker are an increase from the current to the
        prior image: their signal ``now`` is that in the prior one.
    """
    d = images.difference
    change = np.where(d.seen, d.current - d.prior, 0).astype(np.float32)
    most, least_z = _significance(change, d)
    increase = ndimage.gaussian_filter(change, _SMOOTH_MM / d.space.spacing_mm, truncate=3)
    return (
        _regions(most, increase, images, settings, least),
        _regions(-least_z, -increase, images.exchanged, settings, least),
    )


def _regions(
    z: np.ndarray,
    increase: np.ndarray,
    images: Images,
    settings: LongitudinalComparatorSettings,
    least: LeastSize,
) -> list[Increase]:
    """The regions of one direction, from the increase and its significance (i, j, k)."""
    low = min(settings.comparison_evidence, settings.suspected_evidence)
    labels, _ = ndimage.label(z >= low, CONNECTIVITY)
    regions = []
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        own = labels[box] == number
        for core in _cores(own, increase[box]):
            voxels = np.argwhere(core) + [part.start for part in box]
            region = _judged(voxels, float(z[box][core].max()), images, settings, least)
            if region is not None:
                regions.append(region)
    return sorted(regions, key=lambda one: (-one.peak, one.voxels[0].tolist()))


def _significance(change: np.ndarray, d: Difference) -> tuple[np.ndarray, np.ndarray]:
    """float32: the change in standard deviations of its noise, the most and the least of the
    scales."""
    mm = d.space.spacing_mm
    weight = d.seen.astype(np.float32)
    most = np.full(change.shape, -np.inf, dtype=np.float32)
    least = np.full(change.shape, np.inf, dtype=np.float32)
    for scale_mm in _SCALES_MM:
        sigma = scale_mm / mm
        total, share, edge = (
            ndimage.gaussian_filter(one, sigma, mode="constant", truncate=3)
            for one in (change, weight, d.edges)
        )
        use = share > 0.5
        noise = d.noise.of_blur(scale_mm, edge[use])
        z = (total[use] / share[use] / noise).astype(np.float32)
        most[use] = np.maximum(most[use], z)
        least[use] = np.minimum(least[use], z)
    return most, least


def _cores(own: np.ndarray, increase: np.ndarray) -> list[np.ndarray]:
    """The parts of a significant region that hold at least half of its increase."""
    largest = float(increase[own].max())
    if largest <= 0:
        return []
    top = own & (increase >= largest / 2)
    plateau = float(np.quantile(increase[top], _PLATEAU))
    labels, count = ndimage.label(own & (increase >= plateau / 2), CONNECTIVITY)
    return [labels == n for n in range(1, count + 1)]


def _judged(
    voxels: np.ndarray,
    peak: float,
    images: Images,
    settings: LongitudinalComparatorSettings,
    least: LeastSize,
) -> Increase | None:
    """The region, if it can be a lesion that was not there before."""
    d = images.difference
    where = tuple(voxels.T)
    suspicion = float(d.current_probability[where].max())
    before = float(d.prior_probability[where].max())
    suspected = suspicion >= settings.suspicion and before <= settings.visible_contrast * suspicion
    evidence = settings.suspected_evidence if suspected else settings.comparison_evidence
    if peak < evidence or len(voxels) * d.space.spacing_mm**3 < least.volume_mm3:
        return None
    if not suspected and len(voxels) * d.space.spacing_mm**3 < _LEAST_VOLUME_MM3:
        return None
    if maximum_diameter(voxels, np.asarray(d.space.grid.affine))[1] < least.extent_mm:
        return None
    if min(d.prior[where].mean(), d.current[where].mean()) < _FLUID or _at_surface(voxels, d):
        return None
    found = images.signal(voxels, wide=False)
    if found is None or found.now <= 0 or found.z < evidence:
        return None
    if not suspected and found.delta < _LEAST_INCREASE:
        return None
    # what was darker than its surroundings by as much as it is brighter now is no tissue
    if not -found.now <= found.before <= settings.visible_contrast * found.now:
        return None
    return Increase(voxels, found, peak, suspicion)


def _at_surface(voxels: np.ndarray, d: Difference) -> bool:
    """Whether any part of a region lies near the surface of the brain."""
    mm = d.space.spacing_mm
    reach = int(np.ceil(_CROP_MM / mm))
    low = np.maximum(voxels.min(axis=0) - reach, 0)
    high = np.minimum(voxels.max(axis=0) + reach + 1, d.seen.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    depth = ndimage.distance_transform_edt(np.pad(d.brain[box], 1), mm)[1:-1, 1:-1, 1:-1]
    return bool(np.quantile(depth[tuple((voxels - low).T)], 0.1) < _SURFACE_MM)

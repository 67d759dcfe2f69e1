"""What two images say about a region: how bright it is, how bright it was, how sure that is.

A region's signal is its mean brightness against its own surroundings, in the common units of the
two matched FLAIRs. The change of the signal is compared with what differs by chance in this pair:
the noise of the difference for a region of this size at edges of this strength, and the scatter of
the contrast of the lesions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.difference import Difference

_RING_MM = (2.0, 6.0)
"""The surroundings of a region lie between these distances from it, outside every lesion."""
_CORE_MM = 1.5
"""A lesion's signal is taken to this distance from it, to hold what partial volume spreads."""
_LEAST_RING = 20
"""Fewer voxels are no surroundings."""
_LEAST_SEEN = 0.5
_SCATTER = (0.05, 0.3)
"""Limits of the scatter. Interpolation alone scatters the contrast of small lesions by this."""


@dataclass(frozen=True)
class Evidence:
    """The signal of one region in both images.

    Attributes
    ----------
    now, before
        Mean brightness less that of the surroundings, in common units.
    noise
        Standard deviation of ``now - before`` where nothing has changed.
    """

    now: float
    before: float
    noise: float

    @property
    def delta(self) -> float:
        """How much brighter the region has become."""
        return self.now - self.before

    @property
    def z(self) -> float:
        """``delta`` in units of its noise."""
        return self.delta / self.noise

    @property
    def exchanged(self) -> Evidence:
        """The same, had the images been taken in the other order."""
        return Evidence(self.before, self.now, self.noise)


@dataclass(frozen=True)
class LesionGain:
    """How the contrast of unchanged lesions differs between the two images.

    Attributes
    ----------
    ratio
        Median of contrast now by contrast before.
    scatter
        Robust standard deviation of its logarithm from lesion to lesion.
    """

    ratio: float = 1.0
    scatter: float = 0.1


@dataclass(frozen=True)
class Surroundings:
    """What lies around a region, in a box of the common grid.

    Attributes
    ----------
    box
        The box.
    distance_mm
        float64, the box's shape: distance to the region, 0 inside it.
    free
        bool: brain outside every lesion.
    ring
        bool: the part of it that the region is compared with.
    """

    box: tuple[slice, ...]
    distance_mm: np.ndarray
    free: np.ndarray
    ring: np.ndarray

    @property
    def ring_voxels(self) -> np.ndarray:
        """int (n, 3): the ring on the common grid."""
        return np.asarray(np.argwhere(self.ring) + [part.start for part in self.box])


class Images:
    """Answers questions about regions of a pair of images."""

    def __init__(self, difference: Difference, gain: LesionGain = LesionGain()) -> None:
        self.difference = difference
        self.gain = gain

    def with_gain(self, gain: LesionGain) -> Images:
        """The same images, with the lesions' contrast known."""
        return Images(self.difference, gain)

    @property
    def exchanged(self) -> Images:
        """The same, had the images been taken in the other order."""
        return Images(self.difference.exchanged, LesionGain(1 / self.gain.ratio, self.gain.scatter))

    def seen_share(self, index: np.ndarray) -> float:
        """Share of grid points (n, 3) that lie in the brain of both images."""
        return float(self.at(self.difference.seen, index).mean())

    def mask_of(self, *regions: np.ndarray) -> np.ndarray:
        """int (n, 3): voxels of the common grid that hold the points of any region."""
        shape = np.asarray(self.difference.seen.shape)
        voxels = np.unique(np.rint(np.concatenate(regions)).astype(int), axis=0)
        return voxels[((voxels >= 0) & (voxels < shape)).all(axis=1)]

    def around(self, voxels: np.ndarray) -> Surroundings:
        """What lies around a region given by voxels (n, 3) of the common grid."""
        d = self.difference
        mm = d.space.spacing_mm
        reach = int(np.ceil(_RING_MM[1] / mm)) + 1
        low = np.maximum(voxels.min(axis=0) - reach, 0)
        high = np.minimum(voxels.max(axis=0) + reach + 1, d.seen.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        outside = np.ones(high - low, dtype=bool)
        outside[tuple((voxels - low).T)] = False
        distance = ndimage.distance_transform_edt(outside, mm)
        free = d.seen[box] & ~d.lesions[box]
        ring = free & (distance > _RING_MM[0]) & (distance <= _RING_MM[1])
        return Surroundings(box, distance, free, ring)

    def signal(self, *regions: np.ndarray, wide: bool) -> Evidence | None:
        """The signal of a region in both images.

        Parameters
        ----------
        regions
            Fractional grid indices (n, 3); several are united.
        wide
            Whether to add a rim, for the whole signal of a lesion.

        Returns
        -------
        Evidence or None
            None where the images give no answer: less than half of the region is seen in both, or
            it has no surroundings.
        """
        voxels = self.mask_of(*regions)
        if not len(voxels) or self.seen_share(voxels) < _LEAST_SEEN:
            return None
        d = self.difference
        mm = d.space.spacing_mm
        around = self.around(voxels)
        box, ring = around.box, around.ring
        if ring.sum() < _LEAST_RING:
            return None
        core = (around.distance_mm == 0) & d.seen[box]
        if wide:
            core |= around.free & (around.distance_mm <= _CORE_MM)
        now, before = (
            float(image[box][core].mean(dtype=np.float64) - np.median(image[box][ring]))
            for image in (d.current, d.prior)
        )
        edge = float(d.edges[box][core].mean(dtype=np.float64))
        noise = d.noise.of_region(float(core.sum()) * mm**3 / 1000, edge)
        return self._balanced(Evidence(now, before, noise))

    def _balanced(self, found: Evidence) -> Evidence:
        """Shares the lesions' gain between the images and adds its scatter to the noise."""
        half = float(np.sqrt(self.gain.ratio))
        now, before = found.now, found.before
        if now > 0:
            now /= half
        if before > 0:
            before *= half
        # a contrast that is not there has no scatter: only the part that both show has
        common = max(min(now, before), 0.0)
        noise = float(np.hypot(found.noise, self.gain.scatter * common))
        return replace(found, now=now, before=before, noise=noise)

    @staticmethod
    def at(mask: np.ndarray, index: np.ndarray) -> np.ndarray:
        voxels = np.rint(index).astype(int)
        inside = ((voxels >= 0) & (voxels < mask.shape)).all(axis=1)
        result = np.zeros(len(voxels), dtype=bool)
        result[inside] = mask[tuple(voxels[inside].T)]
        return result


def lesion_gain(pairs: list[Evidence]) -> LesionGain:
    """Learn from matched lesions how their contrast differs between the images.

    Parameters
    ----------
    pairs
        The wide signal of each matched lesion, unbalanced. With fewer than six lesions that stand
        out in both images nothing is learnt: the gain is one.
    """
    ratios = [
        np.log(one.now / one.before) for one in pairs if min(one.now, one.before) > 2 * one.noise
    ]
    if len(ratios) < 6:
        return LesionGain()
    middle = float(np.median(ratios))
    scatter = 1.4826 * float(np.median(np.abs(np.asarray(ratios) - middle)))
    return LesionGain(
        ratio=float(np.exp(np.clip(middle, np.log(0.67), np.log(1.5)))),
        scatter=float(np.clip(scatter, *_SCATTER)),
    )

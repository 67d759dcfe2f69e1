"""How large a difference of two images is by chance, for regions of any size.

The difference of two scans of an unchanged brain is not white noise: errors of the registration
stand at edges, and neighbouring voxels err together. The chance that the mean over a region differs
is therefore measured on the pair itself, where no lesion is: the difference is averaged at several
scales, and its spread taken for weak and for strong edges apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

_SCALES_MM = (0.7, 1.1, 1.8, 2.8, 4.4)
"""Standard deviations of the Gaussians; that of a ball is its radius times 0.45."""
_STRATA = 6
_RADIUS_TO_SIGMA = 1 / np.sqrt(5)


@dataclass(frozen=True)
class NoiseModel:
    """Spread of the mean difference by size and edge strength.

    Attributes
    ----------
    edges
        float (scales, strata): mean edge strength of each stratum.
    spread
        float (scales, strata): standard deviation of the mean difference.
    """

    edges: np.ndarray
    spread: np.ndarray

    def of_region(self, volume_ml: float, edge: float) -> float:
        """Standard deviation of the mean difference over a region.

        Parameters
        ----------
        volume_ml
            Its volume; it is taken as a ball.
        edge
            Mean edge strength over it.
        """
        radius = (750 * volume_ml / np.pi) ** (1 / 3)
        sigma = np.log(max(radius * _RADIUS_TO_SIGMA, 1e-3))
        by_scale = [np.interp(edge, e, s) for e, s in zip(self.edges, self.spread, strict=True)]
        return float(np.exp(np.interp(sigma, np.log(_SCALES_MM), np.log(by_scale))))

    def of_blur(self, scale_mm: float, edges: np.ndarray) -> np.ndarray:
        """Standard deviation of the difference averaged by a Gaussian, at edges of any strength.

        Parameters
        ----------
        scale_mm
            Standard deviation of the Gaussian.
        edges
            float32 (n,): edge strength averaged by the same Gaussian.
        """
        nearest = int(np.abs(np.log(_SCALES_MM) - np.log(scale_mm)).argmin())
        return np.asarray(np.interp(edges, self.edges[nearest], self.spread[nearest]))


def edge_strength(current: np.ndarray, prior: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Gradient of the mean image at 1 mm, float32, per millimetre."""
    mean = (current + prior) / 2
    gradient = ndimage.gaussian_gradient_magnitude(mean, 1.0 / spacing_mm, truncate=3)
    return np.asarray(gradient / spacing_mm, dtype=np.float32)


def measure_noise(
    difference: np.ndarray, edges: np.ndarray, normal: np.ndarray, spacing_mm: float
) -> NoiseModel:
    """Measure the noise of a difference where no lesion is.

    The spread is that of a normal distribution with the same share beyond the 95th percentile of
    the absolute difference, so that rare large errors count.

    Parameters
    ----------
    difference
        float32 (i, j, k).
    edges
        float32: see ``edge_strength``.
    normal
        bool: brain without lesions.
    spacing_mm
        Edge of a voxel.
    """
    masked = np.where(normal, difference, 0).astype(np.float32)
    weight = normal.astype(np.float32)
    every = max(1, round(2.0 / spacing_mm))
    sampled = normal[::every, ::every, ::every]
    strengths, spreads = [], []
    for sigma_mm in _SCALES_MM:
        sigma = sigma_mm / spacing_mm
        total = blurred_at(masked, sigma, every, mode="constant")
        share = blurred_at(weight, sigma, every, mode="constant")
        edge = blurred_at(edges, sigma, every, mode="nearest")
        use = sampled & (share > 0.5)
        values, edge = np.abs(total[use] / share[use]), edge[use]
        limits = np.quantile(edge, np.linspace(0, 1, _STRATA + 1))
        stratum = np.clip(np.searchsorted(limits, edge, side="right") - 1, 0, _STRATA - 1)
        parts = [(edge[stratum == n], values[stratum == n]) for n in range(_STRATA)]
        parts = [part for part in parts if len(part[0])]
        parts += [parts[-1]] * (_STRATA - len(parts))
        strengths.append([float(e.mean(dtype=np.float64)) for e, _ in parts])
        spreads.append([max(float(np.quantile(v, 0.95)) / 1.96, 1e-6) for _, v in parts])
    return NoiseModel(np.asarray(strengths), np.asarray(spreads))


def blurred_at(
    image: np.ndarray, sigma: float, every: int, *, mode: Literal["constant", "nearest"]
) -> np.ndarray:
    """Every n-th voxel, along each axis, of an image blurred by a Gaussian.

    The same as blurring all of it and leaving voxels out; but what is left out along one axis is
    not blurred along the next.

    Parameters
    ----------
    image
        float32 (i, j, k).
    sigma
        In voxels.
    every
        Distance of the voxels that are kept.
    mode
        What lies outside of the image, as in ``scipy.ndimage``.
    """
    for axis in range(3):
        image = ndimage.gaussian_filter1d(image, sigma, axis=axis, mode=mode, truncate=3)
        image = image[tuple(slice(None, None, every if a == axis else 1) for a in range(3))]
    return image

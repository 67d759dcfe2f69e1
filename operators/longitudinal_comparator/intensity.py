"""Two images of one brain in one scale of brightness.

Scanners, coils and sequences give the same tissue other values. What remains after the three steps
below is what changed, and noise: the ratio of the local means (the receive field), the relation of
the two histograms (contrast), and what is left of a smooth difference. All three are learnt where
no lesion is, from both images alike: exchanging them exchanges the results.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_COARSE_MM = 4.0
_FIELD_MM = 16.0
_OFFSET_MM = 12.0
_LEVELS = np.concatenate([np.linspace(0.02, 0.98, 33)])
_TAIL = slice(16, None)


def matched(
    current: np.ndarray, prior: np.ndarray, normal: np.ndarray, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """The two images in common units, so that their difference is change and noise.

    Parameters
    ----------
    current, prior
        float32 (i, j, k) on one grid of cubic voxels, finite.
    normal
        bool, the same shape: brain that both images show and that is in no lesion.
    spacing_mm
        Edge of a voxel.

    Returns
    -------
    tuple of numpy.ndarray
        float32; 0 is the brain's median, 1 half the distance of its 16th and 84th percentiles.

    Raises
    ------
    ValueError
        If no voxel is normal, or an image has one value everywhere in it.
    """
    if not normal.any():
        raise ValueError("no brain is free of lesions in both images")
    gain = _gain(current, prior, normal, spacing_mm)
    current, prior = current / np.sqrt(gain), prior * np.sqrt(gain)
    quantiles = [np.quantile(image[normal], _LEVELS) for image in (current, prior)]
    common = (_standard(quantiles[0]) + _standard(quantiles[1])) / 2
    current, prior = (
        _through(image, q, common) for image, q in zip((current, prior), quantiles, strict=True)
    )
    offset = smooth_within(current - prior, normal, _OFFSET_MM, spacing_mm)
    return (
        np.asarray(current - offset / 2, dtype=np.float32),
        np.asarray(prior + offset / 2, dtype=np.float32),
    )


def smooth_within(
    values: np.ndarray, mask: np.ndarray, sigma_mm: float, spacing_mm: float
) -> np.ndarray:
    """Local mean of the values in a mask, weighted by a Gaussian; float32 of the same shape.

    It is computed on a grid of about 4 mm. Values that stand out (beyond three robust standard
    deviations) are drawn in, so that an unmarked lesion bends the mean but little.
    """
    inside = values[mask]
    centre = np.median(inside)
    spread = 1.4826 * np.median(np.abs(inside - centre))
    drawn_in = np.where(mask, np.clip(values, centre - 3 * spread, centre + 3 * spread), 0)
    step = max(1, round(_COARSE_MM / spacing_mm))
    sums = _blocks(drawn_in.astype(np.float32), step)
    counts = _blocks(mask.astype(np.float32), step)
    sigma = sigma_mm / (spacing_mm * step)
    weight = ndimage.gaussian_filter(counts, sigma, mode="constant", truncate=3)
    total = ndimage.gaussian_filter(sums, sigma, mode="constant", truncate=3)
    known = weight > 1e-3 * counts.max()
    field = np.where(known, total / np.where(known, weight, 1), inside.mean(dtype=np.float64))
    return _spread(field.astype(np.float32), step, values.shape)


def _gain(
    current: np.ndarray, prior: np.ndarray, normal: np.ndarray, spacing_mm: float
) -> np.ndarray:
    means = [smooth_within(image, normal, _FIELD_MM, spacing_mm) for image in (current, prior)]
    floors = [0.1 * float(np.median(mean[normal])) for mean in means]
    if min(floors) <= 0:
        # images with negative values have no gain that a ratio could show
        return np.ones_like(current)
    now, before = (np.maximum(m, f) for m, f in zip(means, floors, strict=True))
    return np.asarray(now / before, dtype=np.float32)


def _standard(quantiles: np.ndarray) -> np.ndarray:
    low, middle, high = np.interp((0.16, 0.5, 0.84), _LEVELS, quantiles)
    if not high > low:
        raise ValueError("an image has one value everywhere in the brain")
    return np.asarray(2 * (quantiles - middle) / (high - low))


def _through(image: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The image with its quantiles moved to the target's; beyond them by the mean slope."""
    source = source + np.arange(len(source)) * 1e-9 * max(float(np.ptp(source)), 1e-12)
    slope = np.ptp(target[_TAIL]) / np.ptp(source[_TAIL])
    result = np.interp(image, source, target)
    above = image > source[-1]
    below = image < source[0]
    result[above] = target[-1] + slope * (image[above] - source[-1])
    slope = np.ptp(target) / np.ptp(source)
    result[below] = target[0] + slope * (image[below] - source[0])
    return np.asarray(result, dtype=np.float32)


def _blocks(values: np.ndarray, step: int) -> np.ndarray:
    """Means over cubes of ``step`` voxels; the last ones are filled with 0."""
    padded = np.pad(values, [(0, -n % step) for n in values.shape])
    shape = [size for n in padded.shape for size in (n // step, step)]
    return np.asarray(padded.reshape(shape).mean(axis=(1, 3, 5)))


def _spread(blocks: np.ndarray, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Block values at every voxel, by linear interpolation axis after axis."""
    result = blocks
    for axis, size in enumerate(shape):
        at = (np.arange(size) - (step - 1) / 2) / step
        at = np.clip(at, 0, result.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, result.shape[axis] - 1)
        weight = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        result = np.take(result, low, axis) * (1 - weight) + np.take(result, high, axis) * weight
    return result

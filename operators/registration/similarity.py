"""How well two aligned images agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def normalised_mutual_information(
    first: NDArray[np.float32], second: NDArray[np.float32], bins: int = 48
) -> float:
    """Normalised mutual information, (H(A) + H(B)) / H(A, B) (Studholme et al. 1999).

    Parameters
    ----------
    first, second
        (n,) values of the two images at the same points.
    bins
        Histogram bins of each image, spread over its 0.5 to 99.5 percentiles.

    Returns
    -------
    float
        1 for independent images, 2 for identical ones; 1 where an image is constant.
    """
    a, b = _binned(first, bins), _binned(second, bins)
    if a is None or b is None:
        return 1.0
    joint = np.bincount(a * bins + b, minlength=bins * bins).reshape(bins, bins) / a.size
    joint_entropy = _entropy(joint.ravel())
    if joint_entropy == 0:
        return 1.0
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / joint_entropy


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Dice overlap of two masks on one grid; 0 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 0.0


def _binned(values: NDArray[np.float32], bins: int) -> NDArray[np.int64] | None:
    if values.size == 0:
        return None
    low, high = np.percentile(values, (0.5, 99.5))
    if not high > low:
        return None
    scaled = (values - low) * (bins / (high - low))
    return np.asarray(np.clip(scaled, 0, bins - 1), dtype=np.int64)


def _entropy(probability: NDArray[np.float64]) -> float:
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum())

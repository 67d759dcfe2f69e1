"""Two images equally sharp.

An image that was interpolated, or whose slices or readout blur it more than its voxel size says,
shows small lesions fainter. The energy of the gradient along each axis tells how sharp an image of
the same anatomy is; the sharper one is blurred until both have the same.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

_BASE_MM = 0.8
"""Both are seen at this blur, where anatomy outweighs noise."""
_MOST_MM = 1.2
"""Largest blur that is added; what is beyond is no difference of sharpness."""
_STEPS = 6
_CROP = 112


def equally_sharp(
    current: np.ndarray, prior: np.ndarray, normal: np.ndarray, spacing_mm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Blur each image along the axes on which the other one is less sharp.

    Parameters
    ----------
    current, prior
        float32 (i, j, k), in common units.
    normal
        bool: brain without lesions, in both.
    spacing_mm
        Edge of a voxel.

    Returns
    -------
    tuple of numpy.ndarray
        float32.
    """
    box = _middle(normal)
    crops = [image[box] for image in (current, prior)]
    inside = normal[box]
    blur = np.zeros((2, 3))
    for _ in range(2):
        for axis in range(3):
            seen = [
                _blurred(crop, np.where(np.arange(3) == axis, 0, sigma), spacing_mm)
                for crop, sigma in zip(crops, blur, strict=True)
            ]
            blur[:, axis] = _balance(seen, inside, axis, spacing_mm)
    one, two = (
        _blurred(image, sigma, spacing_mm)
        for image, sigma in zip((current, prior), blur, strict=True)
    )
    return one, two


def _balance(
    images: list[np.ndarray], inside: np.ndarray, axis: int, spacing_mm: float
) -> tuple[float, float]:
    energies = [_energy(image, inside, axis, 0.0, spacing_mm) for image in images]
    sharper = int(energies[1] > energies[0])
    target = energies[1 - sharper]
    low, high = 0.0, _MOST_MM
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _energy(images[sharper], inside, axis, middle, spacing_mm) > target:
            low = middle
        else:
            high = middle
    found = (low + high) / 2
    return (found, 0.0) if sharper == 0 else (0.0, found)


def _energy(
    image: np.ndarray, inside: np.ndarray, axis: int, blur_mm: float, spacing_mm: float
) -> float:
    """Mean square of the derivative along an axis, of the image blurred along it."""
    sigma = float(np.hypot(_BASE_MM, blur_mm)) / spacing_mm
    slope = ndimage.gaussian_filter1d(image, sigma, axis=axis, order=1, mode="nearest", truncate=3)
    return float((slope[inside].astype(np.float64) ** 2).mean())


def _blurred(image: np.ndarray, sigma_mm: np.ndarray, spacing_mm: float) -> np.ndarray:
    sigma = np.asarray(sigma_mm, dtype=float) / spacing_mm
    sigma[sigma < 0.15] = 0
    if not sigma.any():
        return image
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3))


def _middle(mask: np.ndarray) -> tuple[slice, ...]:
    """A box of at most ``_CROP`` voxels along each axis about the middle of the mask."""
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    result = []
    for part in box:
        spare = max(0, part.stop - part.start - _CROP)
        result.append(slice(part.start + spare // 2, part.stop - (spare - spare // 2)))
    return tuple(result)

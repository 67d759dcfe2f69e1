"""Lesion shapes: real masks in subsets, and random blobs, as occupancy maps."""

from __future__ import annotations

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray

from model_tools.train.device import onto
from model_tools.train.resample import noise_field

STRATA_MM3 = (100.0, 500.0)
"""Limits between small, medium and large lesions in the patch sampling."""


def subset(mask: NDArray[np.uint8], load_ml: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random lesions of a real mask up to about ``load_ml`` (1 mm voxels), small ones included."""
    labels = cc3d.connected_components(mask, connectivity=26)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    sizes[0] = 0
    order = rng.permutation(np.arange(1, len(sizes)))
    chosen, total = [], 0.0
    for label in order:
        if total + sizes[label] <= 1000 * load_ml * 1.15:
            chosen.append(label)
            total += sizes[label]
    if not chosen and len(sizes) > 1:
        chosen = [int(np.argmin(np.where(sizes > 0, sizes, np.inf)))]
    return np.isin(labels, chosen).astype(np.uint8)


def add_blobs(
    occupancy: torch.Tensor,
    regions: NDArray[np.uint8],
    count: int,
    volume_mm3: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Paint random ellipsoids with uneven borders into a 1 mm occupancy map, in place.

    Parameters
    ----------
    occupancy
        (z, y, x) float32; gets the fraction of each voxel inside a blob (maximum over blobs).
    regions
        (z, y, x) uint8 of white-matter regions; a blob's centre lies in a random region.
    count, volume_mm3
        How many blobs, and the range of their volumes (log-uniform).
    """
    candidates = {int(r): np.argwhere(regions == r) for r in np.unique(regions) if r}
    if not candidates:
        return
    names = list(candidates)
    weights = np.array([{1: 0.4, 2: 0.25, 3: 0.15, 4: 0.2}.get(n, 0.2) for n in names])
    shape = occupancy.shape
    for _ in range(count):
        points = candidates[names[rng.choice(len(names), p=weights / weights.sum())]]
        centre = points[rng.integers(len(points))] + rng.uniform(-0.5, 0.5, 3)
        volume = np.exp(rng.uniform(*np.log(volume_mm3)))
        ratios = np.exp(rng.normal(0, rng.choice([0.0, 0.2, 0.35]), 3))
        ratios /= ratios.prod() ** (1 / 3)
        radii = ratios * (volume * 3 / (4 * np.pi)) ** (1 / 3)
        axes = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        reach = int(np.ceil(radii.max() * 1.4)) + 2
        low = [max(0, int(c) - reach) for c in centre]
        high = [min(n, int(c) + reach + 1) for c, n in zip(centre, shape, strict=True)]
        if any(h <= lo for lo, h in zip(low, high, strict=True)):
            continue
        grid = np.stack(
            np.meshgrid(
                *(np.arange(lo, h) - c for lo, h, c in zip(low, high, centre, strict=True)),
                indexing="ij",
            )
        )
        local = np.tensordot(axes, grid, 1) / radii[:, None, None, None]
        distance = np.sqrt((local**2).sum(0))
        if rng.random() < 0.5:
            rough = noise_field(rng, distance.shape, max(3.0, radii.mean() * 0.8))[0].numpy()
            distance = distance * (1 + np.clip(0.12 * rough, -0.3, 0.3))
        radius = radii.prod() ** (1 / 3)
        inside = np.clip(0.5 + (1 - distance) * radius, 0, 1).astype(np.float32)
        window = tuple(slice(lo, h) for lo, h in zip(low, high, strict=True))
        occupancy[window] = torch.maximum(occupancy[window], onto(occupancy.device, inside))


def severity_map(occupancy: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Per-lesion severity with inner texture, (z, y, x) float32 around 0.5, for contrast.

    Every connected lesion gets its own mean; smooth noise varies it inside.
    """
    device = occupancy.device
    labels = cc3d.connected_components((occupancy > 0.05).cpu().numpy(), connectivity=26)
    count = int(labels.max())
    base = rng.uniform(0.15, 0.85)
    means = np.clip(rng.normal(base, 0.18, count + 1), 0.08, 1.0).astype(np.float32)
    scale_mm = float(rng.uniform(2.0, 5.0))
    texture = noise_field(rng, tuple(occupancy.shape), scale_mm, device=device)[0]
    level = onto(device, means[labels])
    return (level + float(rng.uniform(0.0, 0.18)) * texture).clamp(-0.1, 1.3)


def strata_points(
    label: NDArray[np.uint8], brain: NDArray[np.bool_], rng: np.random.Generator
) -> dict[str, NDArray[np.int16]]:
    """Points for patch sampling: lesions by size, lesion voxels by volume, brain voxels.

    Returns
    -------
    dict
        "small", "medium", "large": one random voxel per lesion of the stratum (n, 3);
        "volume": up to 400 random lesion voxels; "brain": 400 random brain voxels.
    """
    labels = cc3d.connected_components((label == 1).astype(np.uint8), connectivity=26)
    flat = np.flatnonzero(labels)
    values = labels.ravel()[flat]
    order = rng.permutation(len(flat))
    flat, values = flat[order], values[order]
    _, first = np.unique(values, return_index=True)
    sizes = np.bincount(values, minlength=2)[1:] if len(values) else np.zeros(0)
    points = np.stack(np.unravel_index(flat[first], label.shape), -1).astype(np.int16)
    low, high = STRATA_MM3
    result = {
        "small": points[(sizes >= 8) & (sizes < low)] if len(points) else points,
        "medium": points[(sizes >= low) & (sizes < high)] if len(points) else points,
        "large": points[sizes >= high] if len(points) else points,
        "volume": np.stack(np.unravel_index(flat[:400], label.shape), -1).astype(np.int16),
    }
    inside = np.flatnonzero(brain)
    pick = rng.choice(inside, 400)
    result["brain"] = np.stack(np.unravel_index(pick, label.shape), -1).astype(np.int16)
    return result

"""Whole-brain inference with a torch network, and the scores of validation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray

Predict = Callable[[torch.Tensor], torch.Tensor]


def gaussian_window(size: int) -> torch.Tensor:
    """nnU-Net's tile weight: a Gaussian with sigma = size / 8, its minimum above 0."""
    line = torch.exp(-0.5 * ((torch.arange(size) - (size - 1) / 2) / (size / 8)) ** 2)
    window = line[:, None, None] * line[None, :, None] * line[None, None, :]
    return window.clamp_min(float(window.max()) * 1e-3)


def predict_volume(
    predict: Predict, image: NDArray[np.float16], size: int = 64, step: float = 0.5
) -> NDArray[np.float32]:
    """Lesion probability of a whole volume by tiles with Gaussian weights.

    Parameters
    ----------
    predict
        Maps (1, 3, n, n, n) float32 to logits (1, 2, n, n, n).
    image
        (3, z, y, x), z-scored and 0 outside the brain.
    size, step
        Tile edge in voxels, and the shift between tiles as a fraction of it.

    Returns
    -------
    ndarray
        (z, y, x) float32 probability, 0 outside the brain.
    """
    whole = torch.from_numpy(np.asarray(image, dtype=np.float32))
    inside = (whole != 0).any(0)
    hits = inside.nonzero()
    low, high = hits.min(0).values, hits.max(0).values + 1
    part = whole[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    short = [max(0, size - n) for n in part.shape[1:]]
    part = torch.nn.functional.pad(part, (0, short[2], 0, short[1], 0, short[0]))
    starts = []
    for n in part.shape[1:]:
        count = 1 if n <= size else int(np.ceil((n - size) / (size * step))) + 1
        starts.append([round(v) for v in np.linspace(0, n - size, count)])
    window = gaussian_window(size)
    total = torch.zeros(part.shape[1:])
    weight = torch.zeros(part.shape[1:])
    for z, y, x in product(*starts):
        where = (slice(z, z + size), slice(y, y + size), slice(x, x + size))
        tile = part[(slice(None), *where)]
        if tile[0].count_nonzero() < 0.01 * size**3:
            weight[where] += window
            total[where] -= 8 * window
            continue
        logits = predict(tile[None])[0].float()
        total[where] += (logits[1] - logits[0]) * window
        weight[where] += window
    shape = tuple(int(v) for v in high - low)
    margin = (total / weight)[: shape[0], : shape[1], : shape[2]]
    result = torch.zeros(inside.shape)
    result[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = torch.sigmoid(margin)
    return np.asarray(torch.where(inside, result, torch.zeros(())), dtype=np.float32)


def torch_predictor(network: torch.nn.Module) -> Predict:
    """Prediction with bfloat16 autocast on the CPU."""

    def predict(tile: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            result = network(tile)
        return result[0] if isinstance(result, list | tuple) else result

    return predict


def score(
    probability: NDArray[np.float32],
    label: NDArray[np.uint8],
    threshold: float = 0.5,
    minimum: int = 3,
) -> dict[str, float]:
    """Voxel and lesion-wise agreement on 1 mm voxels; voxels labelled 255 count nowhere.

    Lesions are 26-connected, of at least ``minimum`` voxels; a reference lesion is found, and a
    predicted one true, if at least one voxel in ten of it (and one voxel) overlaps the other
    mask.

    Returns
    -------
    dict
        dice, precision, recall, f1 (lesion-wise), false_positives, reference_ml, predicted_ml,
        and recall_S, count_S for S in 3-30, 30-100, 100-500, 500- mm3.
    """
    valid = label != 255
    reference = (label == 1) & valid
    predicted = (probability > threshold) & valid
    both = (reference & predicted).sum()
    total = reference.sum() + predicted.sum()
    result = {
        "dice": float(2 * both / total) if total else 1.0,
        "reference_ml": float(reference.sum() / 1000),
        "predicted_ml": float(predicted.sum() / 1000),
    }

    def found(
        a: NDArray[np.bool_], b: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        labels = cc3d.connected_components(a.astype(np.uint8), connectivity=26)
        sizes = np.bincount(labels.ravel())
        overlap = np.bincount(labels.ravel(), weights=b.ravel().astype(float), minlength=len(sizes))
        keep = np.arange(len(sizes)) > 0
        keep &= sizes >= minimum
        hit = (overlap >= 1) & (overlap >= 0.1 * sizes)
        return sizes[keep], hit[keep]

    sizes, hit = found(reference, predicted)
    _, true = found(predicted, reference)
    recall = float(hit.mean()) if len(hit) else 1.0
    precision = float(true.mean()) if len(true) else 1.0
    result |= {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
        "false_positives": float((~true).sum()),
    }
    limits = (3, 30, 100, 500, np.inf)
    for low, high in pairwise(limits):
        chosen = (sizes >= low) & (sizes < high)
        name = f"{low}-{'' if np.isinf(high) else high}"
        result[f"count_{name}"] = float(chosen.sum())
        result[f"recall_{name}"] = float(hit[chosen].mean()) if chosen.any() else float("nan")
    return result

"""Whole-brain inference with a torch network, and the scores of validation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray

from operators.lesion_segmentation.tiling import predict_tiled

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def predict_volume(
    predict: Predict, image: NDArray[np.float16], size: int = 64, step: float = 0.5
) -> NDArray[np.float32]:
    """Lesion probability of a whole volume, with the application's own tiling.

    Parameters
    ----------
    predict
        Maps (1, channels, n, n, n) float32 to logits (1, 2, n, n, n).
    image
        (channels, z, y, x), z-scored and 0 outside the brain.
    size, step
        Tile edge in voxels, and the largest shift between tiles as a fraction of it.

    Returns
    -------
    ndarray
        (z, y, x) float32 probability, 0 outside the brain.
    """
    whole = np.asarray(image, dtype=np.float32)
    inside = (whole != 0).any(0)
    hits = np.argwhere(inside)
    box = tuple(slice(a, b + 1) for a, b in zip(hits.min(0), hits.max(0), strict=True))
    logits = predict_tiled(
        whole[(slice(None), *box)],
        inside[box],
        predict,
        labels=2,
        patch=(size, size, size),
        step=step,
    )
    result = np.zeros(inside.shape, np.float32)
    result[box] = 1 / (1 + np.exp(np.clip(logits[0] - logits[1], -80, 80)))
    result[~inside] = 0
    return result


def torch_predictor(network: torch.nn.Module) -> Predict:
    """Prediction with bfloat16 autocast on the CPU."""

    def predict(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            result = network(torch.from_numpy(tile))
        finest = result[0] if isinstance(result, list | tuple) else result
        return np.asarray(finest.float())

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

"""Whole-brain inference with a torch network, and the scores of validation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from model_tools.evaluate.metrics import lesion_scores, lesions_of
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
    """Prediction with bfloat16 autocast, where the network is."""
    device = next(network.parameters()).device

    def predict(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            result = network(torch.from_numpy(tile).to(device))
        finest = result[0] if isinstance(result, list | tuple) else result
        return np.asarray(finest.float().cpu())

    return predict


def score(
    probability: NDArray[np.float32], label: NDArray[np.uint8], threshold: float = 0.5
) -> dict[str, float]:
    """Voxel and lesion-wise agreement on 1 mm voxels; voxels labelled 255 count nowhere.

    Returns
    -------
    dict
        As `model_tools.evaluate.metrics`: dice, reference_ml, predicted_ml, and `lesion_scores`.
    """
    valid = label != 255
    reference, predicted = (label == 1) & valid, (probability > threshold) & valid
    total = reference.sum() + predicted.sum()
    return {
        "dice": float(2 * (reference & predicted).sum() / total) if total else 1.0,
        "reference_ml": float(reference.sum() / 1000),
        "predicted_ml": float(predicted.sum() / 1000),
        **lesion_scores(lesions_of(reference, predicted), lesions_of(predicted, reference)),
    }

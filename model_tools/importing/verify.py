"""The written network against torch, on noise."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import openvino
import torch

from model_tools.export import LARGE
from model_tools.importing.graph import mirror_sets
from model_tools.importing.trained import TrainedStage


def small_patch(stage: TrainedStage) -> tuple[int, int, int]:
    """The smallest input that shows everything: two voxels at the coarsest resolution.

    The network is convolutional: what holds on it holds on the whole patch.
    """
    sizes = [min(2 * step, size) for step, size in zip(stage.divisor, stage.patch, strict=True)]
    return sizes[0], sizes[1], sizes[2]


def torch_mean(
    stage: TrainedStage,
    averaging: Literal["logits", "softmax"],
    axes: tuple[int, ...],
    image: np.ndarray,
    *,
    half: bool = False,
) -> np.ndarray:
    """The ensemble's mean as nnU-Net computes it, one fold in memory at a time.

    Parameters
    ----------
    image
        float32 (n, channels, z, y, x).
    half
        Round the large weights to fp16 first, as the package stores them.

    Returns
    -------
    numpy.ndarray
        float32 (n, labels, z, y, x): logits or probabilities.
    """
    network = stage.build()
    tensor = torch.from_numpy(image)
    answers = []
    for checkpoint in stage.checkpoints:
        weights = stage.load(checkpoint)
        if half:
            weights = {
                name: value.half().float() if value.numel() >= LARGE else value
                for name, value in weights.items()
            }
        network.load_state_dict(weights)
        with torch.inference_mode():
            for mirrored in mirror_sets(axes):
                flips = [axis + 2 for axis in mirrored]
                answer = network(torch.flip(tensor, flips))
                if averaging == "softmax":
                    answer = torch.softmax(answer, 1)
                answers.append(torch.flip(answer, flips))
    return np.asarray(torch.stack(answers).mean(0).numpy(), dtype=np.float32)


def _probabilities(values: np.ndarray, averaging: Literal["logits", "softmax"]) -> np.ndarray:
    if averaging == "softmax":
        return values
    return np.asarray(torch.softmax(torch.from_numpy(values), 1).numpy())


def largest_difference(
    path: Path,
    stage: TrainedStage,
    averaging: Literal["logits", "softmax"],
    axes: tuple[int, ...],
    *,
    half: bool = False,
) -> float:
    """Largest difference in probability between the ONNX file in OpenVINO (fp32) and torch."""
    shape = (1, stage.input_channels, *small_patch(stage))
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = np.asarray(compiled(image)[0], dtype=np.float32)
    expected = torch_mean(stage, averaging, axes, image, half=half)
    difference = _probabilities(answer, averaging) - _probabilities(expected, averaging)
    return float(np.abs(difference).max())

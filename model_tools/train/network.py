"""The network: nnU-Net's PlainConvUNet in a size for two CPU cores, and its loss."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

CLASS_NAME = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def architecture(features: tuple[int, ...] = (16, 32, 64, 128, 128)) -> dict[str, Any]:
    """The keyword arguments of PlainConvUNet, as nnU-Net's plans.json states them (JSON types)."""
    stages = len(features)
    return {
        "n_stages": stages,
        "features_per_stage": list(features),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def build_network(
    arguments: dict[str, Any], channels: int = 3, classes: int = 2, deep_supervision: bool = False
) -> nn.Module:
    """Build a PlainConvUNet from the arguments of a plans.json."""
    operators = {
        "torch.nn.modules.conv.Conv3d": nn.Conv3d,
        "torch.nn.modules.instancenorm.InstanceNorm3d": nn.InstanceNorm3d,
        "torch.nn.LeakyReLU": nn.LeakyReLU,
    }
    keywords = {
        key: operators.get(value, value) if isinstance(value, str) else value
        for key, value in arguments.items()
    }
    return PlainConvUNet(
        input_channels=channels,
        num_classes=classes,
        deep_supervision=deep_supervision,
        **keywords,
    )


def _scale_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus batch soft Dice of the lesion class, without the ignored voxels."""
    valid = (target < 2).float()
    lesion = (target == 1).float()
    margin = logits[:, 1] - logits[:, 0]
    probability = torch.sigmoid(margin)
    entropy = nn.functional.binary_cross_entropy_with_logits(margin, lesion, reduction="none")
    # Lesions are 1 % of a patch: the weight keeps small ones from being ignored early on.
    weight = valid * (1 + 2 * lesion)
    entropy = (entropy * weight).sum() / valid.sum().clamp_min(1)
    both = (probability * lesion * valid).sum()
    total = (probability * valid).sum() + (lesion * valid).sum()
    dice = 1 - (2 * both + 1) / (total + 1)
    return dice + 2 * entropy


def deep_loss(outputs: list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    """Weighted sum over the decoder's resolutions (1, 1/2, 1/4; the coarsest one left out).

    Parameters
    ----------
    outputs
        Logits (n, 2, z, y, x), finest first.
    target
        (n, z, y, x) uint8: 0, 1 or 255 (ignored).
    """
    total, weights = torch.zeros((), device=target.device), 0.0
    for level, logits in enumerate(outputs[:3]):
        step = 2**level
        weight = 0.5**level
        if step == 1:
            small = target
        else:
            # A coarse voxel is a lesion where lesions fill at least a quarter of it.
            lesion = nn.functional.avg_pool3d((target == 1).float()[:, None], step)[:, 0]
            skip = nn.functional.avg_pool3d((target == 255).float()[:, None], step)[:, 0]
            small = (lesion >= 0.25).to(torch.uint8)
            small[(skip > 0.4) & (small == 0)] = 255
        total = total + weight * _scale_loss(logits.float(), small)
        weights += weight
    return total / weights

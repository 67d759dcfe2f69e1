"""A network of the size that nnU-Net publishes, with random weights, as a result folder.

Base 32, six stages, 31 million parameters, patch 128³: nnU-Net's default plan for a brain at 1 mm.
The weights are random, since speed does not depend on them; each kernel is a random number times a
blur. Only the last layer is fitted, on the image at hand: by least squares it marks the brightest
tenth of one channel (fluid on T2), so that the answer is a structure with an edge, as a trained
network's is, and Dice between two predictors or two precisions says something.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

PATCH = (128, 128, 128)
FEATURES = (32, 64, 128, 256, 320, 320)
CONFIGURATION = "3d_fullres"
SHARE = 0.1
"""Of the brain's voxels that are foreground."""


def plans(channels: int, patch: tuple[int, ...], features: tuple[int, ...]) -> dict[str, Any]:
    """nnU-Net v2's plans.json for 1 mm isotropic images, normalised inside the brain."""
    stages = len(features)
    resampling: dict[str, Any] = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    intensity = {
        "max": 1.0,
        "mean": 0.0,
        "median": 0.0,
        "min": 0.0,
        "percentile_00_5": 0.0,
        "percentile_99_5": 1.0,
        "std": 1.0,
    }
    return {
        "dataset_name": "Dataset001_Bench",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [160, 190, 150],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): intensity for c in range(channels)},
        "configurations": {
            CONFIGURATION: {
                "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": [160.0, 190.0, 150.0],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * channels,
                "use_mask_for_norm": [True] * channels,
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet."
                    "PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": list(features),
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [[3, 3, 3]] * stages,
                        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
                        "n_conv_per_stage": [2] * stages,
                        "n_conv_per_stage_decoder": [2] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                **resampling,
            }
        },
    }


def _network(plan: dict[str, Any], channels: int) -> nn.Module:
    arguments = dict(plan["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"])
    arguments |= {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    network: nn.Module = PlainConvUNet(
        channels, num_classes=2, deep_supervision=False, **arguments
    ).eval()
    return network


def _randomise(network: nn.Module, seed: int, common: nn.Module | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    line = torch.tensor([0.5, 1.0, 0.5])
    blur = line[:, None, None] * line[None, :, None] * line[None, None, :]
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
            size = module.weight.shape[:2]
            amount = torch.randn(size, generator=generator)[..., None, None, None]
            module.weight.copy_(amount * blur)
        elif isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            fan = module.weight[0].numel()
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator) / fan**0.5)
    if common is not None:
        # folds of one training resemble each other
        for own, shared in zip(network.parameters(), common.parameters(), strict=True):
            own.mul_(0.1).add_(shared, alpha=0.9)


def _given_to(layer: nn.Module, network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What a layer is given while the network runs on one image."""
    given: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0][0]))
    network(image)
    hook.remove()
    return given[0]


def _fit_head(last: nn.Conv3d, features: torch.Tensor, image: torch.Tensor, channel: int) -> None:
    """Set the last layer so that it marks the brightest tenth of a channel.

    Parameters
    ----------
    last
        1×1×1 convolution to two labels, changed in place.
    features
        float32 (n, z, y, x): what it is given for ``image``.
    image
        float32 (channels, z, y, x), normalised, 0 outside the brain.
    channel
        Whose brightest voxels are the foreground.
    """
    inside = image.abs().sum(0) > 0
    values = image[channel][inside]
    wanted = (values > torch.quantile(values, 1 - SHARE)).double()
    rows = features[:, inside].T.double()
    rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], dim=1)
    # both classes count the same; a little of the identity, because features may be alike
    weight = torch.where(wanted > 0, 0.5 / wanted.mean(), 0.5 / (1 - wanted.mean()))[:, None]
    matrix = (rows * weight).T @ rows / len(rows)
    matrix += 1e-6 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=rows.dtype)
    target = (rows * weight).T @ (2 * wanted[:, None] - 1) / len(rows)
    direction = torch.linalg.solve(matrix, target)[:-1, 0]
    margin = rows[:, :-1] @ direction
    scale = 3 / margin.std()
    last.weight.zero_()
    last.weight[1] = (direction * scale).float().reshape(last.weight[1].shape)
    last.bias.zero_()
    last.bias[1] = -float(np.quantile((margin * scale).numpy(), 1 - SHARE))


def write_result_folder(
    parent: Path,
    image: np.ndarray,
    folds: int,
    patch: tuple[int, ...] = PATCH,
    features: tuple[int, ...] = FEATURES,
    marked_channel: int = 1,
) -> Path:
    """Write plans.json, dataset.json and the folds' checkpoints.

    Parameters
    ----------
    parent
        Where the folder is made.
    image
        float32 (channels, z, y, x), normalised: the last layers are fitted on its middle.
    folds, patch, features
        Of the network.
    marked_channel
        The foreground is the brightest tenth of this channel.
    """
    channels = len(image)
    plan = plans(channels, patch, features)
    folder = parent / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": dict(
                    zip(map(str, range(channels)), ("FLAIR", "T2", "T1"), strict=False)
                ),
                "labels": {"background": 0, "lesion": 1},
                "numTraining": 1,
                "file_ending": ".nii.gz",
            }
        )
    )
    size = 64 if min(patch) >= 64 else min(patch)
    image = np.pad(image, [(0, 0), *((0, max(0, size - n)) for n in image.shape[1:])])
    middle = tuple(slice(n // 2 - size // 2, n // 2 + size // 2) for n in image.shape[1:])
    crop = torch.from_numpy(np.ascontiguousarray(image[(slice(None), *middle)])[None])
    first: nn.Module | None = None
    with torch.inference_mode():
        for fold in range(folds):
            network = _network(plan, channels)
            _randomise(network, fold, first)
            first = first or network
            last = network.decoder.seg_layers[-1]
            _fit_head(last, _given_to(last, network, crop), crop[0], marked_channel)
            (folder / f"fold_{fold}").mkdir()
            torch.save(
                {
                    "network_weights": network.state_dict(),
                    "init_args": {"configuration": CONFIGURATION, "fold": fold},
                    "trainer_name": "nnUNetTrainer",
                    "inference_allowed_mirroring_axes": (0, 1, 2),
                    "current_epoch": 1,
                },
                folder / f"fold_{fold}" / "checkpoint_final.pth",
            )
    return folder

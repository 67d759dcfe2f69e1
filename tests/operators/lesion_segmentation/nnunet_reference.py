"""nnU-Net result folders made on the spot, and what nnU-Net's own predictor answers for them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from scipy.ndimage import gaussian_filter
from torch import nn

Architecture = Literal["plain", "resenc"]
FULL, LOW, CASCADE = "3d_fullres", "3d_lowres", "3d_cascade_fullres"
LABELS = {"background": 0, "lesion": 1}
_CLASSES = {"plain": PlainConvUNet, "resenc": ResidualEncoderUNet}


def architecture(kind: Architecture, features: Sequence[int] = (6, 12, 24)) -> dict[str, Any]:
    """The ``architecture`` entry of nnU-Net's plans for a small network."""
    stages = len(features)
    blocks = "n_blocks_per_stage" if kind == "resenc" else "n_conv_per_stage"
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet."
        + _CLASSES[kind].__name__,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            blocks: [1] * stages if kind == "resenc" else [2] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1)
            if kind == "resenc"
            else [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def make_network(plan: dict[str, Any], channels: int, labels: int) -> nn.Module:
    """The network of an ``architecture`` entry, with PyTorch's own initial weights."""
    arguments = dict(plan["arch_kwargs"])
    arguments |= {
        "conv_op": nn.Conv3d,
        "norm_op": nn.InstanceNorm3d,
        "nonlin": nn.LeakyReLU,
    }
    kind = plan["network_class_name"].rpartition(".")[2]
    maker = {c.__name__: c for c in _CLASSES.values()}[kind]
    network: nn.Module = maker(channels, num_classes=labels, deep_supervision=False, **arguments)
    return network


def random_network(plan: dict[str, Any], channels: int, labels: int, seed: int) -> nn.Module:
    """A network with random weights whose answer is a segmentation of some smoothness.

    Untouched random weights give logits near 0 everywhere, where rounding decides. Here every
    kernel is a random number times a blur, so that the answer follows the image's structure, and
    the last layer is scaled to logits of some units; ``with_share`` then sets its bias.
    """
    generator = torch.Generator().manual_seed(seed)
    network = make_network(plan, channels, labels)
    line = torch.tensor([0.5, 1.0, 0.5])
    blur = line[:, None, None] * line[None, :, None] * line[None, None, :]
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size == (3, 3, 3):
                size = module.weight.shape[:2]
                module.weight.copy_(
                    torch.randn(size, generator=generator)[..., None, None, None] * blur
                    + 0.02 * torch.randn(module.weight.shape, generator=generator)
                )
            elif isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                fan = module.weight[0].numel()
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) / fan**0.5
                )
            elif isinstance(module, nn.InstanceNorm3d):
                module.weight.copy_(1 + 0.2 * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
        network.decoder.seg_layers[-1].weight.mul_(6)
    return network


def with_share(network: nn.Module, patch: np.ndarray, share: float) -> nn.Module:
    """Set the last bias so that a share of a patch's non-zero voxels becomes foreground."""
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(patch[None]))[0].numpy()
        inside = (patch != 0).any(axis=0)
        margin = (logits[1:].max(axis=0) - logits[0])[inside]
        shift = float(np.quantile(margin, 1 - share)) / 2
        network.decoder.seg_layers[-1].bias[0] += shift
        network.decoder.seg_layers[-1].bias[1:] -= shift
    return network


def plans(
    kind: Architecture,
    patch: Sequence[int],
    spacing: Sequence[float],
    *,
    channels: int = 2,
    cascade_spacing: Sequence[float] | None = None,
    mask_for_norm: bool = True,
    transpose_forward: Sequence[int] = (0, 1, 2),
    features: Sequence[int] = (6, 12, 24),
) -> dict[str, Any]:
    """A plans.json; with ``cascade_spacing`` (of the first stage) for a cascade."""
    resampling: dict[str, Any] = {}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        resampling[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{what}_kwargs"] = {
            "is_seg": what == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    full = {
        "data_identifier": f"nnUNetPlans_{FULL}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "median_image_size_in_voxels": [100.0, 100.0, 100.0],
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [mask_for_norm] * channels,
        "architecture": architecture(kind, features),
        "batch_dice": False,
        **resampling,
    }
    configurations: dict[str, Any] = {FULL: full}
    if cascade_spacing is not None:
        configurations[LOW] = full | {
            "spacing": list(cascade_spacing),
            "data_identifier": f"nnUNetPlans_{LOW}",
            "next_stage": CASCADE,
        }
        configurations[CASCADE] = {"inherits_from": FULL, "previous_stage": LOW}
    intensity = {
        "max": 1000.0,
        "mean": 200.0,
        "median": 190.0,
        "min": 0.0,
        "percentile_00_5": 20.0,
        "percentile_99_5": 600.0,
        "std": 90.0,
    }
    return {
        "dataset_name": "Dataset001_Test",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [100, 100, 100],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose_forward),
        "transpose_backward": [int(i) for i in np.argsort(transpose_forward)],
        "configurations": configurations,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(c): intensity for c in range(channels)},
    }


def write_result_folder(
    parent: Path,
    plan: dict[str, Any],
    networks: Sequence[nn.Module],
    *,
    configuration: str = FULL,
    channels: Sequence[str] = ("FLAIR", "T2"),
    labels: dict[str, int] | None = None,
    mirror_axes: Sequence[int] | None = (0, 1, 2),
) -> Path:
    """Write plans.json, dataset.json and fold_N/checkpoint_final.pth as nnU-Net v2 does."""
    folder = parent / f"nnUNetTrainer__nnUNetPlans__{configuration}"
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {str(i): name for i, name in enumerate(channels)},
                "labels": labels or LABELS,
                "numTraining": 1,
                "file_ending": ".nii.gz",
            }
        )
    )
    for fold, network in enumerate(networks):
        (folder / f"fold_{fold}").mkdir()
        torch.save(
            {
                "network_weights": network.state_dict(),
                "init_args": {"configuration": configuration, "fold": fold},
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": None
                if mirror_axes is None
                else tuple(mirror_axes),
                "current_epoch": 1,
            },
            folder / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return folder


def reference_prediction(
    folder: Path,
    image: np.ndarray,
    spacing_zyx: Sequence[float],
    *,
    mirror: bool,
    previous: np.ndarray | None = None,
    folds: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Segmentation and probabilities (labels, z, y, x) of nnU-Net v2's own predictor, fp32, CPU."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    found = len(list(folder.glob("fold_*")))
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=mirror,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(
            str(folder), tuple(folds or range(found)), "checkpoint_final.pth"
        )
        segmentation, probabilities = predictor.predict_single_npy_array(
            image,
            {"spacing": list(spacing_zyx)},
            None if previous is None else previous[None].astype(np.int16),
            None,
            True,
        )
    return np.asarray(segmentation), np.asarray(probabilities, dtype=np.float32)


def brain_image(
    shape: tuple[int, int, int], spacing_zyx: Sequence[float], channels: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A masked ellipsoid with texture and bright spheres: (channels, z, y, x) and the spheres."""
    rng = np.random.default_rng(seed)
    spacing = np.asarray(spacing_zyx, dtype=float)
    extent = np.asarray(shape) * spacing
    points = np.stack(
        np.meshgrid(
            *((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
        ),
        axis=-1,
    )
    brain = (((points - extent / 2) / (extent * 0.44)) ** 2).sum(-1) <= 1
    lesions = np.zeros(shape, dtype=bool)
    for _ in range(9):
        centre = extent * (0.5 + 0.25 * rng.uniform(-1, 1, 3))
        lesions |= np.linalg.norm(points - centre, axis=-1) <= rng.uniform(2.5, 6)
    lesions &= brain
    sigma = 2.0 / spacing
    image = np.zeros((channels, *shape), dtype=np.float32)
    for channel in range(channels):
        texture = gaussian_filter(rng.normal(size=shape), sigma)
        values = (
            300
            + 60 * texture / texture.std()
            + (220 - 60 * channel) * gaussian_filter(lesions.astype(float), 0.5 / spacing)
        )
        values += rng.normal(scale=8, size=shape)
        image[channel] = np.where(brain, np.maximum(values, 1), 0)
    return image, lesions


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks."""
    return float(2 * np.logical_and(a, b).sum() / max(a.sum() + b.sum(), 1))

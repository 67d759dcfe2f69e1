"""Result folders as nnU-Net v1 and v2 leave them, with tiny networks and random weights."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

PATCH = (4, 8, 12)
SPACING = (3.0, 0.7, 0.8)
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 3]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
FEATURES = [4, 6, 8]
TWO_LABELS = {"background": 0, "lesion": 1}
V2_NAME = "nnUNetTrainer__nnUNetPlans__"


class Malicious:
    """An object whose unpickling would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def architecture(kind: str = "PlainConvUNet") -> dict[str, Any]:
    """The dictionary ``architecture`` of a plan."""
    per_stage = "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": FEATURES,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": KERNELS,
            "strides": STRIDES,
            per_stage: [1, 2, 1],
            "n_conv_per_stage_decoder": [1, 2],
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


def old_architecture(kind: str = "PlainConvUNet") -> dict[str, Any]:
    """The same network in the words of nnU-Net up to 2.2 (features double from the first on)."""
    return {
        "UNet_class_name": kind,
        "UNet_base_num_features": 4,
        "unet_max_num_features": 6,
        "n_conv_per_stage_encoder": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": STRIDES,
        "conv_kernel_sizes": KERNELS,
    }


def v2_plans(
    kind: str = "PlainConvUNet", channels: int = 2, configuration: dict[str, Any] | None = None
) -> dict[str, Any]:
    """plans.json with 3d_fullres, 3d_lowres and 3d_cascade_fullres."""
    resampling = {
        f"resampling_fn_{key}": "resample_data_or_seg_to_shape"
        for key in ("data", "seg", "probabilities")
    } | {
        f"resampling_fn_{key}_kwargs": {
            "is_seg": key == "seg",
            "order": 3 if key == "data" else 1,
            "order_z": 0,
            "force_separate_z": None,
        }
        for key in ("data", "seg", "probabilities")
    }
    full = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH),
        "median_image_size_in_voxels": [40.0, 180.0, 150.0],
        "spacing": list(SPACING),
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [True] + [False] * (channels - 1),
        **resampling,
        "batch_dice": True,
        **(configuration or {"architecture": architecture(kind)}),
    }
    intensity = {"mean": 50.0, "std": 9.0, "percentile_00_5": -5.0, "percentile_99_5": 90.0}
    return {
        "dataset_name": "Dataset123_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {
            "2d": deepcopy(full) | {"patch_size": [64, 64], "spacing": [0.7, 0.8]},
            "3d_fullres": full,
            "3d_lowres": {
                "inherits_from": "3d_fullres",
                "spacing": [4.0, 1.4, 1.6],
                "next_stage": "3d_cascade_fullres",
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        },
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): intensity | {"max": 99.0, "median": 49.0, "min": -9.0} for i in range(channels)
        },
    }


def v2_dataset(names: tuple[str, ...] = ("FLAIR", "T2w"), **changes: Any) -> dict[str, Any]:
    """dataset.json."""
    return {
        "channel_names": {str(i): name for i, name in enumerate(names)},
        "labels": TWO_LABELS,
        "numTraining": 3,
        "file_ending": ".nii.gz",
    } | changes


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Random weights; also the norms', which training starts at 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            spread = 0.3 if value.ndim > 1 else 0.5
            value.copy_(spread * torch.randn(value.shape, generator=generator))
    return network.eval()


def v2_network(plans: dict[str, Any], channels: int, labels: int, seed: int) -> nn.Module:
    """The planned network, built by hand rather than by the importer."""
    part = plans["configurations"]["3d_fullres"]["architecture"]
    keywords = dict(part["arch_kwargs"])
    keywords |= {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    residual = part["network_class_name"].endswith("ResidualEncoderUNet")
    network = (ResidualEncoderUNet if residual else PlainConvUNet)(
        input_channels=channels, num_classes=labels, deep_supervision=True, **keywords
    )
    return randomise(network, seed)


def write_v2(
    parent: Path,
    *,
    folds: tuple[object, ...] = (0,),
    configuration: str = "3d_fullres",
    plans: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    checkpoint: str = "final",
    trainer: str = "nnUNetTrainer",
    mirror_axes: tuple[int, ...] | None = (0, 1, 2),
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a result folder; each fold has its own random weights."""
    plans, dataset = plans or v2_plans(), dataset or v2_dataset()
    folder = parent / f"{trainer}__nnUNetPlans__{configuration}"
    foreground = sum(name not in ("background", "ignore") for name in dataset["labels"])
    channels = len(dataset["channel_names"])
    channels += foreground if configuration == "3d_cascade_fullres" else 0
    for number, fold in enumerate(folds):
        path = folder / f"fold_{fold}"
        path.mkdir(parents=True)
        network = v2_network(plans, channels, foreground + 1, 10 * len(configuration) + number)
        torch.save(
            {
                "network_weights": network.state_dict(),
                "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
                "grad_scaler_state": None,
                "logging": {"mean_fg_dice": [np.float64(0.5)], "ema": [np.float32(0.25)]},
                "_best_ema": np.float64(0.5),
                "current_epoch": 1000,
                "init_args": {
                    "plans": plans,
                    "configuration": configuration,
                    "fold": fold,
                    "dataset_json": dataset,
                    "device": torch.device("cuda"),
                },
                "trainer_name": trainer,
                "inference_allowed_mirroring_axes": mirror_axes,
                **(extra or {}),
            },
            path / f"checkpoint_{checkpoint}.pth",
        )
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def v1_plans(modalities: tuple[str, ...] = ("FLAIR", "T2"), labels: int = 1) -> dict[str, Any]:
    """The content of plans.pkl."""
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [1, 2, 1],
        "patch_size": np.array([4, 16, 12]),
        "median_patient_size_in_voxels": np.array([40, 180, 150]),
        "current_spacing": np.array([3.0, 0.7, 0.8]),
        "original_spacing": np.array([3.0, 0.7, 0.8]),
        "do_dummy_2D_data_aug": True,
        "pool_op_kernel_sizes": [[1, 2, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    }
    count = len(modalities)
    return OrderedDict(
        num_stages=1,
        num_modalities=count,
        modalities=dict(enumerate(modalities)),
        normalization_schemes=OrderedDict((i, "nonCT") for i in range(count)),
        dataset_properties=OrderedDict(
            all_sizes=[(40, 180, 150)],
            all_spacings=[np.array([3.0, 0.7, 0.8])],
            all_classes=list(range(1, labels + 1)),
            modalities=dict(enumerate(modalities)),
            intensityproperties=None,
            size_reductions=OrderedDict(case_1=np.float64(0.4)),
        ),
        list_of_npz_files=["case_1.npz"],
        original_spacings=[np.array([3.0, 0.7, 0.8])],
        original_sizes=[(40, 180, 150)],
        preprocessed_data_folder="preprocessed",
        num_classes=labels,
        all_classes=list(range(1, labels + 1)),
        base_num_features=4,
        use_mask_for_norm=OrderedDict((i, True) for i in range(count)),
        keep_only_largest_region=None,
        min_region_size_per_class=None,
        min_size_per_class=None,
        transpose_forward=[0, 1, 2],
        transpose_backward=[0, 1, 2],
        data_identifier="nnUNetData_plans_v2.1",
        plans_per_stage={0: stage},
        preprocessor_name="GenericPreprocessor",
        conv_per_stage=2,
    )


def v1_network(plans: dict[str, Any], seed: int) -> nn.Module:
    """nnU-Net 1.7's own network, as its standard trainer makes it."""
    from nnunet.network_architecture.generic_UNet import Generic_UNet

    stage = plans["plans_per_stage"][0]
    network = Generic_UNet(
        plans["num_modalities"],
        plans["base_num_features"],
        plans["num_classes"] + 1,
        len(stage["pool_op_kernel_sizes"]),
        plans.get("conv_per_stage", 2),
        2,
        nn.Conv3d,
        nn.InstanceNorm3d,
        {"eps": 1e-5, "affine": True},
        nn.Dropout3d,
        {"p": 0, "inplace": True},
        nn.LeakyReLU,
        {"negative_slope": 1e-2, "inplace": True},
        True,
        False,
        lambda x: x,
        None,
        stage["pool_op_kernel_sizes"],
        stage["conv_kernel_sizes"],
        False,
        True,
        True,
    )
    network.do_ds = False
    return randomise(network, seed)


def write_v1(
    folder: Path,
    *,
    folds: tuple[int, ...] = (0,),
    plans: dict[str, Any] | None = None,
    checkpoint: str = "model_final_checkpoint",
    flat: bool = False,
    trainer: str = "nnUNetTrainerV2",
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a v1 result folder, or the flat layout of a release."""
    plans = plans or v1_plans()
    folder.mkdir(parents=True)
    for fold in folds:
        path = folder / f"{fold}.model" if flat else folder / f"fold_{fold}/{checkpoint}.model"
        path.parent.mkdir(exist_ok=True)
        torch.save(
            {
                "epoch": 1000,
                "state_dict": v1_network(plans, 7 + fold).state_dict(),
                "optimizer_state_dict": {"state": {}, "param_groups": []},
                "lr_scheduler_state_dict": None,
                "plot_stuff": ([np.float64(0.1)], [np.float32(0.2)], [], [np.float64(0.7)]),
                "best_stuff": (3, np.float64(0.5), np.float64(0.6)),
                **(extra or {}),
            },
            path,
            _use_new_zipfile_serialization=fold % 2 == 0,  # as older versions of torch saved it
        )
        info = OrderedDict(
            init=("plans.pkl", fold, "out", "data", True, 0, True, False, True),
            name=trainer,
            plans=plans,
        )
        info["class"] = f"<class 'nnunet.training.network_training.{trainer}.{trainer}'>"
        with path.with_name(path.name + ".pkl").open("wb") as stream:
            pickle.dump(info, stream)
    with (folder / "plans.pkl").open("wb") as stream:
        pickle.dump(plans, stream)
    return folder

"""A genuine nnU-Net v2 result folder: plans.json, dataset.json, fold_N/checkpoint_final.pth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from model_tools.train.network import CLASS_NAME, architecture

CONFIGURATION = "3d_fullres"
TRAINER = "nnUNetTrainer"
CHECKPOINT = "checkpoint_final.pth"
CHANNELS = ("flair", "t2", "t1")


def plans(features: tuple[int, ...], patch: int, batch_size: int) -> dict[str, Any]:
    """The content of plans.json (nnU-Net v2) for 1 mm isotropic images, z-scored in the brain."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    labels = {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None}
    function = "resample_data_or_seg_to_shape"
    return {
        "dataset_name": "Dataset001_OpenMS",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0],
        "original_median_shape_after_transp": [150, 185, 145],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            CONFIGURATION: {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": batch_size,
                "patch_size": [patch] * 3,
                "median_image_size_in_voxels": [150.0, 185.0, 145.0],
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * len(CHANNELS),
                "use_mask_for_norm": [True] * len(CHANNELS),
                "resampling_fn_data": function,
                "resampling_fn_seg": function,
                "resampling_fn_data_kwargs": resampling,
                "resampling_fn_seg_kwargs": labels,
                "resampling_fn_probabilities": function,
                "resampling_fn_probabilities_kwargs": resampling,
                "architecture": {
                    "network_class_name": CLASS_NAME,
                    "arch_kwargs": architecture(features),
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": True,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): dict.fromkeys(
                ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 0.0
            )
            for i in range(len(CHANNELS))
        },
    }


def dataset(cases: int) -> dict[str, Any]:
    """The content of dataset.json."""
    return {
        "channel_names": {str(i): name for i, name in enumerate(CHANNELS)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "licence": "CC-BY 4.0",
    }


def write_fold(
    folder: Path,
    fold: int,
    weights: dict[str, torch.Tensor],
    description: dict[str, Any],
    data: dict[str, Any],
) -> None:
    """Write one fold; plans.json and dataset.json are written beside it.

    Parameters
    ----------
    folder
        The result folder (``nnUNetTrainer__nnUNetPlans__3d_fullres``).
    weights
        State of the network with deep supervision.
    description, data
        Contents of plans.json and dataset.json.
    """
    target = folder / f"fold_{fold}"
    target.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(description, indent=2) + "\n")
    (folder / "dataset.json").write_text(json.dumps(data, indent=2) + "\n")
    torch.save(
        {
            "network_weights": {name: value.cpu() for name, value in weights.items()},
            "optimizer_state": None,
            "grad_scaler_state": None,
            "logging": {},
            "_best_ema": None,
            "current_epoch": 0,
            "init_args": {
                "plans": description,
                "configuration": CONFIGURATION,
                "fold": fold,
                "dataset_json": data,
            },
            "trainer_name": TRAINER,
            "inference_allowed_mirroring_axes": None,
        },
        target / CHECKPOINT,
    )

"""nnU-Net v1 result folders: plans.pkl, fold_N/model_{final_checkpoint,best}.model with .pkl.

The flat layout of some releases ({fold}.model, {fold}.model.pkl, plans.pkl) is read as well.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from model_tools.importing.generic_unet import GenericUNet, GenericUNetPlan, Size
from model_tools.importing.pickles import load_pickle, network_weights
from model_tools.importing.trained import (
    Choice,
    TrainedChannel,
    TrainedModel,
    TrainedStage,
    choose_folds,
    divisor,
    three,
    unsupported,
)
from operators.lesion_segmentation.model_description import Intensity, Normalisation, Resampling

PLANS = "plans.pkl"
_FILES = {"final": "model_final_checkpoint.model", "best": "model_best.model"}
_TRAINERS = re.compile(
    r"nnUNetTrainer(V2(_DA2|_DA3|_DA5|_noMirroring|_noDataAugmentation|_independentScalePerAxis"
    r"|_insaneDA|_DDP|_DP|_fp16|_fp32|_fullEvals|_warmup|_Adam\w*|_SGD\w*|_Ranger\w*|_momentum\w*"
    r"|_Loss_\w+|_SegLoss_Focal|_Force[BS]D|_graduallyTransitionFromCEToDice|_cycleAtEnd2?"
    r"|_reduceMomentumDuringTraining|_copy\d|_[25]epochs|_noDeepSupervision)?)?"
)
"""nnU-Net 1.7's own trainers that leave Generic_UNet and the preprocessing as they are."""
_NEVER_MIRRORED = ("_noMirroring", "_noDataAugmentation")


def _sizes(values: Any, folder: str, name: str) -> tuple[Size, ...]:
    sizes = [three(value, folder, name) for value in values]
    return tuple((int(a), int(b), int(c)) for a, b, c in sizes)


def _network_plan(plans: dict[str, Any], stage: dict[str, Any], folder: str) -> GenericUNetPlan:
    strides = stage.get("pool_op_kernel_sizes")
    if strides is None:  # plans before v1.6 state only how often each axis is halved
        depths = [int(n) for n in stage["num_pool_per_axis"]]
        strides = [[2 if max(depths) - n <= i else 1 for n in depths] for i in range(max(depths))]
    kernels = stage.get("conv_kernel_sizes") or [[3, 3, 3]] * (len(strides) + 1)
    plan = GenericUNetPlan(
        channels=int(plans["num_modalities"]),
        labels=int(plans["num_classes"]) + 1,
        base_features=int(plans["base_num_features"]),
        strides=_sizes(strides, folder, "pool_op_kernel_sizes"),
        kernels=_sizes(kernels, folder, "conv_kernel_sizes"),
        blocks=int(plans.get("conv_per_stage", 2)),
    )
    if (
        len(plan.kernels) != len(plan.strides) + 1
        or any(set(kernel) - {1, 3} for kernel in plan.kernels)
        or plan.blocks < 2
    ):
        raise unsupported(
            folder,
            "its plan's network has kernels other than 1 and 3, or one convolution per stage.",
            "Only networks that nnU-Net v1 plans itself are imported.",
        )
    return plan


def _channels(plans: dict[str, Any], folder: str) -> tuple[TrainedChannel, ...]:
    names = plans["dataset_properties"]["modalities"]
    intensities = plans["dataset_properties"].get("intensityproperties")
    channels = []
    for i in range(int(plans["num_modalities"])):
        scheme = str(plans["normalization_schemes"][i])
        masked = bool(plans["use_mask_for_norm"][i])
        intensity = None
        normalisation: Normalisation
        if scheme == "CT" and not masked and intensities is not None:
            found = intensities[i]
            normalisation = "ct"
            intensity = Intensity(
                mean=float(found["mean"]),
                std=float(found["sd"]),
                percentile_00_5=float(found["percentile_00_5"]),
                percentile_99_5=float(found["percentile_99_5"]),
            )
        elif scheme == "nonCT":
            normalisation = "zscore_in_mask" if masked else "zscore"
        elif scheme == "noNorm":
            normalisation = "none"
        else:
            raise unsupported(
                folder,
                f"channel {names[i]} is normalised with {scheme}{' in a mask' if masked else ''}.",
                "nonCT, CT without a mask and noNorm are imported.",
            )
        channels.append(TrainedChannel(str(names[i]), normalisation, intensity))
    return tuple(channels)


def _labels(plans: dict[str, Any], choice: Choice, folder: str) -> dict[str, int]:
    values = sorted(int(value) for value in plans["all_classes"])
    if values != list(range(1, int(plans["num_classes"]) + 1)):
        raise unsupported(
            folder, f"its labels are {values}, not 1, 2, … without a gap.", "Train it so."
        )
    names = choice.label_names or (
        ("lesion",) if len(values) == 1 else tuple(f"label_{value}" for value in values)
    )
    if len(names) != len(values) or len({"background", *names}) != len(values) + 1:
        raise unsupported(
            folder, f"it has {len(values)} labels.", "Give a name for each with --labels."
        )
    return {"background": 0} | dict(zip(names, values, strict=True))


def _fold_files(folder: Path, checkpoint: str) -> tuple[dict[str, Path], str]:
    """Fold name to file of weights, in either layout, and the file's name for messages."""
    flat = {p.stem: p for p in folder.glob("*.model") if re.fullmatch(r"\d+|all", p.stem)}
    if flat:
        return flat, "{fold}.model"
    name = _FILES[checkpoint]
    folds = {p.name.removeprefix("fold_"): p / name for p in folder.glob("fold_*")}
    if (folder / "all").is_dir():
        folds["all"] = folder / "all" / name
    return folds, name


def _info(checkpoint: Path, folder: str) -> dict[str, Any]:
    """The ``.pkl`` beside a file of weights."""
    path = checkpoint.with_name(checkpoint.name + ".pkl")
    if not path.is_file():
        raise unsupported(folder, f"{path.name} is missing beside the weights.", "Copy it as well.")
    info = load_pickle(path)
    if not isinstance(info, dict) or not {"name", "init", "plans"} <= set(info):
        raise unsupported(
            folder, f"{path.name} does not say how it was trained.", "Give nnU-Net v1's own file."
        )
    return dict(info)


def _geometry(plans: dict[str, Any], number: int) -> tuple[Any, ...]:
    """What must agree between the plans of all folds and plans.pkl."""
    stage = plans["plans_per_stage"][number]
    return (
        [float(v) for v in stage["current_spacing"]],
        [int(v) for v in stage["patch_size"]],
        int(plans["num_modalities"]),
        int(plans["num_classes"]),
        int(plans["base_num_features"]),
        [str(s) for s in dict(plans["normalization_schemes"]).values()],
    )


def _stage_number(info: dict[str, Any], folder: str) -> int:
    """Which of the plan's stages the folds were trained for."""
    stages = [int(key) for key in info["plans"]["plans_per_stage"]]
    init = info["init"]
    number = init[5] if isinstance(init, (list, tuple)) and len(init) > 5 else None
    if number is None and len(stages) == 1:
        return stages[0]
    if number is None or int(number) not in stages:
        raise unsupported(
            folder, "its .pkl does not say which stage it is.", "Give nnU-Net v1's own files."
        )
    return int(number)


def build_generic(plan: GenericUNetPlan) -> nn.Module:
    """v1's network with random weights, in evaluation mode."""
    return GenericUNet(plan).eval()


def read_v1(folder: Path, choice: Choice) -> TrainedModel:
    """Read an nnU-Net v1 result folder (``TRAINER__PLANS``) or a flat release.

    Weights stay on the disk until the stage's ``load`` is called.

    Raises
    ------
    ConfigurationError
        If something is missing, damaged, not supported, or asks to run code.
    """
    try:
        return _read(folder, choice)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unsupported(
            folder.name,
            f"{PLANS} or a .pkl lacks an entry that nnU-Net v1 writes ({error!r}).",
            "Give the files as nnU-Net v1 wrote them.",
        ) from error


def _read(folder: Path, choice: Choice) -> TrainedModel:
    name = folder.name
    files, label = _fold_files(folder, choice.checkpoint)
    folds, checkpoints = choose_folds(folder, files, choice.folds, label)
    infos = [_info(path, name) for path in checkpoints]
    info, plans = infos[0], infos[0]["plans"]
    trainer = str(info["name"])
    if "Cascade" in trainer:
        raise unsupported(
            name,
            f"it was trained with {trainer}: cascades of nnU-Net v1 are not supported.",
            "Give its 3d_fullres or 3d_lowres model, or a cascade of nnU-Net v2.",
        )
    if _TRAINERS.fullmatch(trainer) is None and not choice.trust_trainer:
        raise unsupported(
            name,
            f"it was trained with {trainer}, which is not known to leave nnU-Net v1's network and "
            "preprocessing as they are.",
            "If it changes neither, say so with --trust-trainer.",
        )
    number = _stage_number(info, name)
    written = load_pickle(folder / PLANS)
    for other in (*infos[1:], {"name": trainer, "plans": written}):
        if other["name"] != trainer or _geometry(other["plans"], number) != _geometry(
            plans, number
        ):
            raise unsupported(
                name, "its folds or its plans.pkl come from different trainings.", "Give one."
            )
    stage = plans["plans_per_stage"][number]
    preprocessor = str(plans.get("preprocessor_name", "GenericPreprocessor"))
    if preprocessor != "GenericPreprocessor":
        raise unsupported(
            name, f"its preprocessor is {preprocessor}.", "Only v1's GenericPreprocessor works."
        )
    patch = three(stage["patch_size"], name, "patch_size")
    forward = [int(axis) for axis in plans.get("transpose_forward") or (0, 1, 2)]
    several = len(plans["plans_per_stage"]) > 1
    network = _network_plan(plans, stage, name)
    return TrainedModel(
        made_by="nnU-Net v1",
        dataset=_task_name(folder),
        trainer=trainer,
        plans_name="plans.pkl",
        architecture="Generic_UNet",
        channels=_channels(plans, name),
        labels=_labels(plans, choice, name),
        transpose_forward=(forward[0], forward[1], forward[2]),
        orientation=None,
        resampling=Resampling(normalise_first=False),
        averaging="softmax",
        mirror_axes=() if trainer.endswith(_NEVER_MIRRORED) else (0, 1, 2),
        licence=None,
        stages=(
            TrainedStage(
                stage="fullres",
                configuration="3d_lowres" if several and number == 0 else "3d_fullres",
                spacing_mm=three(stage["current_spacing"], name, "current_spacing"),
                patch=(int(patch[0]), int(patch[1]), int(patch[2])),
                folds=folds,
                checkpoints=checkpoints,
                input_channels=network.channels,
                divisor=divisor(network.strides),
                build=partial(build_generic, network),
                load=partial(network_weights, key="state_dict"),
            ),
        ),
    )


def _task_name(folder: Path) -> str:
    """v1 keeps the data set's name only in the path: ``…/TaskNNN_Name/TRAINER__PLANS``."""
    return next(
        (p for p in (folder.name, folder.parent.name) if re.match(r"Task\d+_", p)), folder.name
    )

"""nnU-Net v2 result folders: plans.json, dataset.json, fold_N/checkpoint_{final,best}.pth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from model_tools.importing.networks import BATCH_NORM, architecture_of, build_network
from model_tools.importing.pickles import load_checkpoint, network_weights
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
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_description import (
    Intensity,
    Normalisation,
    Resampling,
    Stage,
)

PLANS, DATASET = "plans.json", "dataset.json"
LARGEST_JSON = 256 * 2**20
_NORMALISATIONS: dict[tuple[str, bool], Normalisation] = {
    ("ZScoreNormalization", True): "zscore_in_mask",
    ("ZScoreNormalization", False): "zscore",
    ("CTNormalization", True): "ct",
    ("CTNormalization", False): "ct",
    ("NoNormalization", True): "none",
    ("NoNormalization", False): "none",
    ("RescaleTo01Normalization", True): "rescale_0_1",
    ("RescaleTo01Normalization", False): "rescale_0_1",
}
_ORIENTATIONS: dict[str, str | None] = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "NibabelIOWithReorient": "RAS",
}
_BATCH_NORM_TRAINER = "nnUNetTrainerBN"
_TRAINERS = re.compile(
    r"nnUNetTrainer(BN|NoDeepSupervision|NoMirroring|NoDA|DA5|DAOrd0|DA5ord0|DA5Segord0"
    r"|_DASegOrd0|_DASegOrd0_NoMirroring|_noDummy2DDA|_onlyMirror01(_DA5|_1500ep|_DASegOrd0)?"
    r"|CosAnneal|_warmup|VanillaAdam\w*|Ada[mn](CosAnneal|\d+en\d+)?"
    r"|CELoss|DiceLoss|DiceCELoss_noSmooth|(Dice)?Top[kK]10Loss(LS01)?|CELoss_5epochs"
    r"|_probabilisticOversampling(_\d+)?|Benchmark_5epochs\w*|DA5_10epochs"
    r"|_\d+epochs?(_NoMirroring)?)?"
)
"""nnU-Net 2.8's own trainers that leave the planned network and the preprocessing as they are
(nnUNetTrainerBN replaces the norm)."""


def _json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise unsupported(
            folder.name,
            f"{path.name} is missing.",
            f"Give the folder that holds {PLANS}, {DATASET} and fold_0, fold_1, ….",
        )
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise unsupported(
            folder.name, f"{path.name} is not valid JSON.", "Copy the folder again."
        ) from error
    return content


def _configuration(plans: Mapping[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """A configuration with everything that it inherits."""
    found: dict[str, Any] = {}
    seen: set[str] = set()
    current = name
    while True:
        part = plans["configurations"].get(current)
        if part is None or current in seen:
            raise unsupported(
                folder.name,
                f"{PLANS} holds no configuration {current}, or it inherits from itself.",
                "Give nnU-Net's own plans.",
            )
        seen.add(current)
        found = dict(part) | found
        if "inherits_from" not in part:
            return found
        current = part["inherits_from"]


def _channels(
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    dataset: Mapping[str, Any],
    name: str,
) -> tuple[TrainedChannel, ...]:
    names = dataset.get("channel_names", dataset.get("modality"))
    schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if not isinstance(names, dict) or not len(names) == len(schemes) == len(masks):
        raise unsupported(
            name,
            f"{DATASET}'s channel_names and the plan's normalisation differ in number.",
            "Give the plans and the data set's description of the same training.",
        )
    intensities = plans.get(
        "foreground_intensity_properties_per_channel",
        plans.get("foreground_intensity_properties_by_modality", {}),
    )
    channels = []
    for i, (scheme, mask) in enumerate(zip(schemes, masks, strict=True)):
        normalisation = _NORMALISATIONS.get((scheme, bool(mask)))
        if normalisation is None:
            raise unsupported(
                name,
                f"channel {names[str(i)]} is normalised with {scheme}.",
                "ZScore, CT, No and RescaleTo01 normalisation are imported.",
            )
        intensity = None
        if normalisation == "ct":
            found = intensities[str(i)]
            intensity = Intensity(**{key: found[key] for key in Intensity.model_fields})
        channels.append(TrainedChannel(str(names[str(i)]), normalisation, intensity))
    return tuple(channels)


def _labels(dataset: Mapping[str, Any], plans: Mapping[str, Any], name: str) -> dict[str, int]:
    if plans.get("label_manager", "LabelManager") not in (None, "LabelManager"):
        raise unsupported(
            name, f"its label manager is {plans['label_manager']}.", "Only nnU-Net's own works."
        )
    labels = {}
    for label, value in dataset["labels"].items():
        if isinstance(value, list):
            if len(value) != 1:
                raise unsupported(
                    name,
                    f"its label {label} is a region of several values (region-based training, "
                    "sigmoid outputs), which is not supported.",
                    "Train with labels that exclude each other.",
                )
            value = value[0]
        if label != "ignore":  # not an output of the network
            labels[str(label)] = int(value)
    if labels.get("background") != 0 or sorted(labels.values()) != list(range(len(labels))):
        raise unsupported(
            name,
            "its labels are not background 0 and 1, 2, … without a gap.",
            "nnU-Net asks for that, too: correct dataset.json.",
        )
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def _resampling(configuration: Mapping[str, Any], name: str) -> Resampling:
    orders: dict[str, Any] = {}
    shared: list[tuple[Any, float]] = []
    for key in ("data", "seg", "probabilities"):
        function = configuration[f"resampling_fn_{key}"]
        arguments = dict(configuration[f"resampling_fn_{key}_kwargs"])
        if function != "resample_data_or_seg_to_shape":
            raise unsupported(
                name,
                f"its plan resamples with {function}.",
                "Only nnU-Net's default, resample_data_or_seg_to_shape, is imported.",
            )
        orders[f"order_{key}"] = arguments.get("order", 3)
        orders[f"order_z_{key}"] = arguments.get("order_z", 0)
        shared.append(
            (
                arguments.get("force_separate_z", False),
                float(arguments.get("separate_z_anisotropy_threshold", 3.0)),
            )
        )
    if len(set(shared)) > 1:
        raise unsupported(
            name,
            "its plan treats thick slices differently in images, labels and probabilities.",
            "Give the same force_separate_z for all three.",
        )
    force, threshold = shared[0]
    return Resampling(**orders, force_separate_z=force, anisotropy_threshold=threshold)


def _check_trainer(trainer: str, name: str, trusted: bool) -> None:
    if _TRAINERS.fullmatch(trainer) is None and not trusted:
        raise unsupported(
            name,
            f"it was trained with {trainer}, which is not one of nnU-Net's own trainers, so its "
            "network or preprocessing may be another than planned.",
            "If it changes neither, say so with --trust-trainer.",
        )


def _first(path: Path, folder: Path) -> tuple[str, str, tuple[int, ...]]:
    """Trainer, configuration and mirror axes that a checkpoint states."""
    content = load_checkpoint(path)
    try:
        axes = content.get("inference_allowed_mirroring_axes")
        return (
            str(content["trainer_name"]),
            str(content["init_args"]["configuration"]),
            tuple(int(axis) for axis in axes) if axes is not None else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise unsupported(
            folder.name,
            f"{path.parent.name}/{path.name} does not say how it was trained ({error!r}).",
            "Give a checkpoint that nnU-Net v2 wrote.",
        ) from error


def _stage(
    folder: Path, choice: Choice, stage: Stage, previous: bool
) -> tuple[TrainedStage, dict[str, Any], dict[str, Any], str, tuple[int, ...]]:
    """One configuration's folds, with its plans, data set, trainer and mirror axes."""
    plans, dataset = _json(folder / PLANS, folder), _json(folder / DATASET, folder)
    file = f"checkpoint_{choice.checkpoint}.pth"
    folds = {p.name.removeprefix("fold_"): p / file for p in sorted(folder.glob("fold_*"))}
    names, files = choose_folds(folder, folds, choice.folds, file)
    trainer, configuration_name, axes = _first(files[0], folder)
    for path in files[1:]:
        if _first(path, folder)[:2] != (trainer, configuration_name):
            raise unsupported(
                folder.name,
                f"{path.parent.name} was trained with another trainer or configuration.",
                "Give folds of one training.",
            )
    configuration = _configuration(plans, configuration_name, folder)
    _check_trainer(trainer, folder.name, choice.trust_trainer)
    patch = three(configuration.get("patch_size"), folder.name, "patch_size")
    architecture, arguments = architecture_of(configuration, folder.name)
    if trainer == _BATCH_NORM_TRAINER:
        arguments |= {"norm_op": BATCH_NORM, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    labels = _labels(dataset, plans, folder.name)
    channels = len(_channels(plans, configuration, dataset, folder.name))
    if previous:
        channels += len(labels) - 1
    result = TrainedStage(
        stage=stage,
        configuration=configuration_name,
        spacing_mm=three(configuration.get("spacing"), folder.name, "spacing"),
        patch=(int(patch[0]), int(patch[1]), int(patch[2])),
        folds=names,
        checkpoints=files,
        input_channels=channels,
        divisor=divisor(arguments["strides"]),
        build=partial(build_network, architecture, arguments, channels, len(labels), folder.name),
        load=partial(network_weights, key="network_weights"),
    )
    return result, plans, dataset, trainer, axes


def _previous_folder(folder: Path, name: str, choice: Choice) -> Path:
    """The result folder of a cascade's first stage."""
    if choice.previous_stage is not None:
        found = choice.previous_stage
    else:
        stem, separator, _ = folder.name.rpartition("__")
        found = folder.parent / f"{stem}{separator}{name}"
    if not (found / PLANS).is_file():
        raise unsupported(
            folder.name,
            f"it is the second stage of a cascade, and its first stage {name} is not beside it.",
            "Give that result folder with --previous-stage.",
        )
    return found


def read_v2(folder: Path, choice: Choice) -> TrainedModel:
    """Read an nnU-Net v2 result folder (``TRAINER__PLANS__CONFIGURATION``).

    Weights stay on the disk until a stage's ``load`` is called.

    Raises
    ------
    ConfigurationError
        If something is missing, damaged or not supported; it names what.
    """
    try:
        return _read(folder, choice)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unsupported(
            folder.name,
            f"{PLANS} or {DATASET} lacks an entry that nnU-Net v2 writes ({error!r}).",
            "Give the files as nnU-Net v2 wrote them.",
        ) from error


def _read(folder: Path, choice: Choice) -> TrainedModel:
    plans = _json(folder / PLANS, folder)
    name = _configuration_name(folder, choice)
    before = _configuration(plans, name, folder).get("previous_stage")
    stage, plans, dataset, trainer, axes = _stage(folder, choice, "fullres", before is not None)
    configuration = _configuration(plans, stage.configuration, folder)
    if stage.configuration != name:
        raise unsupported(
            folder.name,
            f"its checkpoints belong to {stage.configuration}, not to {name}.",
            "Leave the folder's name as nnU-Net gave it, or name it with --configuration.",
        )
    if configuration.get("preprocessor_name", "DefaultPreprocessor") != "DefaultPreprocessor":
        raise unsupported(
            folder.name,
            f"its preprocessor is {configuration['preprocessor_name']}.",
            "Only nnU-Net's DefaultPreprocessor is imported.",
        )
    stages = [stage]
    if before is not None:
        first_folder = _previous_folder(folder, before, choice)
        first, first_plans, first_dataset, _, first_axes = _stage(
            first_folder, choice, "lowres", False
        )
        first_configuration = _configuration(first_plans, first.configuration, first_folder)
        if (
            first_dataset["labels"] != dataset["labels"]
            or _channels(first_plans, first_configuration, first_dataset, first_folder.name)
            != _channels(plans, configuration, dataset, folder.name)
            or first_plans["transpose_forward"] != plans["transpose_forward"]
            or _resampling(first_configuration, first_folder.name)
            != _resampling(configuration, folder.name)
            or len(first.folds) != len(stage.folds)
            or first_axes != axes
            or first_configuration.get("previous_stage") is not None
        ):
            raise unsupported(
                folder.name,
                f"its first stage {first_folder.name} differs in channels, labels, normalisation, "
                "resampling, number of folds or mirror axes.",
                "Give the two stages of one cascade, and the same folds of both.",
            )
        stages.insert(0, first)
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in _ORIENTATIONS:
        raise unsupported(
            folder.name,
            f"its images were read with {reader}.",
            f"{', '.join(_ORIENTATIONS)} are imported.",
        )
    forward = [int(axis) for axis in plans["transpose_forward"]]
    licence = dataset.get("licence", dataset.get("license"))
    return TrainedModel(
        made_by="nnU-Net v2",
        dataset=str(plans["dataset_name"]),
        trainer=trainer,
        plans_name=str(plans["plans_name"]),
        architecture=architecture_of(configuration, folder.name)[0],
        channels=_channels(plans, configuration, dataset, folder.name),
        labels=_labels(dataset, plans, folder.name),
        transpose_forward=(forward[0], forward[1], forward[2]),
        orientation=_ORIENTATIONS[reader],
        resampling=_resampling(configuration, folder.name),
        averaging="logits",
        mirror_axes=axes,
        licence=str(licence) if licence else None,
        stages=tuple(stages),
    )


def _configuration_name(folder: Path, choice: Choice) -> str:
    """The configuration by the folder's name, else by the first checkpoint."""
    if choice.configuration is not None:
        return choice.configuration
    name = folder.name.rpartition("__")[2]
    if name in _json(folder / PLANS, folder)["configurations"]:
        return name
    for path in sorted(folder.glob(f"fold_*/checkpoint_{choice.checkpoint}.pth")):
        return _first(path, folder)[1]
    raise ConfigurationError(
        f"result folder {folder.name}",
        f"it holds no fold_*/checkpoint_{choice.checkpoint}.pth.",
        "Give a folder with trained folds, or the other checkpoint with --checkpoint.",
    )

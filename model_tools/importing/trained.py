"""What a trained nnU-Net is, whichever version left it; what the readers return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_description import (
    Intensity,
    Normalisation,
    Resampling,
    Stage,
)

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainedChannel:
    """An input channel as nnU-Net names and normalises it."""

    name: str
    normalisation: Normalisation
    intensity: Intensity | None = None


@dataclass(frozen=True)
class TrainedStage:
    """The folds of one configuration.

    Attributes
    ----------
    stage
        "lowres" for the first network of a cascade, else "fullres".
    configuration
        nnU-Net's name, as "3d_fullres".
    spacing_mm, patch
        In the network's axes, after ``transpose_forward``.
    folds
        Names of the folds, as "0" or "all", one per checkpoint.
    checkpoints
        The files of weights.
    input_channels
        Channels of the network: the images', and in a cascade's second stage the labels'.
    divisor
        What the network's input must be divisible by, along each axis.
    build
        Makes the network, in evaluation mode, with one output (no deep supervision) and random
        weights; its parameters have the names of the checkpoint.
    load
        Reads one checkpoint's weights.
    """

    stage: Stage
    configuration: str
    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    folds: tuple[str, ...]
    checkpoints: tuple[Path, ...]
    input_channels: int
    divisor: tuple[int, int, int]
    build: Callable[[], nn.Module]
    load: Callable[[Path], Weights]


@dataclass(frozen=True)
class TrainedModel:
    """A trained nnU-Net.

    Attributes
    ----------
    made_by
        "nnU-Net v2" or "nnU-Net v1".
    dataset, trainer, plans_name, architecture
        As nnU-Net's files name them, for the card.
    labels
        Name to value, background 0 first.
    orientation
        The orientation that the reader of the images brings them to; None if it keeps the files'.
    mirror_axes
        Spatial axes that the training allows to be mirrored.
    licence
        As stated in the data set's description; None if nothing is said.
    """

    made_by: Literal["nnU-Net v2", "nnU-Net v1"]
    dataset: str
    trainer: str
    plans_name: str
    architecture: str
    channels: tuple[TrainedChannel, ...]
    labels: dict[str, int]
    transpose_forward: tuple[int, int, int]
    orientation: str | None
    resampling: Resampling
    averaging: Literal["logits", "softmax"]
    mirror_axes: tuple[int, ...]
    licence: str | None
    stages: tuple[TrainedStage, ...]


@dataclass(frozen=True)
class Choice:
    """What the user may choose about the folder.

    Attributes
    ----------
    checkpoint
        "final" or "best".
    folds
        Names of the folds to take; None for all.
    configuration
        As "3d_fullres"; None if the folder holds only one.
    previous_stage
        Result folder of a cascade's first stage; None to look beside the given one.
    trust_trainer
        Take an unknown trainer as one that changed neither network nor preprocessing.
    label_names
        Names of the foreground labels by value, where nnU-Net's files hold none (v1).
    """

    checkpoint: Literal["final", "best"] = "final"
    folds: tuple[str, ...] | None = None
    configuration: str | None = None
    previous_stage: Path | None = None
    trust_trainer: bool = False
    label_names: tuple[str, ...] | None = None


def unsupported(folder: str, what: str, remedy: str) -> ConfigurationError:
    """The error for a result folder that cannot be imported."""
    return ConfigurationError(f"result folder {folder}", what, remedy)


def three(values: Any, folder: str, name: str) -> tuple[float, float, float]:
    """Three positive finite numbers of a plan."""
    if isinstance(values, (list, tuple, np.ndarray)):
        numbers = [float(v) for v in values]
        if len(numbers) == 2:
            raise unsupported(
                folder,
                f"its {name} has two axes: it is a 2d configuration, which is not supported.",
                "Give a 3d_fullres, 3d_lowres or 3d_cascade_fullres folder.",
            )
        if len(numbers) == 3 and all(0 < v < float("inf") for v in numbers):
            return numbers[0], numbers[1], numbers[2]
    raise unsupported(
        folder, f"its plan's {name} is not three positive numbers.", "Give nnU-Net's own plans."
    )


def divisor(strides: Any) -> tuple[int, int, int]:
    """Product of the downsampling steps along each axis; a step is one number or three."""
    steps = np.array([np.broadcast_to(step, 3) for step in strides], dtype=int)
    total = steps.prod(axis=0)
    return int(total[0]), int(total[1]), int(total[2])


def choose_folds(
    folder: Path, files: dict[str, Path], wanted: tuple[str, ...] | None, checkpoint: str
) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The folds to import and their files of weights.

    Parameters
    ----------
    folder
        The result folder.
    files
        Fold name ("0", "all") to the checkpoint's path, whether it exists or not.
    wanted
        The user's choice; None for every numbered fold.
    checkpoint
        The checkpoint's name, for the message.

    Raises
    ------
    ConfigurationError
        If a fold or a checkpoint is missing, also in the middle of the numbering.
    """
    numbered = sorted((f for f in files if f.isdigit()), key=int)
    chosen = tuple(wanted) if wanted is not None else tuple(numbered)
    if not chosen:
        remedy = "Give --folds all." if "all" in files else "Give the folder that training left."
        raise unsupported(folder.name, "it holds no numbered fold.", remedy)
    present = [f for f in files if files[f].is_file()]
    if wanted is None:
        chosen = tuple(str(number) for number in range(int(numbered[-1]) + 1))
    missing = [f for f in chosen if f not in present]
    if missing or len(set(chosen)) != len(chosen):
        usable = " ".join(sorted(present)) or "none"
        raise unsupported(
            folder.name,
            f"fold {', '.join(missing or chosen)} has no {checkpoint}, or is named twice.",
            f"Add it, choose among the folds that have one with --folds ({usable}), or take the "
            "other checkpoint with --checkpoint.",
        )
    return chosen, tuple(files[f] for f in chosen)

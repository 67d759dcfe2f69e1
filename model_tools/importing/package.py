"""From a trained nnU-Net to a checked model package on disk."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model_tools.importing import v1, v2
from model_tools.importing.archive import opened
from model_tools.importing.card import import_card
from model_tools.importing.graph import ensemble_graph, export_member, save_graph
from model_tools.importing.options import ImportOptions
from model_tools.importing.trained import Choice, TrainedModel, TrainedStage, unsupported
from model_tools.importing.verify import largest_difference
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    CARD_FILE,
    NETWORK_FILE,
    SCHEMA_VERSION,
    Channel,
    ModelDescription,
    ModelPackage,
    Network,
    file_sha256,
    load_model_package,
    write_model_description,
)

log = logging.getLogger(__name__)
SOURCE_FILE = "source.json"
"""What ``fetch`` writes beside the weights: publisher, licence, roles and checksums."""
LOWRES_FILE = "lowres.onnx"
TOLERANCE = 1e-3
"""Largest difference of a probability between the package and torch."""
_ROLES = {
    **dict.fromkeys(("flair", "fluid attenuated inversion recovery"), "flair"),
    **dict.fromkeys(("t2", "t2w", "t2 weighted"), "t2"),
    **dict.fromkeys(("t1", "t1w", "t1 weighted", "mprage"), "t1"),
}


def channel_roles(model: TrainedModel, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """The series role of each channel, given or by nnU-Net's channel names.

    Raises
    ------
    ConfigurationError
        If a name has no role, or the number is wrong.
    """
    names = [channel.name for channel in model.channels]
    if given is not None:
        if len(given) != len(names) or len(set(given)) != len(given):
            raise ConfigurationError(
                "--roles",
                f"the model has {len(names)} channels ({', '.join(names)}).",
                "Give a different role for each, in this order.",
            )
        return given
    roles = [
        _ROLES.get(" ".join(n.replace("-", " ").replace("_", " ").lower().split())) for n in names
    ]
    unknown = [name for name, role in zip(names, roles, strict=True) if role is None]
    if unknown or len(set(roles)) != len(roles):
        raise ConfigurationError(
            "channels of the model",
            f"{', '.join(unknown or names)} has no role, or two channels have the same.",
            f"Give the series role of each channel ({', '.join(names)}) with --roles.",
        )
    return tuple(role for role in roles if role is not None)


def _targets(model: TrainedModel, given: tuple[str, ...] | None) -> tuple[str, ...]:
    foreground = [name for name, value in model.labels.items() if value]
    if given is None and len(foreground) == 1:
        return (foreground[0],)
    if given is None or not set(given) <= set(foreground):
        raise ConfigurationError(
            "labels of the model",
            f"they are {', '.join(foreground)}.",
            "Name the one or more that are the lesions with --target.",
        )
    return given


def read_source(folder: Path) -> dict[str, Any]:
    """What ``fetch`` recorded beside the weights; empty if the folder was not fetched.

    Raises
    ------
    ConfigurationError
        If a file differs from the checksum recorded when it was downloaded.
    """
    path = folder / SOURCE_FILE
    if not path.is_file():
        return {}
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        checksums = {str(name): str(entry["sha256"]) for name, entry in found["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise unsupported(folder.name, f"{SOURCE_FILE} is damaged.", "Fetch again.") from error
    for name, expected in checksums.items():
        file = folder / Path(name).name
        if not file.is_file() or file_sha256(file) != expected:
            raise unsupported(
                folder.name,
                f"{Path(name).name} is missing or differs from its checksum in {SOURCE_FILE}.",
                "Delete it and fetch again.",
            )
    return found


def _write_network(
    stage: TrainedStage, model: TrainedModel, axes: tuple[int, ...], half: bool, path: Path
) -> tuple[tuple[str, ...], float]:
    """Write one stage's ensemble and compare it with torch."""
    log.info("%s: fold %s", stage.configuration, ", ".join(stage.folds))
    expected = {name: tuple(value.shape) for name, value in stage.build().state_dict().items()}
    for checkpoint in stage.checkpoints:
        weights = stage.load(checkpoint)
        found = {name: tuple(value.shape) for name, value in weights.items()}
        if found != expected:
            different = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
            raise unsupported(
                checkpoint.parent.name,
                f"its weights are not those of the planned {model.architecture} (first difference: "
                f"{different[0]}).",
                "Give the plan that it was trained with; changed architectures are not supported.",
            )
    member = export_member(stage.build(), stage.input_channels, stage.patch)
    folds = (stage.load(checkpoint) for checkpoint in stage.checkpoints)
    files = save_graph(ensemble_graph(member, folds, model.averaging, axes), path, half=half)
    difference = largest_difference(path, stage, model.averaging, axes, half=half)
    log.info("largest difference from torch: %.2g in probability", difference)
    if difference > TOLERANCE:
        raise RuntimeError(f"{path.name} differs from torch by {difference} in probability")
    return files, difference


def read_model(folder: Path, choice: Choice) -> TrainedModel:
    """Read a result folder of either version."""
    return (v2.read_v2 if (folder / v2.PLANS).is_file() else v1.read_v1)(folder, choice)


def import_package(source: Path, target: Path, options: ImportOptions) -> ModelPackage:
    """Make a model package of a trained nnU-Net.

    The package appears under its name when it is complete and checked.

    Parameters
    ----------
    source
        A result folder of nnU-Net v1 or v2, a folder above it, or a zip exported by nnU-Net.
    target
        The package's folder, as models/NAME; it must not exist yet.
    options
        The user's decisions.

    Raises
    ------
    ConfigurationError
        If something is missing, damaged, not supported or would run code.
    RuntimeError
        If the written network differs from torch.
    """
    target = target.absolute()
    if target.exists() and not options.replace:
        raise ConfigurationError(
            f"model package {target.name}",
            "it exists already.",
            "Choose another name with -o, or replace it with --replace.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        with opened(source, options.choice.configuration, workplace) as folder:
            model = read_model(folder, options.choice)
            origin = read_source(folder)
            package = workplace / target.name
            package.mkdir()
            _write_package(model, origin, package, options)
        if target.exists():
            shutil.rmtree(target)
        package.rename(target)
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return load_model_package(target)


def _file_of(stage: TrainedStage) -> str:
    return NETWORK_FILE if stage.stage == "fullres" else LOWRES_FILE


def describe(
    model: TrainedModel, origin: dict[str, Any], name: str, options: ImportOptions
) -> ModelDescription:
    """What model.json will say, with empty checksums.

    Raises
    ------
    ConfigurationError
        If the user's decisions do not fit the model.
    """
    roles = channel_roles(model, options.roles or tuple(origin.get("roles", ())) or None)
    stated = options.licence or origin.get("licence") or model.licence
    threshold = options.threshold
    if threshold is None and len(model.labels) == 2:
        threshold = 0.5
    description: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": options.version,
        "body_site": options.body_site,
        "channels": [
            Channel(role=role, normalisation=c.normalisation, intensity=c.intensity)
            for role, c in zip(roles, model.channels, strict=True)
        ],
        "reference_role": options.reference_role or "",
        "labels": model.labels,
        "target_labels": _targets(model, options.target_labels),
        "orientation": options.orientation or model.orientation or "LPS",
        "transpose_forward": model.transpose_forward,
        "preprocessing": "nnunet",
        "resampling": model.resampling,
        "brain_only": options.brain_only,
        "networks": [
            Network(
                file=_file_of(stage),
                stage=stage.stage,
                spacing_zyx_mm=stage.spacing_mm,
                patch_size_zyx=stage.patch,
            )
            for stage in model.stages
        ],
        "folds": len(model.stages[-1].folds),
        "averaging": model.averaging,
        "mirror_axes": model.mirror_axes if options.mirror else (),
        "threshold": threshold,
        "source": options.source or origin.get("source") or f"{model.made_by}, {model.dataset}",
        "licence": stated or "not stated",
        "files": {_file_of(stage): "" for stage in model.stages},
    }
    try:
        return ModelDescription.model_validate(description)
    except ValidationError as error:
        detail = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise ConfigurationError(
            f"model package {name}",
            f"what is asked for does not make a valid package ({detail}).",
            "Correct the option.",
        ) from error


def _write_package(
    model: TrainedModel, origin: dict[str, Any], package: Path, options: ImportOptions
) -> None:
    description = describe(model, origin, package.name, options)
    files: list[str] = [CARD_FILE]
    differences: list[float] = []
    for stage in model.stages:
        written, difference = _write_network(
            stage,
            model,
            description.mirror_axes,
            options.half_weights,
            package / _file_of(stage),
        )
        files += written
        differences.append(difference)
    card = import_card(model, description, origin, max(differences), options)
    (package / CARD_FILE).write_text(card, encoding="utf-8")
    checksums = {name: file_sha256(package / name) for name in files}
    write_model_description(package, description.model_copy(update={"files": checksums}))
    load_model_package(package)

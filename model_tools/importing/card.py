"""MODEL_CARD.md of an imported model: where it comes from, how it was made, what is not known."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from model_tools.importing.options import ImportOptions
from model_tools.importing.trained import TrainedModel
from operators.lesion_segmentation.model_description import ModelDescription
from operators.version import NAME, STATEMENT, VERSION

_TOOLS = ("torch", "onnx", "onnxscript", "openvino", "dynamic-network-architectures", "numpy")


def _numbers(values: Any, unit: str = "") -> str:
    return " × ".join(f"{value:g}" for value in values) + unit


def import_card(
    model: TrainedModel,
    description: ModelDescription,
    origin: dict[str, Any],
    difference: float,
    options: ImportOptions,
) -> str:
    """The text of MODEL_CARD.md.

    Parameters
    ----------
    model
        What was read.
    description
        What model.json says.
    origin
        What ``fetch`` recorded; empty if the folder was not fetched.
    difference
        Largest difference in probability between the package and torch.
    options
        What the user decided.
    """
    axes = description.mirror_axes
    channels = "\n".join(
        f"| {i} | {c.name} | {channel.role} | {c.normalisation} |"
        for i, (c, channel) in enumerate(zip(model.channels, description.channels, strict=True))
    )
    stages = "\n".join(
        f"| {s.configuration} | {_numbers(s.spacing_mm, ' mm')} | {_numbers(s.patch)} "
        f"| {', '.join(s.folds)} ({s.checkpoints[0].name}) |"
        for s in model.stages
    )
    fetched = "\n".join(
        f"- `{name}`: {entry['bytes']} bytes, sha256 `{entry['sha256']}`"
        for name, entry in origin.get("files", {}).items()
    )
    orientation = (
        "stated by the user"
        if options.orientation
        else "set by the reader of nnU-Net's images"
        if model.orientation
        else "ASSUMED: nnU-Net does not record it; import again with --orientation if it is wrong"
    )
    trainer = (
        " (unknown to the importer; taken as standard)" if options.choice.trust_trainer else ""
    )
    field = "0 outside the brain (skull stripped)" if options.brain_only else "with everything"
    names = ", ".join(map(str, axes))
    mirrors = f" and the mirrors of the axes {names}" if axes else ", not mirrored"
    target = ", ".join(description.target_labels)
    threshold = description.threshold
    rule = "the most probable label counts" if threshold is None else f"probability ≥ {threshold:g}"
    tools = ", ".join(f"{name} {version(name)}" for name in _TOOLS)
    return f"""# {description.name}

{STATEMENT}

An nnU-Net trained elsewhere, imported with `python -m model_tools import`. The weights are
unchanged{" but stored as fp16" if options.half_weights else ""}; nothing was trained or tuned here.

## Source and licence

- Made by: {model.made_by}, data set `{model.dataset}`, trainer `{model.trainer}`{trainer},
  plans `{model.plans_name}`, network {model.architecture}
- Source: {description.source}
- Licence: {description.licence}. {_licence_note(description.licence)}

## Input

| channel | nnU-Net's name | series role | normalisation |
|---|---|---|---|
{channels}

- Labels: {", ".join(f"{name} {value}" for name, value in description.labels.items())};
  the lesions are: {target}; {rule}
- Axes x, y, z of the training images towards {description.orientation} ({orientation})
- Images {field},
  as told to the importer; nnU-Net does not record it

## Network

| configuration | spacing (network's axes) | patch | folds |
|---|---|---|---|
{stages}

- One graph per configuration: the mean of the {description.averaging} over
  {description.folds} fold(s){mirrors}
- Written graph against torch on noise: largest difference in probability {difference:.1e}

## What is not known

- How well it works on your scanners and patients: validate it locally before relying on it.
- Training data, their consent and their selection, beyond what the source states.
- Whether the training images were registered, skull-stripped and oriented as assumed above.
{_not_in_package(model, bool(axes))}
## How it was made

{NAME} {VERSION}; {tools}
{f"{chr(10)}Files as downloaded:{chr(10)}{chr(10)}{fetched}{chr(10)}" if fetched else ""}"""


def _licence_note(licence: str) -> str:
    if licence.lower().startswith("not stated"):
        return "Without one, using the weights needs the owner's permission."
    return "As stated by the source; not checked."


def _not_in_package(model: TrainedModel, mirrored: bool) -> str:
    lines = ["- nnU-Net's own postprocessing (removal of small components) is not part of it."]
    if model.mirror_axes and not mirrored:
        lines.append(
            "- nnU-Net mirrors by default when it predicts; this package does not "
            "(import with --mirror for that; it takes "
            f"{2 ** len(model.mirror_axes)} times as long)."
        )
    return "\n".join(lines) + "\n"

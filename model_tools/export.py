"""From an nnU-Net v2 result folder to a model package (ONNX, model.json, MODEL_CARD.md)."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from model_tools.importing.pickles import network_weights
from model_tools.train.network import CLASS_NAME, build_network
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    CARD_FILE,
    NETWORK_FILE,
    Channel,
    ModelDescription,
    Network,
    file_sha256,
    load_model_package,
    write_model_description,
)

log = logging.getLogger(__name__)
OPSET = 18
LARGE = 256
"""Initialisers with at least so many values are stored as fp16; biases and norms stay fp32."""


class Ensemble(nn.Module):  # type: ignore[misc]
    """The mean of several networks' logits."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (n, 2, z, y, x) of an image (n, channels, z, y, x), float32."""
        total = self.members[0](image)
        for member in list(self.members)[1:]:
            total = total + member(image)
        return total / len(self.members)


@dataclass(frozen=True)
class ResultFolder:
    """What an nnU-Net v2 result folder holds."""

    channels: tuple[str, ...]
    labels: dict[str, int]
    patch: tuple[int, int, int]
    spacing: tuple[float, float, float]
    arguments: dict[str, Any]
    weights: list[dict[str, torch.Tensor]]


def read_result_folder(folder: Path, checkpoint: str = "checkpoint_final.pth") -> ResultFolder:
    """Read plans, data set description and every fold's weights.

    Raises
    ------
    ConfigurationError
        If a file is missing, damaged or would run code, or the network is not a PlainConvUNet.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise ConfigurationError(
                f"result folder {folder.name}",
                f"{name} is missing.",
                "Give the folder that holds plans.json, dataset.json and fold_0, fold_1, ….",
            )
    plans = json.loads((folder / "plans.json").read_text())
    dataset = json.loads((folder / "dataset.json").read_text())
    configuration = plans["configurations"]["3d_fullres"]
    network = configuration["architecture"]
    if network["network_class_name"] != CLASS_NAME:
        raise ConfigurationError(
            f"result folder {folder.name}",
            f"its network is {network['network_class_name']}.",
            "Only PlainConvUNet can be exported.",
        )
    files = sorted(folder.glob(f"fold_*/{checkpoint}"))
    if not files:
        raise ConfigurationError(
            f"result folder {folder.name}",
            f"it holds no fold_*/{checkpoint}.",
            "Train at least one fold.",
        )
    weights = [network_weights(file, "network_weights") for file in files]
    names = dataset["channel_names"]
    patch, spacing = configuration["patch_size"], configuration["spacing"]
    return ResultFolder(
        tuple(names[str(i)].lower() for i in range(len(names))),
        {str(name): int(value) for name, value in dataset["labels"].items()},
        (patch[0], patch[1], patch[2]),
        (spacing[0], spacing[1], spacing[2]),
        network["arch_kwargs"],
        weights,
    )


def without_channel(
    weights: dict[str, torch.Tensor], channel: int, channels: int
) -> dict[str, torch.Tensor]:
    """Remove an input channel from the first convolution.

    For a network whose channel is all 0 (a missing sequence) the result is exactly equal: the
    removed weights are only ever multiplied by 0.
    """
    keep = [i for i in range(channels) if i != channel]
    result = dict(weights)
    for name, value in weights.items():
        # PlainConvUNet's state names the first convolution twice and repeats the encoder.
        first = "encoder.stages.0.0.convs.0." in name
        if first and value.ndim == 5 and value.shape[1] == channels:
            result[name] = value[:, keep].clone()
    return result


def build_ensemble(
    source: ResultFolder, drop: str | None = None
) -> tuple[Ensemble, tuple[str, ...]]:
    """The ensemble in float32 with weights rounded to fp16, and its channels."""
    channels = source.channels
    weights = source.weights
    if drop is not None:
        if drop not in channels:
            raise ConfigurationError(
                "channel to drop", f"{drop} is none of {', '.join(channels)}.", "Name one of them."
            )
        number = channels.index(drop)
        weights = [without_channel(w, number, len(channels)) for w in weights]
        channels = tuple(c for c in channels if c != drop)
    members = []
    for state in weights:
        member = build_network(source.arguments, len(channels), len(source.labels))
        rounded = {
            k: v.half().float() if v.is_floating_point() and v.numel() >= LARGE else v
            for k, v in state.items()
        }
        member.load_state_dict(rounded)
        members.append(member.eval())
    return Ensemble(members).eval(), channels


def without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove the exporter's notes in place; they hold source lines and paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for initialiser in graph.initializer:
        initialiser.ClearField("metadata_props")
        initialiser.ClearField("doc_string")
    return model


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store large float initialisers as fp16, each followed by a Cast to float32."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < LARGE:
            continue
        name = tensor.name
        values = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_fp16"))
        casts.append(helper.make_node("Cast", [f"{name}_fp16"], [name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts + nodes)
    kept = [v for v in graph.value_info if not v.name.endswith("_fp16")]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    onnx.checker.check_model(model)
    return model


def export_onnx(ensemble: Ensemble, channels: int, patch: tuple[int, int, int], path: Path) -> None:
    """Write the ensemble as one ONNX file with a free batch size and fp16 weights."""
    example = torch.zeros((2, channels, *patch))
    program = torch.onnx.export(
        ensemble,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["output"],
        dynamic_shapes={"image": {0: torch.export.Dim("n", min=1, max=64)}},
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    onnx.save(without_traces(half_weights(model)), path)


def openvino_logits(
    path: Path, image: NDArray[np.float32], precision: Literal["f32", "bf16"]
) -> NDArray[np.float32]:
    """Run a network file in OpenVINO on the CPU; (n, c, z, y, x) to logits."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(path),
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 2},
    )
    return np.asarray(compiled(image)[0], dtype=np.float32)


def verify(ensemble: Ensemble, path: Path, image: NDArray[np.float32]) -> dict[str, float]:
    """Compare the ONNX file in OpenVINO with torch on an image.

    Returns
    -------
    dict
        ``f32_max`` and ``bf16_max``: largest difference in lesion probability; ``bf16_flips``:
        share of voxels that change side at 0.5 in bf16.
    """
    with torch.inference_mode():
        logits = ensemble(torch.from_numpy(image)).numpy()

    def probability(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(1 / (1 + np.exp(values[:, 0] - values[:, 1])), dtype=np.float32)

    reference = probability(logits)
    single = probability(openvino_logits(path, image, "f32"))
    half = probability(openvino_logits(path, image, "bf16"))
    return {
        "f32_max": float(np.abs(single - reference).max()),
        "bf16_max": float(np.abs(half - reference).max()),
        "bf16_flips": float(((half > 0.5) != (reference > 0.5)).mean()),
    }


def export_package(
    source: Path,
    target: Path,
    *,
    drop: str | None = None,
    card: str,
    version: str,
    threshold: float = 0.5,
    patch: int | None = None,
    tile_step: float = 0.5,
    origin: str = "open_ms_data (Lesjak et al. 2016, 2017) and ICBM 2009 maps of nilearn",
    licence: str = "CC-BY 4.0",
    example: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Export a result folder as a checked model package.

    Parameters
    ----------
    source, target
        Result folder; package folder (its name becomes the model's name).
    drop
        A channel to remove, as "t1".
    card
        Text of MODEL_CARD.md.
    patch
        Tile edge at inference; the training patch if None.
    example
        (channels, n, n, n) float32 to verify on; noise if None.

    Returns
    -------
    dict
        See `verify`.

    Raises
    ------
    ConfigurationError
        If the folder is incomplete.
    RuntimeError
        If OpenVINO in fp32 differs from torch by more than 0.001 in probability.
    """
    found = read_result_folder(source)
    ensemble, channels = build_ensemble(found, drop)
    size = found.patch if patch is None else (patch, patch, patch)
    target.mkdir(parents=True, exist_ok=True)
    network = target / NETWORK_FILE
    export_onnx(ensemble, len(channels), size, network)
    if example is None:
        example = (
            np.random.default_rng(1).standard_normal((len(channels), *size)).astype(np.float32)
        )
    difference = verify(ensemble, network, example[None])
    log.info("ONNX against torch: %s", difference)
    if difference["f32_max"] > 1e-3:
        raise RuntimeError(f"the ONNX file differs from torch: {difference}")
    (target / CARD_FILE).write_text(card, encoding="utf-8")
    description = ModelDescription(
        schema_version="1.1",
        name=target.name,
        version=version,
        body_site="brain",
        channels=tuple(Channel(role=c, normalisation="zscore_in_mask") for c in channels),
        labels=found.labels,
        preprocessing="aligned_grid",
        networks=(Network(spacing_zyx_mm=found.spacing, patch_size_zyx=size),),
        folds=len(found.weights),
        averaging="logits",
        mirror_axes=(),
        tile_step=tile_step,
        threshold=threshold,
        source=origin,
        licence=licence,
        files={name: file_sha256(target / name) for name in (NETWORK_FILE, CARD_FILE)},
    )
    write_model_description(target, description)
    load_model_package(target)
    return difference

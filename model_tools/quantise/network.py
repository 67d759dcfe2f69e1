"""One network in int8, by OpenVINO's post-training quantisation (NNCF).

Method: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018, as NNCF does it: weights symmetric per channel,
activations in the range that they take on the calibration tiles, biases corrected afterwards.
Convolutions only: normalisation, each member's first and last layer and the mean over folds and
mirrors stay as they are. (The first layer costs nothing: it has few channels. In int8 it would
coarsen the image's own grey values.)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from operators.errors import ConfigurationError
from operators.lesion_segmentation.network_source import NetworkSource

_CONVOLUTIONS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData")
_UNQUANTISED_TYPES = ("MVN", "Softmax", "ReduceMean")
_QUANTISABLE = (
    *_CONVOLUTIONS,
    *("Add", "Subtract", "Multiply", "Divide", "Concat", "Gather", "StridedSlice", "Slice"),
)
_TALKATIVE = ("nncf", "openvino_telemetry")


def import_nncf() -> Any:
    """The module ``nncf``, with the messages that it sends to its publisher turned off.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # the only switch that NNCF has for this
    try:
        import nncf
    except ImportError as error:
        raise ConfigurationError(
            "nncf",
            "NNCF, which quantises networks, is not installed.",
            "Run make setup-dev, or install what requirements-dev.txt says about it.",
        ) from error
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    return nncf


def outer_layers(model: ov.Model) -> list[str]:
    """The layers up to the first convolution of each member, and those from the last one on.

    Parameters
    ----------
    model
        An ensemble in one graph.

    Returns
    -------
    list of str
        Names of layers that could be quantised.
    """
    first = _until_convolution(
        [port.get_node() for p in model.inputs for port in p.get_target_inputs()],
        lambda node: [
            port.get_node() for output in node.outputs() for port in output.get_target_inputs()
        ],
    )
    last = _until_convolution(
        [result.input_value(0).get_node() for result in model.get_results()],
        lambda node: [node.input_value(i).get_node() for i in range(node.get_input_size())],
    )
    return sorted(first | last)


def _until_convolution(
    nodes: list[ov.Node], following: Callable[[ov.Node], list[ov.Node]]
) -> set[str]:
    names: set[str] = set()
    seen: set[str] = set()
    while nodes:
        node = nodes.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in seen or kind in ("Constant", "Parameter", "ShapeOf"):
            continue
        seen.add(name)
        if kind in _QUANTISABLE:
            names.add(name)
        if kind not in _CONVOLUTIONS:
            nodes += following(node)
    return names


def quantised(source: NetworkSource, tiles: Sequence[np.ndarray]) -> ov.Model:
    """Quantise a network.

    Parameters
    ----------
    source
        The network in ONNX.
    tiles
        float32 (1, channels, z, y, x) each, as the network sees patients.

    Raises
    ------
    ConfigurationError
        If NNCF is not there, or the network has no layer that it quantises.
    """
    nncf = import_nncf()
    model = ov.Core().read_model(source.file)
    model.reshape(list(source.shape.input(1)))
    answer = nncf.quantize(
        model,
        nncf.Dataset(list(tiles)),
        subset_size=len(tiles),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=True,
        ignored_scope=nncf.IgnoredScope(
            names=outer_layers(model), types=list(_UNQUANTISED_TYPES), validate=False
        ),
    )
    if not any(node.get_type_name() == "FakeQuantize" for node in answer.get_ops()):
        raise ConfigurationError(
            f"model package {source.package}",
            f"{source.file.name} has no layer that can be quantised.",
            "Use it in another precision.",
        )
    return answer


def save(model: ov.Model, path: Path) -> tuple[Path, Path]:
    """Write an OpenVINO model: ``path`` (.xml) and the .bin beside it; float weights stay fp32."""
    ov.save_model(model, path, compress_to_fp16=False)
    return path, path.with_suffix(".bin")

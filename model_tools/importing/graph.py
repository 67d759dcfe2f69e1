"""One ONNX graph for all folds and mirrors of a network.

torch exports the network once, with random weights; the graph is then repeated for every fold
and mirror and given the folds' weights by name. That keeps time and memory in bounds (five folds
with eight mirrors are forty copies of the nodes, but only five of the weights), and the folds
need not be in memory as torch modules.

Everything is float32: the norms, the averages and, unless asked otherwise, the stored weights.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from model_tools.export import OPSET, half_weights, without_traces
from model_tools.importing.trained import Weights

log = logging.getLogger(__name__)
LARGEST_FILE = 1_900_000_000
"""Bytes of one ONNX file; protobuf ends at 2 GiB, above it the weights lie in a second file."""
_BACKWARDS_END = -(2**63)


def _random_weights(network: nn.Module) -> None:
    """Fill the network so that no two parameters are equal: the exporter merges equal ones."""
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for value in network.state_dict(keep_vars=True).values():
            if value.is_floating_point():
                # positive, as the variances of a batch norm are
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))


def export_member(
    network: nn.Module, channels: int, patch: tuple[int, int, int]
) -> onnx.ModelProto:
    """Export one network as a graph with a free batch size whose weights are named as in torch.

    Parameters
    ----------
    network
        In evaluation mode; its weights are overwritten.
    channels, patch
        Size of its input (n, channels, *patch).
    """
    _random_weights(network)
    # the optimiser would fold batch norms into the convolutions, under the weights' names
    foldable = any(isinstance(module, nn.BatchNorm3d) for module in network.modules())
    program = torch.onnx.export(
        network,
        (torch.zeros((2, channels, *patch)),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},),
        optimize=not foldable,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = without_traces(program.model_proto)
    state = network.state_dict()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        known = state.get(tensor.name)
        # zeros stand for the bias that a convolution does not have
        if values.any() if known is None else not np.array_equal(known.numpy(), values):
            raise RuntimeError(f"the exporter changed the weights {tensor.name}")
    return model


def mirror_sets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of axes, beginning with none."""
    return [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]


def _flip(source: str, target: str, axes: tuple[int, ...], prefix: str) -> Iterator[NodeProto]:
    """Reverse spatial axes (0 = first of the three)."""
    constants = {
        "starts": [-1] * len(axes),
        "ends": [_BACKWARDS_END] * len(axes),
        "axes": [axis + 2 for axis in axes],
        "steps": [-1] * len(axes),
    }
    for key, values in constants.items():
        tensor = numpy_helper.from_array(np.array(values, dtype=np.int64), f"{prefix}/{key}")
        yield helper.make_node("Constant", [], [f"{prefix}/{key}"], value=tensor)
    inputs = [source, *(f"{prefix}/{key}" for key in constants)]
    yield helper.make_node("Slice", inputs, [target], name=prefix)


def _copy_nodes(
    member: onnx.ModelProto, prefix: str, image: str, weights: dict[str, str]
) -> Iterator[NodeProto]:
    """The member's nodes with names of their own; they read ``image`` and the given weights."""
    names = {"image": image, "": ""} | weights

    def renamed(name: str) -> str:
        return names.get(name, f"{prefix}/{name}")

    for node in member.graph.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{prefix}/{node.name}"
        copy.input[:] = [renamed(name) for name in node.input]
        copy.output[:] = [renamed(name) for name in node.output]
        yield copy


def _fold_initialisers(
    member: onnx.ModelProto, weights: Weights, prefix: str
) -> Iterator[TensorProto]:
    for tensor in member.graph.initializer:
        name = f"{prefix}/{tensor.name}"
        if tensor.name in weights:
            values = weights[tensor.name].detach().to(torch.float32).contiguous().numpy()
            if tuple(values.shape) != tuple(tensor.dims):
                raise ValueError(f"{tensor.name} has shape {values.shape}, not {tensor.dims}")
            yield numpy_helper.from_array(values, name)
        else:
            copy = TensorProto()
            copy.CopyFrom(tensor)
            copy.name = name
            yield copy


def ensemble_graph(
    member: onnx.ModelProto,
    folds: Iterable[Weights],
    averaging: Literal["logits", "softmax"],
    mirror_axes: Sequence[int] = (),
) -> onnx.ModelProto:
    """The mean over folds and mirrors as one graph.

    Parameters
    ----------
    member
        As `export_member` returns it.
    folds
        The weights of each fold; read one after the other.
    averaging
        Mean of the logits (nnU-Net v2) or of the softmax over labels (v1).
    mirror_axes
        Spatial axes of which every combination is mirrored; empty for none.

    Returns
    -------
    onnx.ModelProto
        ``image`` → ``output``, batch size free.
    """
    graph = onnx.GraphProto(name="ensemble")
    graph.input.extend(member.graph.input)
    graph.output.extend(member.graph.output)
    sets = mirror_sets(mirror_axes)
    for number, axes in enumerate(sets[1:], start=1):
        graph.node.extend(_flip("image", f"mirrored_{number}", axes, f"mirror_{number}"))
    total, count = "", 0
    for fold, weights in enumerate(folds):
        initialisers = list(_fold_initialisers(member, weights, f"fold_{fold}"))
        graph.initializer.extend(initialisers)
        names = {t.name.removeprefix(f"fold_{fold}/"): t.name for t in initialisers}
        del initialisers
        for number, axes in enumerate(sets):
            prefix = f"fold_{fold}/mirror_{number}"
            image = f"mirrored_{number}" if number else "image"
            graph.node.extend(_copy_nodes(member, prefix, image, names))
            answer = f"{prefix}/output"
            if averaging == "softmax":
                graph.node.append(
                    helper.make_node(
                        *("Softmax", [answer], [f"{prefix}/softmax"]),
                        name=f"{prefix}/softmax",
                        axis=1,
                    )
                )
                answer = f"{prefix}/softmax"
            if number:
                graph.node.extend(_flip(answer, f"{prefix}/back", axes, f"{prefix}/back"))
                answer = f"{prefix}/back"
            count += 1
            if total:
                name = f"average/sum_{count}"
                graph.node.append(helper.make_node("Add", [total, answer], [name], name=name))
                answer = name
            total = answer
    if not count:
        raise ValueError("an ensemble needs a fold")
    share = numpy_helper.from_array(np.array(1 / count, dtype=np.float32), "average/share")
    graph.initializer.append(share)
    graph.node.append(
        helper.make_node("Mul", [total, "average/share"], ["output"], name="average/mean")
    )
    return helper.make_model(graph, opset_imports=member.opset_import, ir_version=member.ir_version)


def save_graph(
    model: onnx.ModelProto, path: Path, *, half: bool = False, largest: int = LARGEST_FILE
) -> tuple[str, ...]:
    """Write the graph, and its weights into a second file where one would be too large.

    Parameters
    ----------
    model
        The graph; it is changed if ``half`` is set.
    path
        The ONNX file; the weights' file has ``.data`` appended to its name.
    half
        Store large weights as fp16, each followed by a cast to float32.
    largest
        Bytes of the largest single file.

    Returns
    -------
    tuple of str
        Names of the files written.
    """
    if half:
        half_weights(model)
    size = sum(t.ByteSize() for t in model.graph.initializer)
    if size <= largest:
        onnx.save(model, path)
        return (path.name,)
    data = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=True, location=data, size_threshold=1024)
    return path.name, data

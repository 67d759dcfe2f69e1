"""An ONNX network in half precision, with everything that half precision harms kept in fp32.

TensorRT 11 and TensorRT for RTX take the types of a network as they are written ("strongly
typed"), so the network itself has to say what is computed how. Here convolutions, and the
activations and concatenations between them, become fp16 or bf16; normalisation, softmax, the mean
over folds and mirrors and every other operation stay fp32, with explicit casts between. fp16 ends
at 65504 and instance normalisation sums squares over a whole patch: left in fp16 it overflows and
the answer is empty, a failure seen often with nnU-Net networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from operators.errors import ConfigurationError

if TYPE_CHECKING:
    import onnx

HALF_OPERATIONS = {
    "fp16": frozenset({"Conv", "ConvTranspose", "LeakyRelu", "Relu", "PRelu", "Concat"}),
    "bf16": frozenset({"Conv", "LeakyRelu", "Relu", "PRelu", "Concat"}),
}
"""Operations in half precision. TensorRT for RTX 1.7 builds no transposed convolution in bf16."""
FP16_LARGEST = 65504.0
_SMALL = 256
"""Values of a constant that may describe a shape."""

Half = Literal["fp16", "bf16"]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, declared or inferred."""
    import onnx

    # weights take no part in the inference of types, and copying them would double the memory
    skeleton = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    skeleton.graph.name = model.graph.name
    skeleton.graph.node.extend(model.graph.node)
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) > _SMALL:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            skeleton.graph.input.append(value)
        else:
            skeleton.graph.initializer.append(tensor)
    graph = onnx.shape_inference.infer_shapes(skeleton).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, half: Half) -> None:
        import onnx

        self.onnx = onnx
        self.proto = onnx.TensorProto
        self.half = self.proto.FLOAT16 if half == "fp16" else self.proto.BFLOAT16
        self.suffix = f"__{half}"
        self.operations = HALF_OPERATIONS[half]
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.types = _types(model)
        self.upcasts = {
            node.output[0]: node.input[0]
            for node in model.graph.node
            if node.op_type == "Cast" and node.input[0] in self.constants
        }
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, str] = {}
        self.lowered: set[str] = set()
        self.new_constants: list[onnx.TensorProto] = []

    def constant_in_half(self, name: str) -> str:
        """A weight as a half-precision initialiser."""
        made = name + self.suffix
        if made not in self.made:
            self.made[made] = made
            source = self.constants[self.upcasts.get(name, name)]
            values = self.onnx.numpy_helper.to_array(source).astype(np.float32)
            if self.half == self.proto.FLOAT16 and np.abs(values).max(initial=0) > FP16_LARGEST:
                raise ConfigurationError(
                    "model package",
                    f"A weight of the network ({name}) is too large for fp16.",
                    'Set lesion_segmentation.precision to "bf16" or "fp32".',
                )
            self.new_constants.append(
                self.onnx.helper.make_tensor(
                    made, self.half, values.shape, _half_bytes(values, self.half), raw=True
                )
            )
        return made

    def cast(self, name: str, to: int, made: str) -> str:
        if made not in self.made:
            self.made[made] = made
            self.nodes.append(
                self.onnx.helper.make_node("Cast", [name], [made], name=f"cast_{made}", to=to)
            )
        return made

    def in_half(self, name: str) -> str:
        if name in self.constants or name in self.upcasts:
            return self.constant_in_half(name)
        if name in self.lowered:
            return name + self.suffix
        return self.cast(name, self.half, name + self.suffix)

    def in_single(self, name: str) -> str:
        if name not in self.lowered:
            return name
        return self.cast(name + self.suffix, self.proto.FLOAT, name)

    def rewrite(self) -> None:
        single = self.proto.FLOAT
        for node in self.graph.node:
            if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
                raise ConfigurationError(
                    "model package",
                    f"Its network has control flow ({node.op_type}).",
                    "Make the package again with model_tools, or set precision to fp32.",
                )
            lower = node.op_type in self.operations and all(
                self.types.get(name) == single for name in node.output
            )
            inputs = [
                (self.in_half(name) if lower else self.in_single(name)) if name else name
                for name in node.input
            ]
            copy = self.onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:]
            copy.input.extend(inputs)
            if lower:
                self.lowered.update(node.output)
                del copy.output[:]
                copy.output.extend(name + self.suffix for name in node.output)
            self.nodes.append(copy)
        for value in self.graph.output:
            self.in_single(value.name)


def _half_bytes(values: np.ndarray, half: int) -> bytes:
    import onnx

    if half == onnx.TensorProto.FLOAT16:
        return values.astype("<f2").tobytes()
    # bfloat16 is the upper half of a float32, rounded to nearest even (NaN does not occur here)
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.asarray(rounded, dtype="<u2").tobytes()


def _without_unused(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Drop nodes that nothing depends on, such as the upcasts of weights that are now in half."""
    kept: list[onnx.NodeProto] = []
    needed = set(wanted)
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


def to_half(model: onnx.ModelProto, half: Half) -> onnx.ModelProto:
    """Rewrite a float32 network, in place, to mixed precision.

    Parameters
    ----------
    model
        A network with float32 input and output, as the model packages hold it (weights in float32,
        or in float16 with a Cast). Its external data must be loaded.
    half
        "fp16" or "bf16".

    Returns
    -------
    onnx.ModelProto
        The same object: input and output are float32 as before.

    Raises
    ------
    ConfigurationError
        If a weight exceeds fp16's range, or the network has control flow.
    """
    graph = model.graph
    rewriter = _Rewriter(model, half)
    rewriter.rewrite()
    nodes = _without_unused(rewriter.nodes, {value.name for value in graph.output})
    used = {name for node in nodes for name in node.input}
    constants = [*graph.initializer, *rewriter.new_constants]
    kept = [tensor for tensor in constants if tensor.name in used]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return model

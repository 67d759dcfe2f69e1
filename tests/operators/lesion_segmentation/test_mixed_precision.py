from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from model_tools.train.network import architecture, build_network
from operators.errors import ConfigurationError
from operators.lesion_segmentation.mixed_precision import Half, to_half
from tests.operators.lesion_segmentation.builders import random_network

HALVES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
PATCH = (16, 24, 32)


def _unet(folds: int = 2) -> onnx.ModelProto:
    """Two small U-Nets, their softmax averaged, weights as fp16 with a Cast, as in a package."""

    class Mean(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = torch.nn.ModuleList(
                build_network(architecture((4, 8, 8)), 3, 2).eval() for _ in range(folds)
            )

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.stack([m(image).softmax(1) for m in self.members]).mean(0)

    torch.manual_seed(5)
    from model_tools.export import half_weights

    program = torch.onnx.export(
        Mean().eval(),
        (torch.zeros((2, 3, *PATCH)),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["output"],
        dynamic_shapes={"image": {0: torch.export.Dim("n", min=1, max=64)}},
        verbose=False,
    )
    assert program is not None
    return half_weights(program.model_proto)


@pytest.fixture(scope="module")
def unet() -> bytes:
    return _unet().SerializeToString()


def _image(n: int = 1) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(n, 3, *PATCH)).astype(np.float32)


def _run(model: onnx.ModelProto | bytes, image: np.ndarray) -> np.ndarray:
    """OpenVINO in fp32 takes fp16 and bf16 networks, with their own rounding of constants."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    core = ov.Core()
    compiled = core.compile_model(
        core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": ov.Type.f32}
    )
    return np.array(compiled([image])[0])


def _types(model: onnx.ModelProto) -> dict[str, int]:
    model = onnx.shape_inference.infer_shapes(model)
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("half", ["fp16", "bf16"])
def test_only_convolutions_and_what_joins_them_are_half(unet: bytes, half: Half) -> None:
    model = to_half(onnx.load_from_string(unet), half)
    types = _types(model)
    if half == "fp16":
        onnx.checker.check_model(model, full_check=True)
    counted = {"Conv": 0, "InstanceNormalization": 0, "Softmax": 0}
    for node in model.graph.node:
        counted[node.op_type] = counted.get(node.op_type, 0) + 1
        wanted = TensorProto.FLOAT
        if node.op_type in ("Conv", "LeakyRelu", "Concat") or (
            node.op_type == "ConvTranspose" and half == "fp16"
        ):
            wanted = HALVES[half]
        if node.op_type != "Cast" and types[node.input[0]] in (TensorProto.FLOAT, HALVES[half]):
            assert {types[name] for name in node.input if types[name] != TensorProto.INT64} == {
                wanted
            }, node.op_type
    assert counted["Conv"] == 2 * 9
    assert counted["InstanceNormalization"] == 2 * 8
    assert counted["Softmax"] == 2
    assert types["image"] == types["output"] == TensorProto.FLOAT
    # a weight is stored once; transposed convolutions keep the package's fp16 for their fp32
    large = {t.data_type for t in model.graph.initializer if np.prod(t.dims) > 256}
    assert large == {TensorProto.FLOAT16, HALVES[half]}


@pytest.mark.parametrize(("half", "tolerance"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_the_answer_stays_what_it_was(unet: bytes, half: Half, tolerance: float) -> None:
    reference = _run(unet, _image(2))
    answer = _run(to_half(onnx.load_from_string(unet), half), _image(2))
    assert answer.dtype == np.float32
    assert np.abs(reference - 0.5).max() > 0.05
    assert np.abs(answer - reference).max() < tolerance


def test_onnx_runtime_computes_fp16_with_real_fp16(unet: bytes) -> None:
    content = to_half(onnx.load_from_string(unet), "fp16").SerializeToString()
    answer = onnxruntime.InferenceSession(content).run(None, {"image": _image()})[0]
    assert 0 < np.abs(answer - _run(unet, _image())).max() < 2e-3


def test_normalisation_of_large_values_does_not_overflow() -> None:
    # sums of squares over the patch: 300² alone exceeds fp16
    scale = numpy_helper.from_array(np.full((2, 3, 1, 1, 1), 100, np.float32), "w")
    ones = numpy_helper.from_array(np.ones(2, np.float32), "one")
    zeros = numpy_helper.from_array(np.zeros(2, np.float32), "zero")
    space = ["z", "y", "x"]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["a"]),
            helper.make_node("InstanceNormalization", ["a", "one", "zero"], ["output"]),
        ],
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *space])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 2, *space])],
        [scale, ones, zeros],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    reference = _run(model, _image())
    content = to_half(model, "fp16").SerializeToString()
    answer = onnxruntime.InferenceSession(content).run(None, {"image": _image()})[0]
    assert np.isfinite(answer).all()
    assert np.abs(answer - reference).max() < 5e-3
    assert np.abs(reference).max() > 3


def test_bf16_rounds_to_the_nearest() -> None:
    model = random_network(3)
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    stored = {t.name: t for t in to_half(model, "bf16").graph.initializer}["w1__bf16"]
    expected = torch.from_numpy(weights).to(torch.bfloat16).view(torch.uint16).numpy()
    assert stored.raw_data == expected.astype("<u2").tobytes()


def test_a_weight_beyond_fp16_is_refused() -> None:
    model = random_network(3)
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[0, 0, 0, 0, 0] = 70000
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w1"))
    with pytest.raises(ConfigurationError, match="w1"):
        to_half(onnx.load_from_string(model.SerializeToString()), "fp16")
    assert to_half(model, "bf16") is model


def test_control_flow_is_refused() -> None:
    model = random_network(3)
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch)
    )
    with pytest.raises(ConfigurationError, match="control flow"):
        to_half(model, "fp16")

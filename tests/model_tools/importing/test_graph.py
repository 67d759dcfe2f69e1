"""One ONNX graph gives the mean over folds and mirrors, in two engines as in torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import nn

from model_tools.importing.graph import (
    ensemble_graph,
    export_member,
    mirror_sets,
    save_graph,
)
from model_tools.importing.networks import architecture_of, build_network
from tests.model_tools.importing.builders import PATCH, architecture, randomise

FOLDS = 2


def _network(kind: str = "PlainConvUNet", norm: str | None = None) -> nn.Module:
    part = architecture(kind)
    if norm is not None:
        part["arch_kwargs"]["norm_op"] = norm
    return build_network(*architecture_of({"architecture": part}, "f"), 2, 3, "f")


def _members(kind: str = "PlainConvUNet", norm: str | None = None) -> list[nn.Module]:
    members = []
    for seed in range(FOLDS):
        network = randomise(_network(kind, norm), seed)
        generator = torch.Generator().manual_seed(seed)
        for name, value in network.named_buffers():  # statistics of a batch norm
            if value.is_floating_point():
                shift = 0.5 if name.endswith("var") else 0.0
                value.copy_(shift + torch.rand(value.shape, generator=generator))
        members.append(network)
    return members


def _image(count: int = 1) -> np.ndarray:
    return np.random.default_rng(5).standard_normal((count, 2, *PATCH)).astype(np.float32)


def _expected(
    members: list[nn.Module], averaging: str, axes: tuple[int, ...], image: np.ndarray
) -> np.ndarray:
    """The mean, one axis after another, as a reader would write it down."""
    tensor = torch.from_numpy(image)
    total = []
    for network in members:
        for z in (False, True) if 0 in axes else (False,):
            for y in (False, True) if 1 in axes else (False,):
                for x in (False, True) if 2 in axes else (False,):
                    flips = [i for i, on in zip((2, 3, 4), (z, y, x), strict=True) if on]
                    with torch.inference_mode():
                        answer = network(tensor.flip(flips)).flip(flips)
                        total.append(answer.softmax(1) if averaging == "softmax" else answer)
    return torch.stack(total).mean(0).numpy()


def _openvino(path: Path, image: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(image)[0])


def _onnxruntime(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["output"], {"image": image})[0])


@pytest.fixture(scope="module")
def plain() -> onnx.ModelProto:
    return export_member(_network(), 2, PATCH)


@pytest.mark.parametrize(
    ("averaging", "axes"),
    [("logits", ()), ("softmax", (1,)), ("logits", (0, 2)), ("softmax", (0, 1, 2))],
)
def test_the_graph_is_the_mean_over_folds_and_mirrors(
    tmp_path: Path,
    plain: onnx.ModelProto,
    averaging: Literal["logits", "softmax"],
    axes: tuple[int, ...],
) -> None:
    members = _members()
    model = ensemble_graph(plain, [m.state_dict() for m in members], averaging, axes)
    assert save_graph(model, tmp_path / "e.onnx") == ("e.onnx",)
    onnx.checker.check_model(tmp_path / "e.onnx", full_check=True)
    for trace in (b"site-packages", b"/tests/", b"model_tools"):  # the exporter notes its sources
        assert trace not in (tmp_path / "e.onnx").read_bytes()
    expected = _expected(members, averaging, axes, _image(2))
    assert expected.std() > 0.05  # a constant would agree by chance
    for run in (_openvino, _onnxruntime):
        np.testing.assert_allclose(run(tmp_path / "e.onnx", _image(2)), expected, atol=2e-5)
        first = run(tmp_path / "e.onnx", _image(2)[:1])
        np.testing.assert_allclose(first, expected[:1], atol=2e-5)


def test_weights_are_stored_once_for_all_mirrors_and_everything_is_float32(
    plain: onnx.ModelProto,
) -> None:
    members = _members()
    one = ensemble_graph(plain, [m.state_dict() for m in members], "logits")
    eight = ensemble_graph(plain, [m.state_dict() for m in members], "logits", (0, 1, 2))
    parameters = {
        value.data_ptr(): value.numel() for m in members for value in m.state_dict().values()
    }
    for model in (one, eight):
        assert {t.data_type for t in model.graph.initializer} == {onnx.TensorProto.FLOAT}
        stored = sum(int(np.prod(t.dims)) for t in model.graph.initializer)
        # the segmentation heads of deep supervision are in the state but not in the graph
        assert 0.95 * sum(parameters.values()) < stored <= sum(parameters.values()) + 1
    operations = Counter(node.op_type for node in eight.graph.node)
    assert operations["InstanceNormalization"] == 8 * FOLDS * 7
    assert operations["Cast"] == 0


@pytest.mark.parametrize(
    ("kind", "norm"),
    [
        ("ResidualEncoderUNet", None),
        ("PlainConvUNet", "torch.nn.modules.batchnorm.BatchNorm3d"),
    ],
)
def test_other_networks_too(tmp_path: Path, kind: str, norm: str | None) -> None:
    members = _members(kind, norm)
    model = ensemble_graph(
        export_member(_network(kind, norm), 2, PATCH), [m.state_dict() for m in members], "logits"
    )
    save_graph(model, tmp_path / "e.onnx")
    expected = _expected(members, "logits", (), _image())
    np.testing.assert_allclose(_openvino(tmp_path / "e.onnx", _image()), expected, atol=2e-5)


def test_equal_weights_stay_apart(tmp_path: Path, plain: onnx.ModelProto) -> None:
    """Fresh norms all hold ones; the folds' may differ where the exported network's were equal."""
    network = _network()
    state = {
        name: torch.ones_like(value) if value.ndim == 1 else value
        for name, value in _members()[0].state_dict().items()
    }
    state["encoder.stages.1.0.convs.1.norm.weight"] *= 3
    network.load_state_dict(state)
    state = network.state_dict()
    save_graph(ensemble_graph(plain, [state], "logits"), tmp_path / "e.onnx")
    expected = _expected([network], "logits", (), _image())
    np.testing.assert_allclose(_openvino(tmp_path / "e.onnx", _image()), expected, atol=2e-5)


def test_weights_beyond_one_file_lie_beside_it(tmp_path: Path, plain: onnx.ModelProto) -> None:
    members = _members()
    states = [m.state_dict() for m in members]
    files = save_graph(ensemble_graph(plain, states, "logits"), tmp_path / "e.onnx", largest=10_000)
    assert files == ("e.onnx", "e.onnx.data")
    assert (tmp_path / "e.onnx").stat().st_size < 40_000 < (tmp_path / files[1]).stat().st_size
    expected = _expected(members, "logits", (), _image())
    for run in (_openvino, _onnxruntime):
        np.testing.assert_allclose(run(tmp_path / "e.onnx", _image()), expected, atol=2e-5)


def test_weights_are_halved_only_when_asked(tmp_path: Path, plain: onnx.ModelProto) -> None:
    members = _members()
    states = [m.state_dict() for m in members]
    for half in (False, True):
        save_graph(ensemble_graph(plain, states, "logits"), tmp_path / f"{half}.onnx", half=half)
    assert (tmp_path / "True.onnx").stat().st_size < 0.7 * (tmp_path / "False.onnx").stat().st_size
    for member in members:
        for value in member.parameters():
            if value.numel() >= 256:
                value.data = value.data.half().float()
    expected = _expected(members, "logits", (), _image())
    np.testing.assert_allclose(_openvino(tmp_path / "True.onnx", _image()), expected, atol=2e-5)


def test_weights_of_another_shape_are_refused(plain: onnx.ModelProto) -> None:
    state: dict[str, Any] = dict(_members()[0].state_dict())
    state["decoder.encoder.stages.0.0.convs.0.all_modules.0.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match="shape"):
        ensemble_graph(plain, [state], "logits")
    with pytest.raises(ValueError, match="needs a fold"):
        ensemble_graph(plain, [], "logits")


def test_every_combination_of_mirrors() -> None:
    assert mirror_sets(()) == [()]
    assert mirror_sets((0, 2)) == [(), (0,), (2,), (0, 2)]
    assert len(mirror_sets((0, 1, 2))) == 8

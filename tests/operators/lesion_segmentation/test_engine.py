from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import open_engine
from operators.lesion_segmentation.model_package import NETWORK_FILE
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from tests.operators.lesion_segmentation.builders import random_network, write_package

FP32 = LesionSegmentationSettings(precision="fp32", threads=1)
HAS_BF16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _batch(n: int = 2) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, 3, 24, 16, 20)).astype(np.float32)


def test_openvino_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    engine = open_engine(package, FP32)
    reference = onnxruntime.InferenceSession(str(package.network)).run(None, {"image": _batch()})[0]
    answer = engine.run(_batch())
    assert answer.dtype == np.float32
    assert engine.precision == "fp32"
    assert engine.name.startswith("OpenVINO 20")
    np.testing.assert_allclose(answer, reference, atol=1e-4)
    # the answer of an earlier call is not overwritten by a later one
    kept = answer.copy()
    engine.run(np.zeros_like(_batch()))
    np.testing.assert_array_equal(answer, kept)


def test_auto_is_bf16_where_the_processor_has_it(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    engine = open_engine(package, LesionSegmentationSettings())
    assert engine.precision == ("bf16" if HAS_BF16 else "fp32")
    exact = open_engine(package, FP32).run(_batch())
    assert np.abs(engine.run(_batch()) - exact).max() < 0.05 * np.abs(exact).max()


def test_bf16_on_a_processor_without_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path / "p")
    monkeypatch.setattr(ov.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(ConfigurationError, match="bf16"):
        open_engine(package, LesionSegmentationSettings(precision="bf16"))
    assert open_engine(package, LesionSegmentationSettings()).precision == "fp32"


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    (package.folder / NETWORK_FILE).write_bytes(b"not a network")
    with pytest.raises(ConfigurationError, match=r"model package p: ensemble\.onnx"):
        open_engine(package, FP32)


def test_a_network_with_other_channels_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p", ("flair", "t2"), random_network(3))
    with pytest.raises(ConfigurationError, match=r"ensemble\.onnx is not a network for patches"):
        open_engine(package, FP32)


def test_a_network_with_other_labels_is_refused(tmp_path: Path) -> None:
    network = random_network(3)
    weights = onnx.numpy_helper.to_array(network.graph.initializer[1])
    network.graph.initializer[1].CopyFrom(
        onnx.numpy_helper.from_array(np.concatenate([weights, weights]), "w2")
    )
    network.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    package = write_package(tmp_path / "p", network=network)
    with pytest.raises(ConfigurationError, match=r"answers \(1, 4, 24, 16, 20\)"):
        open_engine(package, FP32)


def test_an_answer_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    engine = open_engine(write_package(tmp_path / "p"), FP32)
    batch = _batch()
    batch[1, 0, 3, 3, 3] = np.inf
    with pytest.raises(ConfigurationError, match="not finite"):
        engine.run(batch)

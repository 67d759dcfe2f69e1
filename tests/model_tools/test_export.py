"""The ONNX file is the network, in OpenVINO as in torch, also without one channel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from model_tools.export import (
    build_ensemble,
    export_package,
    openvino_logits,
    read_result_folder,
    verify,
)
from model_tools.train.network import architecture, build_network
from model_tools.train.result_folder import dataset, plans, write_fold
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import load_model_package
from tests.model_tools.importing.builders import Malicious

FEATURES = (8, 16, 16)


@pytest.fixture(scope="module")
def result_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result")
    for fold in range(2):
        torch.manual_seed(fold)
        network = build_network(architecture(FEATURES), deep_supervision=True)
        write_fold(folder, fold, network.state_dict(), plans(FEATURES, 16, 2), dataset(1))
    return folder


@pytest.fixture(scope="module")
def package(result_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("models") / "brain_ms_flair_t2_t1"
    export_package(result_folder, target, card="test", version="0.0.1", threshold=0.4)
    return target


def _image(channels: int = 3, count: int = 3) -> np.ndarray:
    return (
        np.random.default_rng(4).standard_normal((count, channels, 16, 16, 16)).astype(np.float32)
    )


def test_openvino_equals_torch(result_folder: Path, package: Path):
    ensemble, channels = build_ensemble(read_result_folder(result_folder))
    assert channels == ("flair", "t2", "t1")
    difference = verify(ensemble, package / "ensemble.onnx", _image())
    assert difference["f32_max"] < 1e-4
    assert difference["bf16_max"] < 0.05


def test_the_batch_is_free_and_large_weights_are_half(package: Path):
    for count in (1, 3):
        logits = openvino_logits(package / "ensemble.onnx", _image(count=count), "f32")
        assert logits.shape == (count, 2, 16, 16, 16)
    model = onnx.load(package / "ensemble.onnx")
    large = [t for t in model.graph.initializer if np.prod(t.dims) >= 256]
    assert large
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in large if t.dims)
    assert [i.name for i in model.graph.input] == ["image"]
    assert [o.name for o in model.graph.output] == ["output"]


def test_dropping_t1_equals_an_empty_t1(result_folder: Path, tmp_path: Path):
    source = read_result_folder(result_folder)
    full, _ = build_ensemble(source)
    short, channels = build_ensemble(source, "t1")
    assert channels == ("flair", "t2")
    image = torch.from_numpy(_image())
    image[:, 2] = 0
    with torch.inference_mode():
        assert torch.allclose(full(image), short(image[:, :2]), atol=1e-5)
    export_package(
        result_folder, tmp_path / "brain_ms_flair_t2", drop="t1", card="test", version="0.0.1"
    )
    assert load_model_package(tmp_path / "brain_ms_flair_t2").roles == ("flair", "t2")


def test_the_package_says_what_it_is(package: Path):
    description = load_model_package(package).description
    assert description.folds == 2
    assert description.threshold == 0.4
    assert description.patch_size_zyx == (16, 16, 16)
    assert description.labels == {"background": 0, "lesion": 1}


def test_bad_result_folders_are_named(result_folder: Path, tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"plans\.json is missing"):
        read_result_folder(tmp_path)
    (tmp_path / "dataset.json").write_text((result_folder / "dataset.json").read_text())
    content = json.loads((result_folder / "plans.json").read_text())
    (tmp_path / "plans.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="no fold_"):
        read_result_folder(tmp_path)
    architecture_part = content["configurations"]["3d_fullres"]["architecture"]
    architecture_part["network_class_name"] = "other.Network"
    (tmp_path / "plans.json").write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"other\.Network"):
        read_result_folder(tmp_path)
    with pytest.raises(ConfigurationError, match="pd is none of"):
        build_ensemble(read_result_folder(result_folder), "pd")


def test_a_checkpoint_that_would_run_code_is_refused(result_folder: Path, tmp_path: Path):
    folder = tmp_path / "result"
    shutil.copytree(result_folder, folder)
    path = folder / "fold_1" / "checkpoint_final.pth"
    torch.save({"network_weights": {}, "more": Malicious(tmp_path / "owned")}, path)
    with pytest.raises(ConfigurationError, match="could run code"):
        read_result_folder(folder)
    assert not (tmp_path / "owned").exists()

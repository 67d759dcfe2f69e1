"""TensorRT's engine, on a substitute of the GPU; engines are built by TensorRT for RTX itself."""

from __future__ import annotations

import collections
import ctypes
import itertools
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorrt_rtx
from cuda.bindings import nvrtc

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import Machine, TilingEngine, open_engine
from operators.lesion_segmentation.engine_cache import EngineCache
from operators.lesion_segmentation.gpu import open_gpu
from operators.lesion_segmentation.model_package import NETWORK_FILE, ModelPackage
from operators.lesion_segmentation.network_source import (
    EngineUnavailableError,
    NetworkShape,
    network_source,
)
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.lesion_segmentation.tensorrt_build import (
    build_engine,
    check_tensors,
    prepare_network,
    targets,
)
from operators.lesion_segmentation.tensorrt_engine import TensorRtEngine
from operators.lesion_segmentation.tiling import importance, sum_on_host, tile_starts
from tests.conftest import ROOT
from tests.operators.lesion_segmentation.builders import random_network, write_package
from tests.operators.lesion_segmentation.gpu_substitute import (
    Driver,
    Runtime,
    compile_kernels_for_the_processor,
)

PATCH = (24, 16, 20)
RTX = LesionSegmentationSettings(engine="tensorrt_rtx", precision="fp32")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory, need_tool: Any) -> ctypes.CDLL:
    return compile_kernels_for_the_processor(need_tool("g++"), tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return write_package(tmp_path / "p")


class Place:
    """A machine with a substitute GPU and TensorRT for RTX."""

    def __init__(self, kernels: ctypes.CDLL, package: ModelPackage, folder: Path) -> None:
        self.driver = Driver(kernels)
        self.runtime = Runtime(tensorrt_rtx, package.network, self.driver)
        self.cache = EngineCache(folder / "engines")
        self.package = package
        self.devices = folder

    def find_module(self, name: str) -> Any:
        if name != "tensorrt_rtx":
            raise EngineUnavailableError(f"the package {name} is not installed")
        return self.runtime

    def machine(self) -> Machine:
        return Machine(lambda: open_gpu(self.driver, nvrtc, self.devices), self.find_module)

    def open(self, settings: LesionSegmentationSettings = RTX) -> TensorRtEngine:
        engine = open_engine(self.package, settings, cache=self.cache, machine=self.machine())
        assert isinstance(engine, TensorRtEngine)
        return engine


@pytest.fixture
def place(kernels: ctypes.CDLL, package: ModelPackage, tmp_path: Path) -> Place:
    return Place(kernels, package, tmp_path)


def _batch(n: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, 3, *PATCH)).astype(np.float32)


def _reference(package: ModelPackage, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(package.network))
    return np.asarray(session.run(None, {"image": batch})[0])


def test_patches_go_through_the_gpu_in_batches(place: Place) -> None:
    engine = place.open()
    assert engine.name == "TensorRT for RTX 1.7.1.116 (Substitute 4090, sm89)"
    assert engine.precision == "fp32"
    # 19 patches: more than the 8 that the engine takes at a time, and not a multiple
    batch = _batch(19)
    np.testing.assert_allclose(engine.run(batch), _reference(place.package, batch), atol=1e-5)


def test_a_volume_stays_on_the_gpu(place: Place) -> None:
    engine = place.open()
    assert isinstance(engine, TilingEngine)
    size = (41, 33, 29)
    image = np.random.default_rng(4).normal(size=(3, *size)).astype(np.float32)
    starts = [tile_starts(n, p, 0.5) for n, p in zip(size, PATCH, strict=True)]
    corners = list(itertools.product(*starts))
    assert len(corners) > 8
    weights = importance(PATCH)
    answer = engine.run_tiles(image, corners, weights)
    expected = sum_on_host(lambda batch: _reference(place.package, batch), 2)
    np.testing.assert_allclose(answer, expected(image, corners, weights), rtol=1e-4, atol=1e-4)
    # what the volume needed is free again; the tensors of the engine stay
    assert len(place.driver.memory) == 2


def test_tiles_are_placed_where_they_belong(place: Place) -> None:
    engine = place.open()
    size = (41, 33, 29)
    image = np.random.default_rng(4).normal(size=(3, *size)).astype(np.float32)
    answer = engine.run_tiles(image, [(17, 3, 9)], np.ones(PATCH, np.float32))
    where = (slice(None), slice(17, 41), slice(3, 19), slice(9, 29))
    expected = _reference(place.package, image[where][None])[0]
    np.testing.assert_allclose(answer[where], expected, atol=1e-5)
    answer[where] = 0
    assert not answer.any()
    with pytest.raises(ValueError, match="beyond the image"):
        engine.run_tiles(image, [(18, 3, 9)], np.ones(PATCH, np.float32))


def test_the_second_start_takes_the_engine_from_the_cache(place: Place) -> None:
    place.open()
    names = sorted(p.name.rpartition("-")[0] for p in place.cache.folder.glob("*.json"))
    assert names == ["tensorrt_rtx-fp32", "tensorrt_rtx-kernels-fp32"]
    assert place.runtime.builds == 1
    place.open()
    assert place.runtime.builds == 1
    # another precision is another engine
    place.open(RTX.model_copy(update={"precision": "fp16"}))
    assert place.runtime.builds == 2


def test_a_damaged_engine_is_built_again(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.open()
    for file in place.cache.folder.glob("*.engine"):
        file.write_bytes(file.read_bytes()[:-1])
    place.open()
    assert place.runtime.builds == 2
    assert caplog.text.count("truncated") == 2
    place.open()
    assert place.runtime.builds == 2


def test_an_engine_that_does_not_load_is_built_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.open()
    (manifest,) = (p for p in place.cache.folder.glob("*fp32-*.json") if "kernels" not in p.name)
    source = network_source(place.package)
    from operators.lesion_segmentation.tensorrt_engine import engine_key

    key = engine_key(source, "tensorrt_rtx", tensorrt_rtx.__version__, "fp32", "sm89")
    assert manifest.stem == key.name
    # complete by its hash, and no engine all the same
    place.cache.put(key, b"not an engine")
    place.open()
    assert place.runtime.builds == 2
    assert "does not load" in caplog.text
    assert (place.cache.get(key) or b"")[1:4] == b"trt"


def test_an_engine_of_an_image_is_used(place: Place, tmp_path: Path) -> None:
    from model_tools.build import build_engines

    build_engines(place.package, ("sm86", "sm89"), tmp_path / "image", precision="fp32")
    place.cache = EngineCache(tmp_path / "own", (tmp_path / "image",))
    place.open()
    assert place.runtime.builds == 0
    place.driver = Driver(place.driver._kernels, capability=(8, 0))
    place.runtime.driver = place.driver
    place.open()
    assert place.runtime.builds == 1


def test_without_a_writable_cache_the_engine_still_runs(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "occupied").write_text("no folder")
    place.cache = EngineCache(tmp_path / "occupied" / "engines")
    assert np.isfinite(place.open().run(_batch(1))).all()
    assert "cannot write to the cache folder" in caplog.text


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_answer_that_is_not_finite_is_refused(place: Place, value: float) -> None:
    engine = place.open()
    place.runtime.spoil = value
    with pytest.raises(ConfigurationError, match="not finite in fp32"):
        engine.run(_batch(2))
    with pytest.raises(ConfigurationError, match="not finite in fp32"):
        engine.run_tiles(_batch(1)[0], [(0, 0, 0)], importance(PATCH))


def test_a_gpu_that_fails_later_is_an_error_with_a_remedy(place: Place) -> None:
    engine = place.open()
    place.driver.faults["cuStreamSynchronize"] = "CUDA_ERROR_ECC_UNCORRECTABLE"
    with pytest.raises(ConfigurationError, match=r'ECC_UNCORRECTABLE.*engine to "openvino"'):
        engine.run(_batch(1))
    del place.driver.faults["cuStreamSynchronize"]
    place.driver.faults["cuMemAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(ConfigurationError, match="OUT_OF_MEMORY"):
        engine.run_tiles(_batch(1)[0], [(0, 0, 0)], importance(PATCH))
    del place.driver.faults["cuMemAlloc"]
    place.runtime.runs = False
    with pytest.raises(ConfigurationError, match="does not run"):
        engine.run(_batch(1))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"spoil": np.nan}, "a trial run failed: The network answers with values that are not"),
        ({"runs": False}, "a trial run failed: The GPU failed: the engine does not run"),
        ({"loads": False}, "does not load"),
    ],
)
def test_an_engine_that_does_not_run_here_is_refused_before_patient_data_comes(
    place: Place, fault: dict[str, Any], reason: str
) -> None:
    for name, value in fault.items():
        setattr(place.runtime, name, value)
    with pytest.raises(ConfigurationError, match=f"lesion_segmentation.engine: .*{reason}"):
        place.open()


def test_auto_goes_on_to_the_processor_and_says_why(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.runtime.spoil = np.nan

    def find_module(name: str) -> Any:
        if name == "openvino":
            import openvino

            return openvino
        return place.find_module(name)

    machine = Machine(lambda: open_gpu(place.driver, nvrtc, place.devices), find_module)
    with caplog.at_level(logging.INFO):
        engine = open_engine(
            place.package, LesionSegmentationSettings(), cache=place.cache, machine=machine
        )
    assert engine.name.startswith("OpenVINO")
    assert "passed over: TensorRT: the package tensorrt is not installed; TensorRT for RTX: " in (
        caplog.text
    )
    assert "ONNX Runtime (CUDA): the package onnxruntime is not installed" in caplog.text


def test_a_gpu_without_engines_of_its_own_is_told_so(place: Place) -> None:
    place.driver = Driver(place.driver._kernels, capability=(9, 0))
    place.runtime.driver = place.driver
    with pytest.raises(ConfigurationError, match="sm90 is not among its targets"):
        place.open()


def test_the_targets_are_those_that_the_documentation_names() -> None:
    assert targets(tensorrt_rtx) == ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


def test_tensorrt_reads_normalisation_and_averaging_as_fp32() -> None:
    file = ROOT / "models" / "brain_ms_flair_t2_t1" / NETWORK_FILE
    log = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
    network = tensorrt_rtx.Builder(log).create_network(1)
    parser = tensorrt_rtx.OnnxParser(network, log)
    assert parser.parse(prepare_network(file, "fp16"))
    types = collections.defaultdict(set)
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        types[layer.type.name].add(layer.get_output(0).dtype.name)
    assert types["CONVOLUTION"] == types["DECONVOLUTION"] == {"HALF"}
    assert types["CONCATENATION"] == types["ACTIVATION"] == {"HALF"}
    # the mean over the folds is elementwise
    assert types["NORMALIZATION"] == types["ELEMENTWISE"] == {"FLOAT"}


def test_a_file_that_is_no_network_cannot_be_built(package: ModelPackage) -> None:
    (package.folder / NETWORK_FILE).write_bytes(b"not a network")
    source = network_source(package)
    with pytest.raises(EngineUnavailableError, match="not understood"):
        build_engine(tensorrt_rtx, source, source.file, "sm89")


def test_a_network_of_other_shapes_is_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "q", ("flair", "t2"), random_network(3))
    source = network_source(package)
    with pytest.raises(ConfigurationError, match=r"model package q: Its network has the tensors"):
        build_engine(tensorrt_rtx, source, source.file, "sm89")
    with pytest.raises(ConfigurationError, match=r"where model\.json describes"):
        check_tensors("q", {"image": (-1, 2, *PATCH)}, source.shape)


@pytest.mark.parametrize(
    ("patch", "batch"),
    [((128, 128, 128), 1), ((96, 96, 96), 2), ((160, 192, 160), 1), ((24, 16, 20), 8)],
)
def test_the_batch_is_limited_by_voxels(patch: tuple[int, int, int], batch: int) -> None:
    assert NetworkShape(3, 2, patch).batch == batch


def test_the_key_depends_on_network_and_shape(package: ModelPackage) -> None:
    from operators.lesion_segmentation.tensorrt_engine import engine_key

    source = network_source(package)
    name = engine_key(source, "tensorrt_rtx", "1", "fp16", "sm89").name
    others = [replace(source, sha256="0" * 64), replace(source, shape=NetworkShape(3, 2, (8,) * 3))]
    assert name not in {engine_key(o, "tensorrt_rtx", "1", "fp16", "sm89").name for o in others}

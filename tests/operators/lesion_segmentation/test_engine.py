from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino as ov
import pytest

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import Engine, Machine, open_engine
from operators.lesion_segmentation.engine_cache import EngineCache
from operators.lesion_segmentation.gpu import GpuIdentity, NoGpuError
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import NETWORK_FILE, file_sha256
from operators.lesion_segmentation.network_source import EngineUnavailableError, network_source
from operators.lesion_segmentation.onnxruntime_engine import OnnxRuntimeEngine
from operators.lesion_segmentation.openvino_engine import openvino_key, processor
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


# --- ONNX Runtime ------------------------------------------------------------------------------


def test_onnx_runtime_on_the_processor_agrees_with_openvino(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    settings = LesionSegmentationSettings(engine="onnxruntime", threads=1)
    engine = open_engine(package, settings, machine=_without_gpu())
    assert engine.name == f"ONNX Runtime {onnxruntime.__version__} (CPU)"
    assert engine.precision == "fp32"
    answer = engine.run(_batch(3))
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, open_engine(package, FP32).run(_batch(3)), atol=1e-4)


def test_onnx_runtime_checks_what_it_is_given(tmp_path: Path) -> None:
    settings = LesionSegmentationSettings(engine="onnxruntime", threads=1)
    package = write_package(tmp_path / "p", ("flair", "t2"), random_network(3))
    with pytest.raises(ConfigurationError, match=r"ensemble\.onnx takes \['n', 3,"):
        open_engine(package, settings, machine=_without_gpu())
    engine = open_engine(write_package(tmp_path / "q"), settings, machine=_without_gpu())
    batch = _batch()
    batch[1, 0, 3, 3, 3] = np.inf
    with pytest.raises(ConfigurationError, match="not finite"):
        engine.run(batch)
    package = write_package(tmp_path / "r")
    (package.folder / NETWORK_FILE).write_bytes(b"not a network")
    with pytest.raises(ConfigurationError, match="not a network that ONNX Runtime reads"):
        open_engine(package, settings, machine=_without_gpu())


class _Cuda:
    """``onnxruntime`` with a CUDA provider that is the processor, or fails."""

    def __init__(self, *, starts: bool = True, answer: float | None = None) -> None:
        self.starts, self.answer = starts, answer
        self.networks: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(  # noqa: N802
        self, network: Any, options: Any, providers: list[tuple[str, dict[str, Any]]]
    ) -> Any:
        assert [name for name, _ in providers] == ["CUDAExecutionProvider"]
        self.networks.append(network)
        cuda, session = self, onnxruntime.InferenceSession(network)

        class Session:
            get_inputs, get_outputs = session.get_inputs, session.get_outputs

            def get_providers(self) -> list[str]:
                return ["CUDAExecutionProvider"] if cuda.starts else ["CPUExecutionProvider"]

            def run(self, names: Any, inputs: Any) -> Any:
                answer = session.run(names, inputs)
                if cuda.answer is not None:
                    answer[0][:] = cuda.answer
                return answer

        return Session()


def test_onnx_runtime_with_cuda_runs_mixed_precision(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    ort = _Cuda()
    engine = OnnxRuntimeEngine(
        ort, network_source(package), device="cuda", device_name="Substitute 4090, sm89"
    )
    assert engine.precision == "fp16"
    assert engine.name.endswith("(Substitute 4090, sm89)")
    types = {t.data_type for t in onnx.load_from_string(ort.networks[0]).graph.initializer}
    assert types == {onnx.TensorProto.FLOAT16}
    exact = open_engine(package, FP32).run(_batch())
    difference = np.abs(engine.run(_batch()) - exact).max()
    assert 0 < difference < 0.01 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (_Cuda(starts=False), "CUDAExecutionProvider does not start"),
        (_Cuda(answer=np.nan), "a trial run failed: .* not finite"),
        (_Cuda(answer=1.0), "same value everywhere"),
    ],
)
def test_cuda_that_does_not_work_never_falls_back_silently(
    tmp_path: Path, cuda: _Cuda, reason: str
) -> None:
    source = network_source(write_package(tmp_path / "p"))
    with pytest.raises(EngineUnavailableError, match=reason):
        OnnxRuntimeEngine(cuda, source, device="cuda")


def test_the_installed_onnx_runtime_has_no_cuda(tmp_path: Path) -> None:
    source = network_source(write_package(tmp_path / "p"))
    with pytest.raises(EngineUnavailableError, match="no CUDAExecutionProvider"):
        OnnxRuntimeEngine(onnxruntime, source, device="cuda")


# --- the choice --------------------------------------------------------------------------------


def _without_gpu(present: bool = False, missing: tuple[str, ...] = ()) -> Machine:
    def find_gpu() -> Any:
        raise NoGpuError("cuInit failed (CUDA_ERROR_UNKNOWN)", present=present)

    def find_module(name: str) -> Any:
        if name in missing:
            raise EngineUnavailableError(f"the package {name} is not installed")
        return {"onnxruntime": onnxruntime, "openvino": ov}[name]

    return Machine(find_gpu, find_module)


def test_without_a_gpu_openvino_is_chosen_and_the_reason_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = write_package(tmp_path / "p")
    with caplog.at_level(logging.INFO):
        engine = open_engine(package, LesionSegmentationSettings(), machine=_without_gpu())
    assert engine.name.startswith("OpenVINO")
    (line,) = (r.message for r in caplog.records if r.message.startswith("engine: "))
    reason = "there is no usable GPU: cuInit failed (CUDA_ERROR_UNKNOWN)"
    assert f"{engine.name} in {engine.precision}, chosen for this machine" in line
    for title in ("TensorRT", "TensorRT for RTX", "ONNX Runtime (CUDA)"):
        assert f"{title}: {reason}" in line
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_gpu_that_is_present_and_not_usable_is_a_warning_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    package = write_package(tmp_path / "p")
    machine = _without_gpu(present=True)
    for _ in range(2):
        open_engine(package, LesionSegmentationSettings(), machine=machine)
    (warning,) = (r.message for r in caplog.records if r.levelno == logging.WARNING)
    assert warning.startswith("a GPU is present but cannot be used: cuInit failed")


def test_the_reader_is_told_of_a_gpu_that_was_not_used(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    auto = LesionSegmentationSettings()
    machine = _without_gpu(present=True)
    assert machine.quality == ()
    open_engine(package, auto, machine=machine)
    (note,) = machine.quality
    assert (note.code, note.severity) == ("gpu_not_used", "info")
    assert "cuInit failed (CUDA_ERROR_UNKNOWN)" in note.message
    # no GPU at all, or a processor's engine by order: nothing to tell
    for settings, machine in (
        (auto, _without_gpu(present=False)),
        (LesionSegmentationSettings(engine="openvino"), _without_gpu(present=True)),
    ):
        open_engine(package, settings, machine=machine)
        assert machine.quality == ()


def test_the_reader_is_told_of_a_gpu_without_a_working_engine(tmp_path: Path) -> None:
    class Works:
        identity = GpuIdentity("Substitute 4090", (8, 9), 24 << 30, 13000)

    def find_module(name: str) -> Any:
        if name.startswith("tensorrt"):
            raise EngineUnavailableError(f"the package {name} is not installed")
        return {"onnxruntime": _Cuda(starts=False), "openvino": ov}[name]

    machine = Machine(Works, find_module)
    engine = open_engine(
        write_package(tmp_path / "p"), LesionSegmentationSettings(), machine=machine
    )
    assert engine.name.startswith("OpenVINO")
    (note,) = machine.quality
    assert "TensorRT: the package tensorrt is not installed" in note.message
    assert "CUDAExecutionProvider does not start" in note.message
    # with a GPU that works there is nothing to tell
    machine = Machine(Works, lambda name: _Cuda() if name == "onnxruntime" else find_module(name))
    open_engine(write_package(tmp_path / "q"), LesionSegmentationSettings(), machine=machine)
    assert machine.quality == ()


def test_without_openvino_onnx_runtime_is_chosen(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    machine = _without_gpu(missing=("openvino",))
    engine = open_engine(package, LesionSegmentationSettings(), machine=machine)
    assert engine.name.startswith("ONNX Runtime")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"engine": "tensorrt"}, "TensorRT: there is no usable GPU: cuInit failed"),
        ({"engine": "tensorrt_rtx"}, "TensorRT for RTX: there is no usable GPU"),
        ({"engine": "openvino"}, "the package openvino is not installed"),
        ({"engine": "onnxruntime"}, r"\(CPU\): the package onnxruntime is not installed"),
    ],
)
def test_an_engine_that_is_asked_for_and_impossible_is_an_error(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    package = write_package(tmp_path / "p")
    machine = _without_gpu(missing=("openvino", "onnxruntime"))
    with pytest.raises(ConfigurationError, match=reason) as caught:
        open_engine(package, LesionSegmentationSettings(**settings), machine=machine)
    assert caught.value.subject == "lesion_segmentation.engine"
    assert 'engine and precision to "auto"' in caught.value.remedy


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_is_impossible_is_an_error(tmp_path: Path, precision: str) -> None:
    package = write_package(tmp_path / "p")
    settings = LesionSegmentationSettings.model_validate({"precision": precision})
    with pytest.raises(ConfigurationError, match=f'in precision "{precision}"') as caught:
        open_engine(package, settings, machine=_without_gpu(missing=("openvino",)))
    assert caught.value.subject == "lesion_segmentation.precision"


def test_the_gpu_s_engines_are_tried_in_order(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p")
    tried: list[str] = []

    class Works:
        identity = GpuIdentity("Substitute 4090", (8, 9), 24 << 30, 13000)

    def find_module(name: str) -> Any:
        tried.append(name)
        if name in ("tensorrt", "tensorrt_rtx"):
            raise EngineUnavailableError(f"the package {name} is not installed")
        return _Cuda()

    engine = open_engine(package, LesionSegmentationSettings(), machine=Machine(Works, find_module))
    assert tried == ["tensorrt", "tensorrt_rtx", "onnxruntime"]
    assert engine.name.endswith("(Substitute 4090, sm89)")


def test_this_machine_s_own_choice_runs(tmp_path: Path) -> None:
    engine: Engine = open_engine(write_package(tmp_path / "p"), LesionSegmentationSettings())
    assert engine.run(_batch()).shape == (2, 2, 24, 16, 20)


def test_a_network_of_a_cascade_is_opened_by_name(tmp_path: Path) -> None:
    package = write_package(tmp_path / "p", ("flair", "t2"))
    onnx.save(random_network(2, seed=1), package.folder / "lowres.onnx")
    lowres = Network(
        file="lowres.onnx", stage="lowres", spacing_zyx_mm=(2, 2, 2), patch_size_zyx=(16, 12, 8)
    )
    fullres = package.description.networks[0]
    files = package.description.files | {"lowres.onnx": file_sha256(package.folder / "lowres.onnx")}
    package.description = package.description.model_copy(
        update={"networks": (lowres, fullres), "files": files}
    )
    engine = open_engine(package, FP32, network=lowres)
    assert engine.run(np.zeros((1, 2, 16, 12, 8), np.float32)).shape == (1, 2, 16, 12, 8)
    # the second network takes the first one's segmentation as a further channel
    assert network_source(package).shape.channels == 3
    assert network_source(package, lowres).shape.channels == 2
    assert network_source(package).sha256 != network_source(package, lowres).sha256


# --- OpenVINO's cache --------------------------------------------------------------------------


def test_openvino_takes_the_compiled_network_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package(tmp_path / "p")
    settings = LesionSegmentationSettings(threads=1)
    cache = EngineCache(tmp_path / "engines")
    first = open_engine(package, settings, cache=cache)
    assert len(list((tmp_path / "engines").glob("*.json"))) == 1

    def compile_model(*_: object) -> Any:
        raise AssertionError("compiled again")

    monkeypatch.setattr(ov.Core, "compile_model", compile_model)
    second = open_engine(package, settings, cache=cache)
    assert (second.name, second.precision) == (first.name, first.precision)
    np.testing.assert_array_equal(second.run(_batch()), first.run(_batch()))


def test_openvino_does_not_cache_what_is_quicker_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import operators.lesion_segmentation.openvino_engine as module

    package = write_package(tmp_path / "p")
    monkeypatch.setattr(module, "LARGEST_CACHED_BYTES", package.network.stat().st_size - 1)
    open_engine(package, FP32, cache=EngineCache(tmp_path / "engines"))
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize("damage", ["file", "content"])
def test_openvino_compiles_again_what_the_cache_cannot_give(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    package = write_package(tmp_path / "p")
    cache = EngineCache(tmp_path / "engines")
    expected = open_engine(package, FP32, cache=cache).run(_batch())
    if damage == "file":
        (file,) = (tmp_path / "engines").glob("*.engine")
        file.write_bytes(file.read_bytes()[1:])
        reason = "truncated"
    else:
        cache.put(openvino_key(network_source(package), "fp32"), b"no compiled network")
        reason = "does not load"
    np.testing.assert_array_equal(open_engine(package, FP32, cache=cache).run(_batch()), expected)
    assert reason in caplog.text
    caplog.clear()
    open_engine(package, FP32, cache=cache)
    assert reason not in caplog.text


def test_the_processor_is_known_by_its_features(tmp_path: Path) -> None:
    text = "processor : 0\nmodel name : EPYC\nflags : fpu avx512_bf16\n\nprocessor : 1\n"
    (tmp_path / "with").write_text(text)
    (tmp_path / "without").write_text(text.replace(" avx512_bf16", ""))
    assert processor(tmp_path / "with").startswith("EPYC, features ")
    assert processor(tmp_path / "with") != processor(tmp_path / "without")
    assert processor(tmp_path / "absent").startswith("unknown, features ")
    assert processor() == processor()

"""ONNX Runtime, on an NVIDIA GPU (CUDA) or on the CPU."""

from __future__ import annotations

import logging
import os
from typing import Any, Literal

import numpy as np

from operators.errors import ConfigurationError
from operators.lesion_segmentation.mixed_precision import to_half
from operators.lesion_segmentation.network_source import (
    INPUT,
    OUTPUT,
    EngineUnavailableError,
    NetworkSource,
)
from operators.lesion_segmentation.openvino_engine import not_finite

logger = logging.getLogger(__name__)

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_PRECISIONS: dict[str, tuple[str, ...]] = {"cuda": ("fp16", "fp32"), "cpu": ("fp32",)}
_GPU_MEMORY_BYTES = 4 << 30
_TRIAL_SEED = 20231


class OnnxRuntimeEngine:
    """A network in ONNX Runtime, one patch at a time (bounded memory).

    Parameters
    ----------
    ort
        The module ``onnxruntime``.
    source
        The network.
    device
        "cuda" or "cpu"; nothing falls back from one to the other.
    precision
        "auto" is fp16 (convolutions only, see ``mixed_precision``) with CUDA, fp32 on the CPU.
    threads
        Threads on the CPU; None for every processor that this process may use.
    device_name
        The GPU's name, for ``name``.

    Raises
    ------
    EngineUnavailableError
        If the device or the precision is not available.
    ConfigurationError
        If the network cannot be read or differs from model.json.
    """

    def __init__(
        self,
        ort: Any,
        source: NetworkSource,
        *,
        device: Literal["cuda", "cpu"],
        precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
        threads: int | None = None,
        device_name: str = "CPU",
    ) -> None:
        if _PROVIDERS[device] not in ort.get_available_providers():
            raise EngineUnavailableError(f"the installed onnxruntime has no {_PROVIDERS[device]}")
        self._precision = _PRECISIONS[device][0] if precision == "auto" else precision
        if self._precision not in _PRECISIONS[device]:
            raise EngineUnavailableError(f"ONNX Runtime on {device} is not used in {precision}")
        self._name = f"ONNX Runtime {ort.__version__} ({device_name})"
        self._source = source
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        settings: dict[str, Any] = {}
        if device == "cuda":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            settings = {
                "gpu_mem_limit": _GPU_MEMORY_BYTES,
                "cudnn_conv_algo_search": "HEURISTIC",
                "use_tf32": 0,
            }
        network = _network(source, self._precision)
        try:
            self._session = ort.InferenceSession(
                network, options, providers=[(_PROVIDERS[device], settings)]
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class of their own
            if device == "cuda":
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise EngineUnavailableError(
                    f"the session does not start ({reason[0][:300]})"
                ) from error
            raise ConfigurationError(
                f"model package {source.package}",
                f"{source.file.name} is not a network that ONNX Runtime reads.",
                "Make the package again with model_tools.",
            ) from error
        if self._session.get_providers()[0] != _PROVIDERS[device]:
            raise EngineUnavailableError(f"{_PROVIDERS[device]} does not start")
        self._check()
        if device == "cuda":
            self._try_out()
        logger.info("model %s on %s, %s", source.title, self._name, self._precision)

    @property
    def name(self) -> str:
        """Engine, version and device."""
        return self._name

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions: "fp16" or "fp32"."""
        return self._precision

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network on each patch of (n, channels, z, y, x); see ``Engine.run``.

        Raises
        ------
        ConfigurationError
            If the answer is not finite or has another shape than model.json describes.
        """
        answers = []
        for patch in batch:
            image = np.ascontiguousarray(patch[None], dtype=np.float32)
            answers.append(self._session.run([OUTPUT], {INPUT: image})[0][0])
        answer = np.stack(answers).astype(np.float32, copy=False)
        if answer.shape != self._source.shape.output(len(batch)):
            raise self._differs(f"answers {answer.shape}")
        if not np.isfinite(answer).all():
            raise not_finite(self._source, self._precision)
        return answer

    def _try_out(self) -> None:
        """Run once, so that a failure of the GPU shows before patient data comes."""
        trial = np.random.default_rng(_TRIAL_SEED).normal(size=self._source.shape.input(1))
        try:
            answer = self.run(trial.astype(np.float32))
        except ConfigurationError as error:
            raise EngineUnavailableError(f"a trial run failed: {error.rule}") from error
        except Exception as error:  # as above
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineUnavailableError(f"a trial run failed ({reason[0][:300]})") from error
        if np.ptp(answer) == 0:
            raise EngineUnavailableError("a trial run answers the same value everywhere")

    def _check(self) -> None:
        inputs = [(value.name, value.type) for value in self._session.get_inputs()]
        outputs = [(value.name, value.type) for value in self._session.get_outputs()]
        single = "tensor(float)"
        if (inputs, outputs) != ([(INPUT, single)], [(OUTPUT, single)]):
            raise self._differs(f"has the ports {inputs} and {outputs}")
        shape = self._session.get_inputs()[0].shape
        expected = self._source.shape.input(1)
        fixed = [(s, e) for s, e in zip(shape[1:], expected[1:], strict=False) if type(s) is int]
        if len(shape) != len(expected) or any(s != e for s, e in fixed):
            raise self._differs(f"takes {shape}")

    def _differs(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"model package {self._source.package}",
            f"{self._source.file.name} {what}, which is not what model.json describes.",
            "Make the package again with model_tools.",
        )


def _network(source: NetworkSource, precision: str) -> str | bytes:
    if precision == "fp32":
        return str(source.file)
    try:
        import onnx
    except ImportError as error:
        raise EngineUnavailableError(
            "the package onnx, which fp16 needs, is not installed"
        ) from error
    return bytes(to_half(onnx.load(source.file), "fp16").SerializeToString())

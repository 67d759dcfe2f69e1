"""OpenVINO on a CPU, in bf16 where the processor computes it in hardware, or with an int8 network.

In an int8 network the convolutions' inputs and weights are int8 and their sums int32; what the
network's file leaves unquantised (normalisation and averaging) is computed in fp32.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine_cache import EngineCache, EngineKey
from operators.lesion_segmentation.network_source import EngineUnavailableError, NetworkSource

logger = logging.getLogger(__name__)

_DEVICE = "CPU"
_TYPES = {"bf16": ov.Type.bf16, "fp32": ov.Type.f32, "fp16": ov.Type.f16, "int8": ov.Type.f32}
LARGEST_CACHED_BYTES = 128_000_000
"""Of the network's file or files. Measured: the cache halves the start of a network of 32 MB (0.3 s
less) and gains nothing for one of 312 MB, whose 624 MB must be read and hashed."""
_CAPABILITIES = {"bf16": "BF16", "fp32": "FP32", "fp16": "FP16", "int8": "INT8"}


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What a network compiled for this processor depends on: its name and a hash of its features.

    The name alone is not enough: a virtual machine may hide features of its processor.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    values: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        values.setdefault(name.strip(), value.strip())
    features = hashlib.sha256(" ".join(sorted(values.get("flags", "").split())).encode())
    return f"{values.get('model name', 'unknown')}, features {features.hexdigest()[:16]}"


class OpenVinoEngine:
    """A network compiled for the CPU, for one patch at a time (bounded memory).

    Parameters
    ----------
    source
        The network.
    precision
        "auto" takes bf16 if the processor has it, fp32 otherwise; "int8" needs the source of an
        int8 network. Input, output and everything outside the network stay float32.
    threads
        Number of threads; None for every processor that this process may use.
    cache
        Where the compiled network is kept; None for nowhere.

    Raises
    ------
    EngineUnavailableError
        If the processor does not compute in the precision that is asked for.
    ConfigurationError
        If the network cannot be read or differs from model.json.
    """

    def __init__(
        self,
        source: NetworkSource,
        *,
        precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto",
        threads: int | None = None,
        cache: EngineCache | None = None,
    ) -> None:
        core = ov.Core()
        available = core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if precision == "auto":
            precision = "bf16" if "BF16" in available else "fp32"
        if _CAPABILITIES[precision] not in available:
            raise EngineUnavailableError(f"this processor does not compute {precision}")
        self._precision = precision
        self._name = f"OpenVINO {ov.__version__.split('-')[0]} ({_DEVICE})"
        self._source = source
        threads = threads or len(os.sched_getaffinity(0))
        config = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if sum(file.stat().st_size for file in source.files) > LARGEST_CACHED_BYTES:
            cache = None
        key = openvino_key(source, precision)
        compiled = _from_cache(core, cache, key, config)
        if compiled is None:
            compiled = self._compile(core, config)
            if cache is not None:
                stream = io.BytesIO()
                compiled.export_model(stream)
                cache.put(key, stream.getbuffer())
        self._compiled = compiled
        answered = tuple(self._compiled.output(0).shape)
        if len(self._compiled.outputs) != 1 or answered != source.shape.output(1):
            raise ConfigurationError(
                f"model package {source.package}",
                f"{source.file.name} answers {answered} where model.json describes "
                f"{source.shape.output(1)}.",
                "Make the package again with model_tools.",
            )
        self._request = self._compiled.create_infer_request()
        logger.info(
            "model %s on %s, %s (processor %s bf16), %d threads",
            source.title,
            self._name,
            self._precision,
            "with" if "BF16" in available else "without",
            threads,
        )

    @property
    def name(self) -> str:
        """Engine, version and device."""
        return self._name

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "bf16", "fp16", "fp32" or "int8"."""
        return self._precision

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network on each patch of (n, channels, z, y, x); see ``Engine.run``.

        Raises
        ------
        ConfigurationError
            If the network answers with infinities or NaN.
        """
        answers = []
        for patch in batch:
            result = self._request.infer(
                [np.ascontiguousarray(patch[None], dtype=np.float32)], share_inputs=True
            )
            answers.append(np.array(result[0][0], dtype=np.float32))
        answer = np.stack(answers)
        if not np.isfinite(answer).all():
            raise not_finite(self._source, self._precision)
        return answer

    def _compile(self, core: ov.Core, config: dict[str, Any]) -> ov.CompiledModel:
        try:
            model = core.read_model(self._source.file)
            model.reshape(list(self._source.shape.input(1)))
            return core.compile_model(model, _DEVICE, config)
        except RuntimeError as error:
            raise ConfigurationError(
                f"model package {self._source.package}",
                f"{self._source.file.name} is not a network for patches of "
                f"{self._source.shape.input(1)[1:]}.",
                "Make the package again with model_tools.",
            ) from error


def openvino_key(source: NetworkSource, precision: str) -> EngineKey:
    """The cache key of a network compiled for this machine's processor."""
    shape = source.shape
    options: dict[str, int | str] = {
        "channels": shape.channels,
        "labels": shape.labels,
        "patch": "x".join(map(str, shape.patch)),
    }
    return EngineKey(source.sha256, "openvino", ov.__version__, precision, processor(), options)


def not_finite(source: NetworkSource, precision: str) -> ConfigurationError:
    """The error for an answer with infinities or NaN."""
    return ConfigurationError(
        f"model package {source.package}",
        f"The network answers with values that are not finite in {precision}.",
        'Set lesion_segmentation.precision to "fp32", or replace the model package.',
    )


def _from_cache(
    core: ov.Core, cache: EngineCache | None, key: EngineKey, config: dict[str, Any]
) -> ov.CompiledModel | None:
    blob = cache.get(key) if cache is not None else None
    if cache is None or blob is None:
        return None
    try:
        return core.import_model(ov.Tensor(np.frombuffer(blob, np.uint8)), _DEVICE, config)
    except RuntimeError:
        logger.warning("engine cache: %s does not load; the network is compiled again", key.name)
        cache.discard(key)
        return None

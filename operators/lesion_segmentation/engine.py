"""What runs a network: one small interface, and the choice of the engine for this machine.

The choice is made by trying: first the GPU's engines, if there is a GPU on which a kernel runs
with the right answer, then the processor's. What was passed over and why is in the log, and the
engine that ran is named in every result.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine_cache import EngineCache
from operators.lesion_segmentation.gpu import Gpu, NoGpuError, open_gpu
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage
from operators.lesion_segmentation.network_source import (
    EngineUnavailableError,
    NetworkSource,
    network_source,
)
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import QualityNote

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """A network, loaded and ready to run."""

    @property
    def name(self) -> str:
        """Engine, version and device, as "OpenVINO 2026.4.1 (CPU)"."""

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "bf16", "fp16", "fp32" or "int8"."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network.

        Parameters
        ----------
        batch
            float32 (n, channels, z, y, x), with the network's patch size.

        Returns
        -------
        numpy.ndarray
            float32 (n, labels, z, y, x), finite.
        """


@runtime_checkable
class TilingEngine(Engine, Protocol):
    """An engine that keeps a whole volume on its device, tiles and sums included."""

    def run_tiles(
        self, image: np.ndarray, corners: Sequence[tuple[int, int, int]], importance: np.ndarray
    ) -> np.ndarray:
        """Sum of the weighted answers of the tiles at ``corners``.

        Parameters
        ----------
        image
            float32 (channels, z, y, x), at least as large as the patch.
        corners
            First voxel (z, y, x) of each tile.
        importance
            float32 (z, y, x), the weight of each voxel of a tile.

        Returns
        -------
        numpy.ndarray
            float32 (labels, z, y, x), 0 where no tile lies.
        """


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineUnavailableError(f"the package {name} is not installed") from error
    except (OSError, RuntimeError) as error:
        raise EngineUnavailableError(f"the package {name} does not load ({error})") from error


@dataclass
class Machine:
    """What there is to run on; tests put substitutes here.

    Attributes
    ----------
    find_gpu
        Opens the GPU or raises ``NoGpuError``; called once, when a GPU engine is first tried.
    find_module
        Imports a library by name or raises ``EngineUnavailableError``.
    """

    find_gpu: Callable[[], Gpu] = open_gpu
    find_module: Callable[[str], Any] = _import
    _passed_over: str | None = field(default=None, init=False)
    _gpu: Gpu | NoGpuError | None = field(default=None, init=False)

    def gpu(self) -> Gpu:
        """The working GPU.

        Raises
        ------
        EngineUnavailableError
            If there is none, or none that works.
        """
        if self._gpu is None:
            try:
                self._gpu = self.find_gpu()
                identity = self._gpu.identity
                logger.info("GPU %s (%s) works", identity.name, identity.target)
            except NoGpuError as problem:
                self._gpu = problem
                if problem.present:
                    logger.warning(
                        "a GPU is present but cannot be used: %s. Computing on the processor "
                        "takes longer.",
                        problem.reason,
                    )
        if isinstance(self._gpu, NoGpuError):
            what = "the GPU cannot be used" if self._gpu.present else "there is no usable GPU"
            raise EngineUnavailableError(f"{what}: {self._gpu.reason}") from self._gpu
        return self._gpu

    def remember_processor(self, passed: Sequence[str]) -> None:
        """Take note that "auto" chose an engine on the processor.

        Parameters
        ----------
        passed
            The engines tried before it, each with the reason against it.
        """
        if isinstance(self._gpu, NoGpuError):
            self._passed_over = self._gpu.reason if self._gpu.present else None
        elif self._gpu is not None:
            self._passed_over = "; ".join(passed)

    @property
    def quality(self) -> tuple[QualityNote, ...]:
        """What the reader must know: that a GPU which is there was not used, and why."""
        if self._passed_over is None:
            return ()
        return (
            QualityNote(
                "gpu_not_used",
                "info",
                "This machine has a GPU that could not be used; the network ran on the processor, "
                f"which takes longer (reason: {self._passed_over}).",
            ),
        )


@dataclass(frozen=True)
class _Request:
    source: NetworkSource
    settings: LesionSegmentationSettings
    cache: EngineCache
    machine: Machine

    @property
    def precision(self) -> Literal["auto", "fp32", "fp16", "bf16"]:
        """What the settings ask for, for engines that run no int8 network."""
        if self.settings.precision == "int8":
            raise EngineUnavailableError("int8 networks run in OpenVINO only")
        return self.settings.precision


def _tensorrt(family: Any) -> Callable[[_Request], Engine]:
    def open_it(request: _Request) -> Engine:
        from operators.lesion_segmentation.tensorrt_engine import TensorRtEngine

        precision = request.precision
        gpu = request.machine.gpu()
        return TensorRtEngine(
            request.machine.find_module(family),
            family,
            request.source,
            gpu,
            precision="fp16" if precision == "auto" else precision,
            cache=request.cache,
        )

    return open_it


def _onnxruntime_cuda(request: _Request) -> Engine:
    from operators.lesion_segmentation.onnxruntime_engine import OnnxRuntimeEngine

    precision = request.precision
    gpu = request.machine.gpu()
    return OnnxRuntimeEngine(
        request.machine.find_module("onnxruntime"),
        request.source,
        device="cuda",
        precision=precision,
        device_name=f"{gpu.identity.name}, {gpu.identity.target}",
    )


def _openvino(request: _Request) -> Engine:
    request.machine.find_module("openvino")
    from operators.lesion_segmentation.openvino_engine import OpenVinoEngine

    settings = request.settings
    return OpenVinoEngine(
        request.source,
        precision=settings.precision,
        threads=settings.threads,
        cache=request.cache,
    )


def _onnxruntime_cpu(request: _Request) -> Engine:
    from operators.lesion_segmentation.onnxruntime_engine import OnnxRuntimeEngine

    return OnnxRuntimeEngine(
        request.machine.find_module("onnxruntime"),
        request.source,
        device="cpu",
        precision=request.precision,
        threads=request.settings.threads,
    )


@dataclass(frozen=True)
class _Candidate:
    setting: str
    title: str
    open: Callable[[_Request], Engine]
    on_gpu: bool


_CANDIDATES = (
    _Candidate("tensorrt", "TensorRT", _tensorrt("tensorrt"), True),
    _Candidate("tensorrt_rtx", "TensorRT for RTX", _tensorrt("tensorrt_rtx"), True),
    _Candidate("onnxruntime", "ONNX Runtime (CUDA)", _onnxruntime_cuda, True),
    _Candidate("openvino", "OpenVINO", _openvino, False),
    _Candidate("onnxruntime", "ONNX Runtime (CPU)", _onnxruntime_cpu, False),
)
"""In the order in which they are tried."""


def open_engine(
    package: ModelPackage,
    settings: LesionSegmentationSettings,
    *,
    network: Network | None = None,
    cache: EngineCache | None = None,
    machine: Machine | None = None,
) -> Engine:
    """Load a package's network into the engine that suits this machine and the settings.

    Parameters
    ----------
    package
        A checked package.
    settings
        ``engine``, ``precision`` and ``threads`` count.
    network
        One of the package's networks; None for the one that gives the answer.
    cache
        Where compiled engines are kept; None for nowhere.
    machine
        What there is to run on; None for this machine.

    Raises
    ------
    ConfigurationError
        If the network is damaged or differs from model.json, if the engine or the precision
        that the settings ask for is not possible here, or if precision is "int8" and the package
        holds no int8 network.
    """
    int8 = settings.precision == "int8"
    source = network_source(package, network, int8=int8)
    machine = machine or Machine()
    request = _Request(source, settings, cache or EngineCache(None), machine)
    passed: list[str] = []
    for candidate in _CANDIDATES:
        if settings.engine not in ("auto", candidate.setting):
            continue
        try:
            engine = candidate.open(request)
        except EngineUnavailableError as reason:
            passed.append(f"{candidate.title}: {reason}")
            continue
        if settings.engine == "auto" and not candidate.on_gpu:
            machine.remember_processor(passed)
        logger.info(
            "engine: %s in %s, %s%s",
            engine.name,
            engine.precision,
            "chosen for this machine" if settings.engine == "auto" else "asked for in app.yaml",
            f"; passed over: {'; '.join(passed)}" if passed else "",
        )
        return engine
    raise _impossible(settings, passed)


def _impossible(settings: LesionSegmentationSettings, passed: list[str]) -> ConfigurationError:
    reasons = "; ".join(passed)
    if settings.engine == "auto":
        return ConfigurationError(
            "lesion_segmentation.precision",
            f'No engine works on this machine in precision "{settings.precision}" ({reasons}).',
            'Set precision to "auto" or "fp32" in app.yaml; docs/engines.md says what each engine '
            "needs.",
        )
    return ConfigurationError(
        "lesion_segmentation.engine",
        f'"{settings.engine}" in precision "{settings.precision}" is asked for and is not possible '
        f"here ({reasons}).",
        'Set engine and precision to "auto" in app.yaml, or see docs/engines.md for what this '
        "engine needs.",
    )

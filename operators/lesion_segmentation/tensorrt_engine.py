"""TensorRT, or TensorRT for RTX, on an NVIDIA GPU; whole volumes stay on the GPU.

Not run on a GPU so far: see docs/engines.md for what has been tested and how.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine_cache import EngineCache, EngineKey
from operators.lesion_segmentation.gpu import Gpu, GpuError, GpuMemory
from operators.lesion_segmentation.network_source import (
    INPUT,
    OUTPUT,
    EngineUnavailableError,
    NetworkSource,
)
from operators.lesion_segmentation.tensorrt_build import (
    GpuPrecision,
    build_engine,
    check_tensors,
    first_error,
    make_logger,
    prepare_network,
)

logger = logging.getLogger(__name__)

Family = Literal["tensorrt", "tensorrt_rtx"]
TITLES: dict[Family, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_FLOAT_BYTES = 4
_TRIAL_SEED = 20231


def engine_key(
    source: NetworkSource, family: Family, version: str, precision: str, device: str
) -> EngineKey:
    """The cache key of an engine.

    Parameters
    ----------
    source
        The network.
    family, version
        The library.
    precision
        "fp32", "fp16" or "bf16".
    device
        The compute capability, as "sm89"; for ``tensorrt`` with the GPU's name, because such an
        engine is tuned to one model of GPU.
    """
    shape = source.shape
    options: dict[str, int | str] = {
        "channels": shape.channels,
        "labels": shape.labels,
        "patch": "x".join(map(str, shape.patch)),
        "batch": shape.batch,
    }
    return EngineKey(source.sha256, family, version, precision, device, options)


class TensorRtEngine:
    """A network on the GPU.

    Parameters
    ----------
    trt
        The module ``tensorrt`` or ``tensorrt_rtx``.
    family
        Which of them it is.
    source
        The network.
    gpu
        A GPU that works.
    precision
        Arithmetic of the convolutions.
    cache
        Where built engines are kept.

    Raises
    ------
    EngineUnavailableError
        If the engine cannot be built or does not run on this GPU.
    ConfigurationError
        If the network is not what model.json says.
    """

    def __init__(
        self,
        trt: Any,
        family: Family,
        source: NetworkSource,
        gpu: Gpu,
        *,
        precision: GpuPrecision,
        cache: EngineCache,
    ) -> None:
        self._gpu = gpu
        self._shape = source.shape
        self._package = source.package
        self._precision = precision
        identity = gpu.identity
        self._name = f"{TITLES[family]} {trt.__version__} ({identity.name}, {identity.target})"
        device = identity.target
        if family == "tensorrt":
            device = f"{identity.name} {identity.target}"
        key = engine_key(source, family, str(trt.__version__), precision, device)
        self._log = make_logger(trt)
        try:
            self._runtime = trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:
            raise EngineUnavailableError(
                first_error(self._log, "its runtime does not start")
            ) from error
        try:
            self._engine = self._cached_engine(key, cache)
            if self._engine is None:
                logger.info("building the engine for %s; it is kept for later runs", self._name)
                prepared = prepare_network(source.file, precision)
                blob = build_engine(trt, source, prepared, identity.target)
                self._engine = self._runtime.deserialize_cuda_engine(blob)
                if self._engine is None:
                    raise EngineUnavailableError(
                        first_error(self._log, "the engine does not load on this GPU")
                    )
                cache.put(key, blob)
                del blob
            self._check(trt)
            self._prepare(family, key, cache)
        except GpuError as error:
            raise EngineUnavailableError(str(error)) from error

    @property
    def name(self) -> str:
        """Library, version and GPU."""
        return self._name

    @property
    def precision(self) -> str:
        """Arithmetic of the convolutions; normalisation and averaging are fp32."""
        return self._precision

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network on patches (n, channels, z, y, x); see ``Engine.run``.

        Raises
        ------
        ConfigurationError
            If the answer is not finite, or the GPU fails.
        """
        images = np.ascontiguousarray(batch, dtype=np.float32)
        answers = np.empty(self._shape.output(len(images)), np.float32)
        try:
            self._gpu.activate()
            for first in range(0, len(images), self._shape.batch):
                part = images[first : first + self._shape.batch]
                self._gpu.upload(part, self._input)
                self._execute(len(part))
                shape = self._shape.output(len(part))
                answers[first : first + len(part)] = self._gpu.download(
                    self._output, shape, np.float32
                )
        except GpuError as error:
            raise self._failed(str(error)) from error
        if not np.isfinite(answers).all():
            raise self._not_finite()
        return answers

    def run_tiles(
        self, image: np.ndarray, corners: Sequence[tuple[int, int, int]], importance: np.ndarray
    ) -> np.ndarray:
        """Run the network over tiles of a volume and add up what it answers, all on the GPU.

        Parameters
        ----------
        image
            float32 (channels, z, y, x), at least as large as the patch.
        corners
            First voxel (z, y, x) of each tile.
        importance
            float32 (z, y, x) with the patch's shape: weight of each voxel of a tile.

        Returns
        -------
        numpy.ndarray
            float32 (labels, z, y, x): the sum of ``importance`` times the answers.

        Raises
        ------
        ConfigurationError
            If an answer is not finite, or the GPU fails.
        """
        gpu, shape = self._gpu, self._shape
        size = image.shape[1:]
        if image.shape[0] != shape.channels or importance.shape != shape.patch:
            raise ValueError("image or importance do not fit the network")
        for corner in corners:
            if any(c < 0 or c + p > n for c, p, n in zip(corner, shape.patch, size, strict=True)):
                raise ValueError(f"the tile at {corner} reaches beyond the image")
        voxels = int(np.prod(shape.patch))
        tile_in, tile_out = shape.channels * voxels, shape.labels * voxels
        try:
            gpu.activate()
            volume = gpu.allocate(image.nbytes)
            gpu.upload(np.ascontiguousarray(image, dtype=np.float32), volume)
            weights = gpu.allocate(importance.nbytes)
            gpu.upload(np.ascontiguousarray(importance, dtype=np.float32), weights)
            total_shape = (shape.labels, *size)
            total = gpu.zeros(int(np.prod(total_shape)) * _FLOAT_BYTES)
            not_finite = gpu.zeros(np.dtype(np.int32).itemsize)
            for first in range(0, len(corners), shape.batch):
                part = corners[first : first + shape.batch]
                for number, corner in enumerate(part):
                    tile = self._input.address + number * tile_in * _FLOAT_BYTES
                    geometry = (*size, *shape.patch, *corner)
                    gpu.launch("cut_tile", tile_in, volume.address, tile, *geometry)
                self._execute(len(part))
                for number, corner in enumerate(part):
                    tile = self._output.address + number * tile_out * _FLOAT_BYTES
                    geometry = (*size, *shape.patch, *corner)
                    memories = (total.address, tile, weights.address, not_finite.address)
                    gpu.launch("add_tile", tile_out, *memories, *geometry)
            answer = gpu.download(total, total_shape, np.float32)
            flag = gpu.download(not_finite, (1,), np.int32)
        except GpuError as error:
            raise self._failed(str(error)) from error
        if flag[0]:
            raise self._not_finite()
        return answer

    def _cached_engine(self, key: EngineKey, cache: EngineCache) -> Any:
        blob = cache.get(key)
        if blob is None:
            return None
        engine = self._runtime.deserialize_cuda_engine(blob)
        if engine is None:
            logger.warning("engine cache: %s does not load; the engine is built again", key.name)
            cache.discard(key)
        return engine

    def _check(self, trt: Any) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        check_tensors(
            self._package, {n: tuple(engine.get_tensor_shape(n)) for n in names}, self._shape
        )
        if any(engine.get_tensor_dtype(name) != trt.float32 for name in names):
            raise EngineUnavailableError("its input or output is not float32")

    def _prepare(self, family: Family, key: EngineKey, cache: EngineCache) -> None:
        """Allocate the tensors and run once, so that a failure shows before patient data comes."""
        shape, gpu = self._shape, self._gpu
        gpu.activate()
        kernels: Any = None
        kernels_key = _kernels_key(key, gpu) if family == "tensorrt_rtx" else None
        stored: bytes | None = None
        if kernels_key is None:
            self._context = self._engine.create_execution_context()
        else:
            settings = self._engine.create_runtime_config()
            kernels = settings.create_runtime_cache()
            stored = cache.get(kernels_key)
            if stored is not None and not kernels.deserialize(stored):
                stored = None
            settings.set_runtime_cache(kernels)
            self._context = self._engine.create_execution_context(settings)
        if self._context is None:
            raise EngineUnavailableError(first_error(self._log, "it gives no execution context"))
        self._input: GpuMemory = gpu.allocate(_bytes(shape.input(shape.batch)))
        self._output: GpuMemory = gpu.allocate(_bytes(shape.output(shape.batch)))
        addresses = {INPUT: self._input.address, OUTPUT: self._output.address}
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise EngineUnavailableError(f"the tensor {name} cannot be set")
        trial = np.random.default_rng(_TRIAL_SEED).normal(size=shape.input(1)).astype(np.float32)
        try:
            answer = self.run(trial)
        except ConfigurationError as error:
            raise EngineUnavailableError(f"a trial run failed: {error.rule}") from error
        if np.ptp(answer) == 0:
            raise EngineUnavailableError("a trial run answers the same value everywhere")
        if kernels_key is not None and stored is None:
            cache.put(kernels_key, bytes(kernels.serialize()))

    def _execute(self, batch: int) -> None:
        if not self._context.set_input_shape(INPUT, self._shape.input(batch)):
            raise GpuError("the engine refuses the input's shape")
        if not self._context.execute_async_v3(self._gpu.stream):
            raise GpuError("the engine does not run")

    def _failed(self, reason: str) -> ConfigurationError:
        return ConfigurationError(
            f"engine {self._name}",
            f"The GPU failed: {reason}.",
            'Set lesion_segmentation.engine to "openvino" in app.yaml to compute on the processor.',
        )

    def _not_finite(self) -> ConfigurationError:
        return ConfigurationError(
            f"model package {self._package}",
            f"The network answers with values that are not finite in {self._precision}.",
            'Set lesion_segmentation.precision to "fp32", or replace the model package.',
        )


def _bytes(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * _FLOAT_BYTES


def _kernels_key(key: EngineKey, gpu: Gpu) -> EngineKey:
    """Key of the kernels that TensorRT for RTX compiles when an engine is first run."""
    identity = gpu.identity
    return EngineKey(
        key.network_sha256,
        f"{key.engine}-kernels",
        key.version,
        key.precision,
        f"{identity.name} {identity.target} driver {identity.driver}",
        key.options,
    )

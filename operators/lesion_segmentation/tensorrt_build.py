"""From an ONNX network to a TensorRT engine, with TensorRT or TensorRT for RTX.

Both have the same Python interface; the module is a parameter. TensorRT needs the GPU that the
engine is for and measures on it which kernels are fastest. TensorRT for RTX compiles ahead of
time without any GPU, for the compute capabilities that it supports, and chooses its kernels when
the engine is loaded.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from operators.errors import ConfigurationError
from operators.lesion_segmentation.mixed_precision import to_half
from operators.lesion_segmentation.network_source import (
    INPUT,
    OUTPUT,
    EngineUnavailableError,
    NetworkShape,
    NetworkSource,
)

logger = logging.getLogger(__name__)

WORKSPACE_BYTES = 2 << 30

GpuPrecision = Literal["fp32", "fp16", "bf16"]


def targets(trt: Any) -> tuple[str, ...]:
    """Compute capabilities that engines can be built for without a GPU, as ("sm75", "sm80", …).

    Empty for TensorRT, which builds on the GPU itself.
    """
    capabilities = getattr(trt, "ComputeCapability", None)
    names = getattr(capabilities, "__members__", {})
    return tuple(name.lower() for name in names if name.startswith("SM"))


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that writes to this module's logger and keeps the last errors."""

    class _Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors = [*self.errors[-4:], text]
            logger.debug("%s: %s", trt.__name__, text)

    return _Logger()


def first_error(log: Any, otherwise: str) -> str:
    """The first error that a logger of ``make_logger`` holds, in one line."""
    text: str = log.errors[0] if log.errors else otherwise
    return text.strip().splitlines()[0][:300]


def prepare_network(file: Path, precision: GpuPrecision) -> Path | bytes:
    """The network as TensorRT is to read it: the file itself for fp32, else mixed precision.

    Raises
    ------
    EngineUnavailableError
        If the package onnx is missing, which only fp16 and bf16 need.
    ConfigurationError
        If the network cannot be computed in this precision.
    """
    if precision == "fp32":
        return file
    try:
        import onnx
    except ImportError as error:
        raise EngineUnavailableError(
            f"the package onnx, which {precision} needs, is not installed"
        ) from error
    return bytes(to_half(onnx.load(file), precision).SerializeToString())


def _parse(trt: Any, network: Any, prepared: Path | bytes, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    if isinstance(prepared, Path):
        parsed = parser.parse_from_file(str(prepared))
    else:
        parsed = parser.parse(prepared)
    if not parsed:
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise EngineUnavailableError(f"the network is not understood ({'; '.join(errors)[:300]})")


def check_tensors(holder: str, found: dict[str, tuple[int, ...]], shape: NetworkShape) -> None:
    """Compare the tensors of a network or engine with what model.json describes.

    Parameters
    ----------
    holder
        The package's name, for the message.
    found
        Tensor name to shape, -1 for a free size.
    shape
        What is described.

    Raises
    ------
    ConfigurationError
        If they differ.
    """
    expected = {INPUT: shape.input(-1), OUTPUT: shape.output(-1)}
    if found != expected:
        raise ConfigurationError(
            f"model package {holder}",
            f"Its network has the tensors {found} where model.json describes {expected}.",
            "Make the package again with model_tools.",
        )


def build_engine(trt: Any, source: NetworkSource, prepared: Path | bytes, target: str) -> bytes:
    """Build an engine for one compute capability.

    Parameters
    ----------
    trt
        ``tensorrt`` or ``tensorrt_rtx``.
    source
        The network; the engine takes batches of 1 to ``source.shape.batch``.
    prepared
        The network as ``prepare_network`` gives it; fp32 is computed without TF32.
    target
        As "sm89". TensorRT builds for the GPU at hand, whatever it says.

    Returns
    -------
    bytes
        The serialised engine.

    Raises
    ------
    EngineUnavailableError
        If the target is not supported or the network cannot be built.
    ConfigurationError
        If the network is not what model.json says.
    """
    ahead = targets(trt)
    if ahead and target not in ahead:
        raise EngineUnavailableError(f"{target} is not among its targets ({', '.join(ahead)})")
    log = make_logger(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:
        # pybind11 raises a TypeError where the library's factory gives no object
        raise EngineUnavailableError(first_error(log, "its builder does not start")) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, prepared, log)
    shape = source.shape
    if network.num_inputs == 1 and network.get_input(0).shape[1] == shape.channels:
        # the patch is fixed, where the file leaves it free, so that the engine is made for it
        network.get_input(0).shape = shape.input(-1)
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    check_tensors(source.package, {t.name: tuple(t.shape) for t in tensors}, shape)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    if ahead:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
    profile = builder.create_optimization_profile()
    batch = shape.batch
    profile.set_shape(INPUT, shape.input(1), shape.input(batch), shape.input(batch))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineUnavailableError(
            f"the engine cannot be built ({first_error(log, 'no reason given')})"
        )
    return bytes(engine)

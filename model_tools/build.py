"""Engines of TensorRT for RTX, built ahead of time for GPUs that are not here."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine_cache import EngineCache, cache_folder
from operators.lesion_segmentation.model_package import ModelPackage, load_model_package
from operators.lesion_segmentation.network_source import EngineUnavailableError, network_source
from operators.lesion_segmentation.tensorrt_build import (
    GpuPrecision,
    build_engine,
    prepare_network,
    targets,
)
from operators.lesion_segmentation.tensorrt_engine import engine_key

FAMILY: Literal["tensorrt_rtx"] = "tensorrt_rtx"
SHIPPED_TARGETS = ("sm80", "sm86", "sm89", "sm120")
"""A100; RTX 30 and A-series; RTX 40, L4 and L40; RTX 50 and RTX PRO Blackwell."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in the output folder."""

    network: str
    """The network's file."""
    target: str
    precision: str
    nbytes: int
    seconds: float
    """Wall-clock time of the build, with what all targets share counted to the first; 0 if the
    engine was there already."""


def import_tensorrt_rtx() -> Any:
    """The module ``tensorrt_rtx``.

    Raises
    ------
    ConfigurationError
        If it is not installed.
    """
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise ConfigurationError(
            "tensorrt_rtx",
            "TensorRT for RTX is not installed.",
            "Install what requirements-gpu.txt says about it.",
        ) from error
    return tensorrt_rtx


def build_engines(
    package: ModelPackage,
    wanted: Sequence[str],
    output: Path,
    *,
    precision: GpuPrecision = "fp16",
    trt: Any = None,
) -> list[BuiltEngine]:
    """Build every network of a package for every target; no GPU is needed.

    Parameters
    ----------
    package
        A checked package; its folder is only read.
    wanted
        Compute capabilities, as ("sm89", "sm120").
    output
        Folder for the engines, to be named as ``lesion_segmentation.prebuilt_engines`` (or used
        as ``engine_cache``).
    precision
        Arithmetic of the convolutions.
    trt
        The module; None imports it.

    Raises
    ------
    ConfigurationError
        If a target is not supported, a network cannot be built, or the folder cannot be written.
    """
    trt = trt or import_tensorrt_rtx()
    supported = targets(trt)
    for target in wanted:
        if target not in supported:
            raise ConfigurationError(
                "--target",
                f"{target} is not among the targets of TensorRT for RTX {trt.__version__}.",
                f"Give one or more of {', '.join(supported)}; on other GPUs TensorRT builds its "
                "engine at the first start.",
            )
    cache = EngineCache(output)
    built = []
    for network in package.description.networks:
        source = network_source(package, network)
        prepared: Path | bytes | None = None
        for target in wanted:
            start = time.perf_counter()
            key = engine_key(source, FAMILY, str(trt.__version__), precision, target)
            blob, seconds = cache.get(key), 0.0
            if blob is None:
                try:
                    prepared = prepared or prepare_network(source.file, precision)
                    blob = build_engine(trt, source, prepared, target)
                except EngineUnavailableError as error:
                    raise ConfigurationError(
                        f"model package {source.package}",
                        f"{network.file} cannot be built for {target}: {error}.",
                        "Try another precision, or make the package again with model_tools.",
                    ) from error
                if not cache.put(key, blob):
                    raise ConfigurationError(
                        f"output folder {output.name}",
                        "An engine cannot be written to it.",
                        "Give a writable folder with enough space with --output.",
                    )
                seconds = time.perf_counter() - start
            built.append(BuiltEngine(network.file, target, precision, len(blob), seconds))
    return built


def table(engines: Sequence[BuiltEngine]) -> str:
    """The engines as lines of text: network, target, precision, size and time."""
    lines = [f"{'network':24} {'target':7} {'type':5} {'MB':>8} {'seconds':>8}"]
    lines += [
        f"{e.network:24} {e.target:7} {e.precision:5} {e.nbytes / 1e6:8.1f} "
        f"{f'{e.seconds:8.1f}' if e.seconds else '   there'}"
        for e in engines
    ]
    return "\n".join(lines)


def _build(arguments: argparse.Namespace) -> None:
    package = load_model_package(arguments.package)
    output = arguments.output or cache_folder()
    if output is None:
        raise ConfigurationError(
            "--output", "This user has no home folder for engines.", "Give a folder with --output."
        )
    if output.resolve().is_relative_to(arguments.package.resolve()):
        raise ConfigurationError(
            "--output",
            "A model package is read-only; engines do not belong into it.",
            "Give another folder.",
        )
    chosen = tuple(dict.fromkeys(arguments.target or SHIPPED_TARGETS))
    print(table(build_engines(package, chosen, output, precision=arguments.precision)))
    print(f"in {output}")


def add_build(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command ``build``."""
    build = commands.add_parser("build", help="build engines of TensorRT for RTX, without a GPU")
    build.add_argument("package", type=Path, help="model package, as models/NAME")
    build.add_argument(
        "--target",
        action="append",
        type=str.lower,
        metavar="smNN",
        help="compute capability, as sm89; may be repeated; default: " + ", ".join(SHIPPED_TARGETS),
    )
    build.add_argument("--precision", choices=("fp16", "bf16", "fp32"), default="fp16")
    build.add_argument(
        "-o", "--output", type=Path, help="folder for the engines; default: the user's engine cache"
    )
    build.set_defaults(run=_build)

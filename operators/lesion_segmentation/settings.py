"""Settings of the segmentation, from the section ``lesion_segmentation`` of app.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from operators.settings import Settings


class LesionSegmentationSettings(Settings):
    """How the model is chosen and run."""

    package: str | None = None
    """Folder name of the only model package to use; None chooses by the series at hand."""
    engine: Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime", "openvino"] = "auto"
    """Inference engine; "auto" takes the first that works on this machine (on a GPU tensorrt,
    tensorrt_rtx, onnxruntime; else openvino, onnxruntime). Any other value is an order: if that
    engine cannot be used, the application stops. docs/engines.md says what each needs."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Arithmetic of the convolutions; "auto" is fp16 on a GPU, and on a CPU bf16 where the
    processor computes it in hardware, else fp32. Normalisation and averaging over the ensemble
    stay fp32 on a GPU. "int8" (CPU only, never chosen by "auto") needs a package with a quantised
    network, made by "python -m model_tools quantise"."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """Threads of the engine; None uses every processor that the process may run on."""
    engine_cache: Path | None = None
    """Folder in which compiled engines are kept between runs, outside the model packages; None
    takes the folder "engines" in the work folder (-w), else in the user's cache folder. What is in
    it is run as a program: nobody else may write there."""
    prebuilt_engines: Path | None = None
    """Folder with engines made by "python -m model_tools build", only read: for images."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Lesion probability from which a voxel is lesion; None takes the model package's own."""
    minimum_coverage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of the brain that a sequence must cover; below it a quality note warns."""

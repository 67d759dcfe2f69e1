"""Settings of the segmentation, from the section ``lesion_segmentation`` of app.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from operators.settings import Settings


class LesionSegmentationSettings(Settings):
    """How the model is chosen and run."""

    package: str | None = None
    """Folder name of the only model package to use; None chooses by the series at hand."""
    engine: Literal["auto", "openvino"] = "auto"
    """Inference engine; "auto" takes the best one that works on this machine."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the network; "auto" is bf16 where the processor computes it in hardware."""
    threads: Annotated[int, Field(gt=0)] | None = None
    """Threads of the engine; None uses every processor that the process may run on."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Lesion probability from which a voxel is lesion; None takes the model package's own."""
    minimum_coverage: Annotated[float, Field(ge=0, le=1)] = 0.9
    """Share of the brain that a sequence must cover; below it a quality note warns."""

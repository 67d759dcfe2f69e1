"""What a comparison finds where nothing has changed, as measured for this version.

The numbers come from test-retest trials (docs/evaluation.md): a scan compared with itself after a
random motion, resampling, bias field and noise.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated

from pydantic import Field

from operators.settings import Settings

FILE = "noise_floor.json"


class NoiseFloor(Settings):
    """Measured with the shipped models; the report quotes it."""

    trials: Annotated[int, Field(ge=0)]
    """How many; 0 if this version was not measured."""
    false_new_mean: Annotated[float, Field(ge=0)]
    """False new lesions per trial."""
    false_new_max: Annotated[int, Field(ge=0)]
    load_change_sd_percent: Annotated[float, Field(ge=0)]
    """Standard deviation over the trials of the change of lesion load, in percent of the load."""


@cache
def noise_floor() -> NoiseFloor:
    """The numbers that come with the application."""
    text = resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    return NoiseFloor.model_validate_json(text)

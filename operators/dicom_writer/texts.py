"""The texts that readers see, in the language of the settings."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

LANGUAGE = "en"


@cache
def texts(language: str = LANGUAGE) -> dict[str, Any]:
    """All texts of a language, from ``texts_<language>.yaml``."""
    file = resources.files(__package__).joinpath(f"texts_{language}.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content

"""The texts that readers see, in the language of the settings."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

import yaml

DEFAULT_LANGUAGE = "en"
_FILE = re.compile(r"texts_([a-z]{2})\.yaml")


@cache
def languages() -> tuple[str, ...]:
    """The languages that there is a file of texts for, as two letters (ISO 639-1)."""
    names = (file.name for file in resources.files(__package__).iterdir())
    return tuple(sorted(match[1] for match in map(_FILE.fullmatch, names) if match))


@cache
def texts(language: str = DEFAULT_LANGUAGE) -> dict[str, Any]:
    """All texts of a language, from ``texts_<language>.yaml``."""
    file = resources.files(__package__).joinpath(f"texts_{language}.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def number(value: float, decimals: int, language: str = DEFAULT_LANGUAGE) -> str:
    """A number as the language writes it: 4.16 in English, 4,16 in Danish."""
    return f"{value:.{decimals}f}".replace(".", str(texts(language)["decimal_sign"]))


def signed(value: float, decimals: int, language: str = DEFAULT_LANGUAGE) -> str:
    """A number with its sign, a true minus, and no sign on zero."""
    text = number(abs(value), decimals, language)
    if round(abs(value), decimals) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"

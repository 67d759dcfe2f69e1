"""Descriptions as vendors and hospitals write them, compared word by word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_LETTERS = {"æ": "ae", "ø": "oe", "œ": "oe", "ß": "ss"}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PLUS = re.compile(r"\+")
_SEPARATOR = re.compile(r"[^0-9a-z+*]+")


def without_accents(text: str) -> str:
    """``text`` with accents removed and æ, ø, œ, ß written with two letters each.

    Letter case is kept, so that the function also serves for regular expressions.
    """
    for letter, written in _LETTERS.items():
        text = text.replace(letter, written).replace(letter.upper(), written.upper())
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def plain(text: str | None) -> str:
    """A description as lower-case words with single spaces.

    ``t2_space_dark-fluid`` becomes ``t2 space dark fluid``; a change from lower to upper case
    starts a word (``AxT2``, ``sT1W``); ``+`` starts one too (``T1+C`` becomes ``t1 +c``); ``*``
    stays, for T2*.
    """
    if not text:
        return ""
    text = _CAMEL.sub(" ", without_accents(text))
    text = _PLUS.sub(" +", text.lower())
    return _SEPARATOR.sub(" ", text).strip()


@lru_cache(maxsize=2048)
def compile_words(pattern: str) -> re.Pattern[str]:
    """A regular expression that matches ``pattern`` as whole words of :func:`plain` text.

    Raises
    ------
    ValueError
        If ``pattern`` is not a regular expression, or matches the empty text.
    """
    try:
        compiled = re.compile(
            rf"(?<![0-9a-z])(?:{without_accents(pattern)})(?![0-9a-z*])", re.IGNORECASE
        )
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    if compiled.search(""):
        raise ValueError(f"{pattern!r} matches the empty text")
    return compiled


def cut_words(text: str, patterns: Sequence[re.Pattern[str]]) -> str:
    """``text`` (as :func:`plain` makes it) without the parts that ``patterns`` match.

    A bar takes the place of what was cut, so that the words around it do not become neighbours.
    """
    for pattern in patterns:
        text = pattern.sub(" | ", text)
    return text

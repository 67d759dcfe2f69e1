"""The texts file: complete, used, and with placeholders that fit."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from reportlab.pdfbase.ttfonts import TTFontFace

import operators.dicom_writer
from operators.dicom_writer.rendering import BY_IMPORTANCE, font_folder
from operators.dicom_writer.texts import texts
from operators.messages import Change, Region, Severity


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def test_every_change_region_and_severity_has_a_word() -> None:
    words = texts()
    assert set(words["change"]) == set(get_args(Change)) == set(BY_IMPORTANCE)
    assert set(words["region"]) == set(get_args(Region))
    assert set(words["severity"]) == set(get_args(Severity))


def test_every_text_is_a_text_with_readable_placeholders() -> None:
    for path, value in _leaves(texts()):
        assert isinstance(value, str), path
        assert value.strip(), path
        for _, field, _, _ in string.Formatter().parse(value):
            assert field is None or field.isidentifier(), path


def test_every_text_is_used() -> None:
    folder = Path(operators.dicom_writer.__file__).parent
    source = "\n".join(
        (folder / name).read_text(encoding="utf-8")
        for name in ("preview.py", "report.py", "plots.py", "encapsulated.py")
    )
    named = set(re.findall(r"[\"']([a-z0-9_]+)[\"']", source))
    named |= {f"heading_{name}" for name in named}
    unused = [
        path
        for path, _ in _leaves(texts())
        if path.split("/")[0] in ("preview", "report") and path.split("/")[1] not in named
    ]
    assert not unused


@pytest.mark.parametrize("text", ["Sørensen Åse æøå", "łżźćę", "Щукина Ђорђе Її", "±×Ø→−…°≥"])
def test_the_fonts_have_the_letters(text: str) -> None:
    for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"):
        face = TTFontFace(str(font_folder() / name))
        missing = [letter for letter in text if ord(letter) not in face.charToGlyph]
        assert not missing

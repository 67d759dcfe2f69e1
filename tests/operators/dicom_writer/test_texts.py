"""The texts file: complete, used, and with placeholders that fit."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from reportlab.pdfbase.ttfonts import TTFontFace

import operators.dicom_writer
from operators.dicom_writer.rendering import BY_IMPORTANCE, font_folder
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.dicom_writer.texts import languages, number, signed, texts
from operators.messages import Change, Region, Severity


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}/")
        else:
            yield f"{path}{key}", value


def test_english_and_danish_are_there() -> None:
    assert set(languages()) >= {"en", "da"}


@pytest.mark.parametrize("language", languages())
def test_every_language_has_the_same_keys_and_placeholders(language: str) -> None:
    def placeholders(text: str) -> set[str]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}

    english, other = dict(_leaves(texts("en"))), dict(_leaves(texts(language)))
    assert list(other) == list(english)
    for path, text in english.items():
        assert placeholders(other[path]) == placeholders(text), path


@pytest.mark.parametrize("language", [name for name in languages() if name != "en"])
def test_translations_are_translated(language: str) -> None:
    """Only names, numbers and words that are the same in both languages may be equal."""
    english, other = dict(_leaves(texts("en"))), dict(_leaves(texts(language)))
    equal = [path for path, text in english.items() if other[path] == text]
    assert len(equal) < 0.2 * len(english), equal


def test_a_language_without_texts_is_refused() -> None:
    assert DICOMWriterSettings(language="da").language == "da"
    with pytest.raises(ValidationError, match="there are texts in da and en only"):
        DICOMWriterSettings(language="xx")


def test_numbers_follow_the_language() -> None:
    assert number(1234.5678, 2, "en") == "1234.57"
    assert number(1234.5678, 2, "da") == "1234,57"
    assert signed(-0.154, 2, "da") == "−0,15"
    assert signed(0.154, 1, "en") == "+0.2"
    assert signed(-0.004, 2, "en") == "0.00"


def test_every_change_region_and_severity_has_a_word() -> None:
    words = texts()
    for form in ("one", "many"):
        assert set(words["counted"][form]) == set(get_args(Change))
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
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
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

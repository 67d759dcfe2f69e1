"""Quality notes and reasons of choice in the reader's language.

The stages write both in English. The file of texts has each sentence in its English form
with placeholders; what stands in their place is kept, or translated too where the file knows it. A
note that the file does not know stays English. A reason is a row of phrases and values; the phrases
that the file knows are replaced, wherever they stand.
"""

from __future__ import annotations

import re
import string
from functools import cache

from operators.dicom_writer.texts import DEFAULT_LANGUAGE, texts


def note_text(message: str, language: str) -> str:
    """A note's message in a language of the texts.

    Parameters
    ----------
    message
        As a stage wrote it.
    language
        Two letters (ISO 639-1).
    """
    if language == DEFAULT_LANGUAGE:
        return message
    return _translated(message, "notes", language) or message


def reason_text(reason: str, language: str) -> str:
    """The reason for the choice of a series in a language of the texts.

    Parameters
    ----------
    reason
        As the selection wrote it; what stands in quotation marks is the scanner's and is kept.
    language
        Two letters (ISO 639-1).
    """
    if language == DEFAULT_LANGUAGE:
        return reason
    phrases: dict[str, str] = texts(language)["reasons"]
    pattern, keys = _phrases()
    sign = str(texts(language)["decimal_sign"])
    parts = reason.split('"')
    for position in range(0, len(parts), 2):
        told = pattern.sub(lambda match: str(phrases[keys[match[0]]]), parts[position])
        parts[position] = re.sub(r"(?<=\d)\.(?=\d)", sign, told)
    return '"'.join(parts)


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, str]]:
    """The English phrases as one pattern, longer ones first, and the key of each."""
    keys = {str(phrase): key for key, phrase in texts(DEFAULT_LANGUAGE)["reasons"].items()}
    longest = sorted(keys, key=len, reverse=True)
    choice = "|".join(map(re.escape, longest))
    return re.compile(rf"(?<!\w)(?:{choice})(?!\w)"), keys


def known_note(message: str) -> str | None:
    """The key of the sentence that a message is an instance of; None if the texts have none."""
    found = _find(message, "notes")
    return None if found is None else found[0]


def _translated(text: str, section: str, language: str) -> str | None:
    found = _find(text, section)
    if found is None:
        return None
    key, values = found
    form = str(texts(language)[section][key])
    return form.format(**{name: _value(value, language) for name, value in values.items()})


def _value(value: str, language: str) -> str:
    lower = value[:1].lower() + value[1:]
    for one in (value, lower):
        found = _translated(one, "note_parts", language)
        if found is not None:
            return found if one == value else found[:1].upper() + found[1:]
    return value


def _find(text: str, section: str) -> tuple[str, dict[str, str]] | None:
    for key, pattern in _patterns(section):
        match = pattern.fullmatch(text)
        if match:
            return key, match.groupdict()
    return None


@cache
def _patterns(section: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """The English sentences as patterns; those with the most fixed letters come first."""
    forms = []
    for key, form in texts(DEFAULT_LANGUAGE)[section].items():
        parts = list(string.Formatter().parse(form))
        pattern = "".join(
            re.escape(fixed) + ("" if name is None else f"(?P<{name}>.+?)")
            for fixed, name, _, _ in parts
        )
        forms.append((-sum(len(fixed) for fixed, *_ in parts), key, re.compile(pattern, re.DOTALL)))
    return tuple((key, pattern) for _, key, pattern in sorted(forms, key=lambda one: one[:2]))

"""Every note that a stage can write has its sentence in the texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import operators
from app.config import load_settings
from operators.dicom_writer.note_texts import known_note, note_text, reason_text
from operators.dicom_writer.texts import texts
from tests.conftest import ROOT

PASSED_ON = {"problem.code", "role_ambiguous"}
"""Notes whose message, or most of it, is that of an error or a series' defect."""


def _sentences() -> Iterator[tuple[str, str]]:
    """Code and message of every QualityNote in the stages, with 7 for what differs."""
    for path in sorted(Path(operators.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "QualityNote"):
                continue
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            code = arguments[0]
            name = str(code.value) if isinstance(code, ast.Constant) else ast.unparse(code)
            message = arguments[2]
            forms = [message.body, message.orelse] if isinstance(message, ast.IfExp) else [message]
            for form in forms:
                if isinstance(form, ast.Constant):
                    yield name, str(form.value)
                elif isinstance(form, ast.JoinedStr):
                    parts = [
                        str(one.value) if isinstance(one, ast.Constant) else "7"
                        for one in form.values
                    ]
                    yield name, "".join(parts)


SENTENCES = [one for one in _sentences() if one[0] not in PASSED_ON]


def test_the_notes_of_the_stages_are_seen() -> None:
    assert len(SENTENCES) > 35


@pytest.mark.parametrize(("code", "message"), SENTENCES)
def test_every_note_is_known_and_translated(code: str, message: str) -> None:
    # one joins "a" or "an older one, n days" by a condition inside the sentence
    message = message.replace("an older one7.", "an older one.").replace(
        "holds 77 of", "holds 7 of"
    )
    message = message.replace("in the 7 7, 7 in", "in the 7, 7 in").replace("77: 7 in", "7: 7 in")
    message = message.replace("77: 7 The study", "7: 7 The study")
    assert known_note(message) is not None, code
    assert note_text(message, "en") == message
    translated = note_text(message, "da")
    assert translated != message
    assert translated.count("7") == message.count("7")


def test_what_stands_in_a_sentence_is_translated_too() -> None:
    message = (
        "Field strength: 1.5 T in the prior study, 3 T in the current one; the higher field shows "
        "more and larger lesions, so that new lesions and growth may be overstated."
    )
    assert note_text(message, "da") == (
        "Feltstyrke: 1.5 T i den tidligere undersøgelse, 3 T i den aktuelle; det højere felt viser "
        "flere og større læsioner, så at nye læsioner og vækst kan være overvurderet."
    )
    assert note_text("The prior T1 (series 4) was acquired after contrast agent.", "da") == (
        "Den tidligere T1 (serie 4) er optaget efter kontraststof."
    )


def test_an_unknown_note_stays_as_it_is() -> None:
    assert note_text("Something else.", "da") == "Something else."


def test_every_sentence_is_that_of_a_note() -> None:
    found = {known_note(message) for _, message in SENTENCES} - {None}
    special = {"prior_not_the_latest", "foreign_segmentation", "protocol", "brain_not_found"}
    assert set(texts("en")["notes"]) - found - special <= {
        "prior_not_the_latest_dated",
        "role_ambiguous",
    }


def test_a_reason_is_translated_but_for_what_the_scanner_wrote() -> None:
    reason = (
        "spin echo with long repetition and echo times (TE 98.5 ms, TR 5200 ms, scanning sequence "
        'SE, no inversion pulse), described as "t2 series 1.5"; preferred to series 6 (echo 2): '
        "thinner slices or smaller pixels"
    )
    assert reason_text(reason, "da") == (
        "spinekko med lang repetitions- og ekkotid (TE 98,5 ms, TR 5200 ms, sekvenstype SE, ingen "
        'inversionspuls), beskrevet som "t2 series 1.5"; foretrukket frem for serie 6 (ekko 2): '
        "tyndere snit eller mindre pixler"
    )
    assert reason_text(reason, "en") == reason


def test_the_texts_have_every_rule_that_a_series_is_chosen_by() -> None:
    roles = load_settings(ROOT / "app.yaml").series_selector.roles
    names = {rule.name for role in roles.values() for rule in role.physics}
    names |= {criterion.name for role in roles.values() for criterion in role.order}
    assert len(names) > 15
    assert names <= set(texts("en")["reasons"].values())

"""Every standard code is in DICOM's dictionaries, every private one in the declared scheme."""

from __future__ import annotations

from typing import get_args

import pytest
from highdicom.sr import CodedConcept
from pydicom.sr._concepts_dict import concepts
from pydicom.sr.coding import Code

from operators.dicom_writer import codes
from operators.messages import Change, Region


def meanings(code: Code) -> set[str]:
    """Meanings that pydicom's dictionaries give a code value, in lower case."""
    return {
        entry[code.value][0].lower()
        for entry in concepts[code.scheme_designator].values()
        if code.value in entry
    }


@pytest.mark.parametrize("code", codes.STANDARD_CODES, ids=lambda code: code.meaning)
def test_standard_code_is_in_the_dictionary_with_its_meaning(code: Code) -> None:
    found = meanings(code)
    assert any(meaning.startswith(code.meaning.lower()) for meaning in found), found


def test_every_code_of_the_module_is_listed_as_standard_private_or_unit() -> None:
    listed = {*codes.STANDARD_CODES, *codes.PRIVATE_CODES, codes.MILLILITRE}
    used = {value for value in vars(codes).values() if isinstance(value, Code)}
    used |= set(codes.CHANGE_CODES.values()) | set(codes.REGION_SITES.values())
    used |= {code for code in codes.REGION_MODIFIERS.values() if code is not None}
    assert used == listed


def test_private_codes_fit_the_value_representations_and_are_distinct() -> None:
    values = [code.value for code in codes.PRIVATE_CODES]
    assert len(set(values)) == len(values)
    for code in codes.PRIVATE_CODES:
        assert code.scheme_designator == codes.PRIVATE_SCHEME
        assert code.scheme_designator.startswith("99")
        CodedConcept.from_code(code)  # raises for a value or meaning that is too long
        assert len(code.value) <= 16
        assert len(code.meaning) <= 64


def test_every_change_and_region_has_a_code() -> None:
    assert set(codes.CHANGE_CODES) == set(get_args(Change))
    assert set(codes.REGION_SITES) == set(codes.REGION_MODIFIERS) == set(get_args(Region))
    assert len(set(codes.CHANGE_CODES.values())) == len(codes.CHANGE_CODES)
    places = {(codes.REGION_SITES[r], codes.REGION_MODIFIERS[r]) for r in get_args(Region)}
    assert len(places) == len(get_args(Region))

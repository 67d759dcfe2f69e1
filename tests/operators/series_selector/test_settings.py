from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from operators.series_selector.assessment import assess
from operators.series_selector.settings import Condition, Criterion, SeriesSelectorSettings
from tests.operators.series_selector.conftest import shipped_rules
from tests.operators.series_selector.studies import T2_2D, make_study

MINIMAL: dict[str, Any] = {
    "reference_role": "cord_t2",
    "required_roles": ["cord_t2"],
    "vocabulary": {"t2": {"any": ["t2w?"]}},
    "roles": {
        "cord_t2": {
            "physics": [{"name": "T2", "needs": {"echo_time_ms": [60, None]}}],
            "named_by": ["t2"],
        }
    },
}


def test_the_shipped_rules_are_valid() -> None:
    rules = SeriesSelectorSettings.model_validate(shipped_rules())
    assert rules.wanted_roles == ("flair", "t2", "t1")


def test_roles_are_free_names() -> None:
    assert SeriesSelectorSettings.model_validate(MINIMAL).wanted_roles == ("cord_t2",)


def test_another_body_site_is_another_set_of_rules() -> None:
    rules = SeriesSelectorSettings.model_validate(
        MINIMAL
        | {
            "usable": {"slice_count_min": 8, "coverage_min_mm": 20},
            "refuse": [
                {
                    "code": "head",
                    "reason": "it shows the head",
                    "when_any": [{"body_part": ["HEAD", "BRAIN"]}],
                }
            ],
        }
    )
    cord = replace(T2_2D, series_description="T2 TSE sag rygmarv", coverage_mm=50.0)
    brain = replace(T2_2D, body_part_examined="BRAIN", series_number=9)
    assessment = assess(make_study("1.2.3", cord, brain), rules)
    assert assessment.chosen["cord_t2"].series.attributes == cord
    assert assessment.rejected[0].reason == "head: it shows the head (body part BRAIN)"


def changed(path: str, value: Any) -> dict[str, Any]:
    rules = copy.deepcopy(MINIMAL)
    target: Any = rules
    *parents, last = path.split(".")
    for key in parents:
        target = target[int(key)] if key.isdigit() else target[key]
    target[last] = value
    return rules


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("vocabulary.t2.any", ["t2(w"], "not a regular expression"),
        ("vocabulary.t2.any", ["(t2)?"], "matches the empty text"),
        ("vocabulary.t2.any", [], "at least 1"),
        ("roles.cord_t2.named_by", ["flair"], "vocabulary 'flair', which is not defined"),
        ("roles.cord_t2.physics.0.needs", {"echo_time_ms": [90, 60]}, "above the upper limit"),
        ("roles.cord_t2.physics.0.needs", {"echo_time_ms": [None, None]}, "needs a lower or"),
        ("roles.cord_t2.physics.0.needs", {"echo_tyme_ms": [60, 90]}, "Extra inputs"),
        ("roles.cord_t2.physics.0.needs", {"image_type_any": ["[M"]}, "not a regular expression"),
        ("roles.cord_t2.physics.0.needs", {"words": ["pd"]}, "vocabulary 'pd'"),
        ("roles.cord_t2.physics.0.needs", {}, "states nothing"),
        ("required_roles", ["cord_t2", "t9"], "no rules for the role 't9'"),
        ("required_roles", [], "must be required"),
        ("required_roles", ["cord_t2", "cord_t2"], "names a role twice"),
        ("contrast", {"words": ["gd"]}, "vocabulary 'gd'"),
        (
            "refuse",
            [{"code": "x", "reason": "y", "when_any": [{"words": ["z"]}]}],
            "vocabulary 'z'",
        ),
    ],
)
def test_a_wrong_rule_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SeriesSelectorSettings.model_validate(changed(path, value))


def test_a_criterion_is_of_one_kind() -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        Criterion(name="both", smaller="voxel_mm3", larger="coverage_mm")
    assert Criterion(name="3D", when=Condition(acquisition="3D")).step == 1.0


def test_current_and_prior_cannot_be_forced_to_one_study() -> None:
    both = {"current_study_uid": "1.2", "prior_study_uid": "1.2"}
    with pytest.raises(ValidationError, match="same study"):
        SeriesSelectorSettings.model_validate(MINIMAL | both)

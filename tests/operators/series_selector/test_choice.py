from __future__ import annotations

from typing import Any

import pytest

from operators.messages import Series, SeriesAttributes, SeriesProblem
from operators.series_selector.assessment import assess
from operators.series_selector.settings import SeriesSelectorSettings
from tests.operators.series_selector.studies import (
    FLAIR_2D,
    FLAIR_3D,
    T1_3D,
    T2_2D,
    make_series,
    make_study,
)


def chosen_and_reasons(
    rules: SeriesSelectorSettings, *series: Series
) -> tuple[dict[str, int | None], dict[int | None, str]]:
    assessment = assess(make_study("1.2.3", series=series), rules)
    chosen = {
        role: taken.series.attributes.series_number for role, taken in assessment.chosen.items()
    }
    reasons = {item.series.attributes.series_number: item.reason for item in assessment.rejected}
    return chosen, reasons


def flair(base: SeriesAttributes = FLAIR_2D, **changes: Any) -> Series:
    return make_series(base, **changes)


MPR = ("DERIVED", "SECONDARY", "MPR", "NORM")


@pytest.mark.parametrize(
    ("better", "worse", "criterion"),
    [
        (flair(FLAIR_3D), flair(), "3D acquisition"),
        (flair(FLAIR_3D), flair(FLAIR_3D, series_number=20, image_type=MPR), "reformatted"),
        (flair(), flair(series_number=9, series_description="FLAIR +C"), "contrast agent"),
        (flair(), flair(series_number=9, spacing_mm=(0.7, 0.8, 5.5)), "thinner slices"),
        (flair(), flair(series_number=9, coverage_mm=110.0), "coverage"),
        (flair(), flair(series_number=9, image_type=("ORIGINAL", "PRIMARY", "M", "ND")), "distort"),
        (flair(series_number=9), flair(), "the later of two equal"),
        (
            flair(),
            flair(series_number=9, repetition_time_ms=None, inversion_time_ms=None),
            "attributes confirm",
        ),
    ],
)
def test_preference(
    rules: SeriesSelectorSettings, better: Series, worse: Series, criterion: str
) -> None:
    for series in ((better, worse), (worse, better)):
        chosen, reasons = chosen_and_reasons(rules, *series)
        assert chosen == {"flair": better.attributes.series_number}
        assert criterion in reasons[worse.attributes.series_number]
        assert reasons[worse.attributes.series_number].startswith("not_preferred: ")


def test_the_reason_of_the_winner_names_what_it_was_preferred_to(
    rules: SeriesSelectorSettings,
) -> None:
    assessment = assess(make_study("1.2.3", FLAIR_2D, FLAIR_3D), rules)
    assert assessment.chosen["flair"].reason.endswith("preferred to series 4: 3D acquisition")


def test_a_reformat_is_taken_when_it_is_the_only_one(rules: SeriesSelectorSettings) -> None:
    chosen, _ = chosen_and_reasons(rules, flair(FLAIR_3D, image_type=MPR))
    assert chosen == {"flair": 6}


def test_the_frame_of_reference_of_the_flair_is_preferred(rules: SeriesSelectorSettings) -> None:
    inside = make_series(T2_2D, frame="1.1")
    outside = make_series(T2_2D, frame="1.2", series_number=15)
    chosen, reasons = chosen_and_reasons(rules, make_series(FLAIR_2D, frame="1.1"), inside, outside)
    assert chosen["t2"] == 5
    assert "same frame of reference" in reasons[15]


def test_of_two_equal_t1_the_earlier_is_taken(rules: SeriesSelectorSettings) -> None:
    """The later one is often the one after contrast agent that nobody entered."""
    first, second = make_series(T1_3D), make_series(T1_3D, series_number=17)
    chosen, reasons = chosen_and_reasons(rules, second, first)
    assert chosen == {"t1": 7}
    assert "the earlier of two equal" in reasons[17]
    native = make_series(T1_3D, series_number=19, series_description="T1 MPRAGE nativ")
    chosen, reasons = chosen_and_reasons(rules, second, first, native)
    assert chosen == {"t1": 19}
    assert "without contrast agent" in reasons[7]


def test_dual_echo_gives_its_long_echo(rules: SeriesSelectorSettings) -> None:
    dual = {"series_description": "PD/T2 TSE tra", "series_uid": "1.2.3.5"}
    short = make_series(T2_2D, **dual, stack="echo 1", echo_time_ms=12.0)
    long = make_series(T2_2D, **dual, stack="echo 2", echo_time_ms=101.0)
    assessment = assess(make_study("1.2.3", series=(short, long)), rules)
    assert assessment.chosen["t2"].series is long
    assert [item.series for item in assessment.rejected] == [short]
    assert assessment.rejected[0].reason.startswith("proton_density: ")


def test_the_b0_images_of_a_diffusion_series_are_no_t2(rules: SeriesSelectorSettings) -> None:
    """Some scanners state neither EP nor an image type for diffusion."""
    bare = {"series_description": None, "image_type": ("ORIGINAL", "PRIMARY", "M_SE", "M", "SE")}
    weighted = make_series(T2_2D, **bare, series_uid="1.9", stack="b 1000", b_value=1000.0)
    unweighted = make_series(T2_2D, **bare, series_uid="1.9", stack="b 0", b_value=0.0)
    assessment = assess(make_study("1.2.3", series=(unweighted, weighted)), rules)
    assert assessment.chosen == {}
    assert all(item.reason.startswith("diffusion: ") for item in assessment.rejected)
    other = make_series(T2_2D, series_number=15, b_value=0.0)
    assessment = assess(make_study("1.2.3", series=(unweighted, weighted, other)), rules)
    assert assessment.chosen["t2"].series is other


def test_what_cannot_be_told_apart_is_ambiguous(rules: SeriesSelectorSettings) -> None:
    twins = [flair(stack=name, series_uid="1.2.3.4") for name in ("a", "b")]
    assessment = assess(make_study("1.2.3", series=tuple(twins)), rules)
    assert "flair" not in assessment.chosen
    assert "series 4 (a), series 4 (b) cannot be told apart" in assessment.ambiguous["flair"]
    assert {item.reason.split(":")[0] for item in assessment.rejected} == {"ambiguous"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"slice_count": 1}, "slice_count"),
        ({"coverage_mm": 60.0}, "coverage"),
        ({"coverage_mm": None}, "no_geometry"),
        ({"spacing_mm": None}, "no_geometry"),
        ({"spacing_mm": (2.5, 0.8, 3.0)}, "coarse"),
        ({"spacing_mm": (0.7, 0.8, 9.0)}, "coarse"),
        ({"temporal_positions": 3}, "temporal"),
        ({"problems": (SeriesProblem("missing_slice", "slice 7 is missing", True),)}, "missing"),
    ],
)
def test_a_series_of_a_role_that_cannot_be_used_says_why(
    rules: SeriesSelectorSettings, changes: dict[str, Any], code: str
) -> None:
    assessment = assess(make_study("1.2.3", series=(flair(**changes),)), rules)
    assert assessment.chosen == {}
    assert assessment.rejected[0].role == "flair"
    assert assessment.rejected[0].reason.startswith(code)


def test_a_problem_that_is_not_fatal_does_not_refuse(rules: SeriesSelectorSettings) -> None:
    chosen, _ = chosen_and_reasons(rules, flair(problems=(SeriesProblem("gap", "g", False),)))
    assert chosen == {"flair": 4}


def test_every_series_ends_up_chosen_or_rejected(rules: SeriesSelectorSettings) -> None:
    study = make_study(
        "1.2.3",
        FLAIR_2D,
        FLAIR_3D,
        T2_2D,
        T1_3D,
        SeriesAttributes("MR", series_number=1, series_description="localizer"),
        SeriesAttributes("SR", series_number=99, series_description="PhoenixZIPReport"),
    )
    assessment = assess(study, rules)
    assert set(assessment.chosen) == {"flair", "t2", "t1"}
    assert [item.series.attributes.series_number for item in assessment.rejected] == [1, 4, 99]
    assert all(item.reason for item in assessment.rejected)

"""Scores of a made-up answer whose right counts can be told by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model_tools.change.score import against_change_mask, planted_outcomes, unplanted_changes
from tests.model_tools.change.followups import answer, lesion

SHAPE = (30, 24, 10)


def _scene() -> tuple[Any, dict[int, Any], list[dict[str, Any]]]:
    """Planted: 1 found as new, 2 found as stable, 3 missed. Not planted: a false new lesion, a
    resolved one and a stable one."""
    labels, prior = np.zeros(SHAPE), np.zeros(SHAPE)
    labels[2:5, 2:5, 2:4] = 1
    labels[10:14, 4:8, 5:7] = 2
    labels[20:22, 20:22, 1:3] = 3
    labels[25:27, 2:4, 1:3] = 4
    prior[25:27, 2:4, 1:3] = 4
    prior[25:28, 15:18, 5:7] = 5
    lesions = [
        lesion(1, "new", 81.0, 0.0),
        lesion(2, "stable", 144.0, 140.0),
        lesion(3, "new", 36.0, 0.0),
        lesion(4, "stable", 36.0, 36.0),
        lesion(None, "resolved", 0.0, 81.0),
    ]
    shares = {
        1: ((slice(2, 5), slice(2, 5), slice(2, 5)), np.full((3, 3, 3), 0.8, np.float32)),
        2: ((slice(10, 14), slice(4, 8), slice(5, 7)), np.ones((4, 4, 2), np.float32)),
        3: ((slice(2, 4), slice(18, 20), slice(7, 9)), np.full((2, 2, 2), 0.6, np.float32)),
    }
    truth = [
        {"number": n, "kind": kind, "volume_mm3": v}
        for n, kind, v in ((1, "new", 97.2), (2, "enlarging", 144.0), (3, "new", 21.6))
    ]
    return answer(lesions, labels, prior), shares, truth


def test_each_planted_lesion_gets_the_call_of_the_outline_on_it() -> None:
    result, shares, truth = _scene()
    rows = planted_outcomes(result, truth, shares)
    assert [r["call"] for r in rows] == ["new", "stable", "missed"]
    assert [r["found"] for r in rows] == [True, True, False]
    assert rows[0]["covered"] == pytest.approx(2 / 3, abs=1e-3)
    assert rows[0]["found_mm3"] == 81.0 and rows[0]["found_prior_mm3"] == 0.0
    assert rows[1]["found_prior_mm3"] == 140.0
    assert rows[0]["probability"] == pytest.approx(0.9)
    assert rows[2]["probability"] == 0.0


def test_an_outline_on_less_than_a_tenth_has_not_found_the_lesion() -> None:
    result, shares, truth = _scene()
    box, _ = shares[1]
    faint = np.zeros((3, 3, 3), np.float32)
    faint[:, :, 2] = 1.0  # outside the outline, which ends before the third slice
    faint[0, 0, 0] = 0.9
    rows = planted_outcomes(result, truth[:1], {1: (box, faint)})
    assert rows[0]["call"] == "missed" and rows[0]["covered"] == pytest.approx(0.091, abs=1e-3)


def test_changes_where_nothing_was_planted_are_false_unless_they_are_real() -> None:
    result, shares, _ = _scene()
    assert [u["call"] for u in unplanted_changes(result, shares)] == ["new", "resolved"]
    real = np.zeros(SHAPE, bool)
    real[26, 16, 6] = True
    rows = unplanted_changes(result, shares, real)
    assert [(u["call"], u["real"]) for u in rows] == [("new", False), ("resolved", True)]
    everything = unplanted_changes(result, {})
    assert [u["call"] for u in everything] == ["new", "new", "resolved"]


def test_marks_and_changed_lesions_are_matched_both_ways() -> None:
    result, _, _ = _scene()
    marks = np.zeros(SHAPE, bool)
    marks[2:4, 2:4, 2:4] = True  # hit by lesion 1; 36 mm³
    marks[25:27, 16:18, 5:6] = True  # hit by the resolved one; 18 mm³
    marks[15:18, 20:22, 8:9] = True  # missed; 27 mm³
    marks[10:14, 4:8, 5:7] = True  # under a stable lesion: missed; 144 mm³
    found = against_change_mask(result, marks, 20.0)
    assert sorted((m["volume_mm3"], m["found"]) for m in found["marks"]) == [
        (27.0, False),
        (36.0, True),
        (144.0, False),
    ]
    assert [(x["call"], x["right"]) for x in found["changed_lesions"]] == [
        ("new", True),
        ("new", False),
        ("resolved", True),
    ]
    assert found["marked_ml"] == pytest.approx((36 + 18 + 27 + 144) / 1000)
    assert found["found_change_ml"] == pytest.approx((81 + 36 + 81) / 1000)

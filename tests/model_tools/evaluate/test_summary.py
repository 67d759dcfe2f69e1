"""Summary of made-up answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from model_tools.evaluate.limits import read_limits
from model_tools.evaluate.summary import finite, summarise_all, write_cases
from operators.errors import ConfigurationError


def answer(model: str, case: str, dice: float, ml: float, scanner: str) -> dict[str, Any]:
    values = {
        "dice": dice,
        "f1": dice - 0.1,
        "precision": 0.9,
        "recall": 0.5,
        "reference_ml": ml,
        "outlined_ml": ml * 1.1,
        "count_3-30": 4.0,
        "recall_3-30": 0.25,
        "count_500-": 1.0,
        "recall_500-": 1.0,
    }
    return {
        "case": case,
        "model": model,
        "sha256": f"hash of {model}",
        "scanner": scanner,
        "field_strength": "3",
        "group": "",
        "failure": "",
        "seen": False,
        "remark": "",
        "shown": {"lesions": 5.0, "ml": ml * 1.1},
        "scores": values,
        "curve": {
            "0.4": {"dice": dice - 0.02, "precision": 0.8, "recall": 0.6, "f1": dice},
            "0.6": {"dice": dice, "precision": 0.9, "recall": 0.5, "f1": dice - 0.1},
        },
    }


def answers() -> list[dict[str, Any]]:
    loads, scanners = (1.0, 8.0, 20.0, 30.0), ("A", "A", "B", "B")
    found = [
        answer(model, f"c{n}", 0.5 + 0.1 * n + shift * (n + 1), ml, scanner)
        for model, shift in (("a", 0.0), ("b", 0.01))
        for n, (ml, scanner) in enumerate(zip(loads, scanners, strict=True))
    ]
    failed = {**answer("b", "c9", 0, 1, "A"), "scores": {}, "shown": {}, "failure": "no T1"}
    return [*found, failed]


def test_tables_by_load_scanner_and_size() -> None:
    found = summarise_all(answers(), ["a", "b"], training_sizes={"b": 30})
    a, b = found["models"]["a"], found["models"]["b"]
    assert a["metrics"]["dice"]["mean"] == pytest.approx(0.65)
    assert {k: v["dice"]["cases"] for k, v in a["by_load"].items()} == {
        "15 ml and more": 2,
        "5-15 ml": 1,
        "under 5 ml": 1,
    }
    assert a["by_scanner"]["B"]["dice"]["mean"] == pytest.approx(0.75)
    assert a["by_size"]["3-30 mm3"]["lesions"] == 16
    assert a["by_size"]["3-30 mm3"]["recall"] == pytest.approx(0.25)
    assert a["by_size"]["3-30 mm3"]["recall_high"] == pytest.approx(0.25)
    assert a["lowest"] == {"dice": 0.5, "f1": 0.4}
    assert a["volumes"]["correlation"] == pytest.approx(1)
    assert a["volumes"]["bias"] == pytest.approx(0.1 * 59 / 4)
    assert (b["cases"], b["failures"], b["training_cases"]) == (4, {"c9": "no T1"}, 30)


def test_thresholds_are_means_over_the_cases() -> None:
    found = summarise_all(
        [*answers(), {**answers()[0], "model": "rule", "curve": {}}], ["a", "rule"]
    )
    curve = found["models"]["a"]["by_threshold"]
    assert list(curve) == ["0.4", "0.6"]
    assert curve["0.4"]["dice"] == pytest.approx(0.63)
    assert curve["0.6"]["f1"] == pytest.approx(0.55)
    assert found["models"]["rule"]["by_threshold"] == {}


def test_models_are_compared_case_by_case_and_by_left_out_scanner() -> None:
    found = summarise_all(answers(), ["a", "b"], left_out={"B": "b"})
    dice = next(one for one in found["comparisons"] if one["metric"] == "dice")
    assert (dice["first"], dice["second"], dice["cases"]) == ("a", "b", 4)
    assert dice["difference"] == pytest.approx(0.025)
    assert 0 < dice["p"] < 0.1
    one = next(one for one in found["left_out"] if one["metric"] == "dice")
    assert (one["scanner"], one["cases"]) == ("B", 2)
    assert one["difference"] == pytest.approx(0.035)


def test_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("dice: {min: 0.6}\nf1: {min: 0.56}\nvolume_correlation: {min: 0.9}\n")
    found = summarise_all(answers(), ["a"], read_limits(path))["models"]["a"]
    assert [one["passed"] for one in found["limits"]] == [True, False, True]
    assert found["passed"] is False
    path.write_text("dice: {min: 0.6}")
    assert summarise_all(answers(), ["a"], read_limits(path))["models"]["a"]["passed"] is True
    nothing = summarise_all([], ["a"], read_limits(path))["models"]["a"]
    assert nothing["passed"] is False, "no case is no pass"


def test_limits_on_parts_and_on_single_cases(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(
        "lowest_dice: {min: 0.5}\nnot_processed: {max: 0}\n"
        "by_load: {under 5 ml: {dice: {min: 0.5}}}\n"
        "by_scanner: {B: {f1: {min: 0.6, max: 0.7}}, C: {dice: {min: 0}}}\n"
        "by_size: {3-30 mm3: {recall: {min: 0.3}}, 500- mm3: {recall: {min: 0.9}}}\n"
        "by_region: {infratentorial: {precision: {min: 0}}}\n"
    )
    limits = read_limits(path)
    found = summarise_all(answers(), ["a", "b", "second_rater"], limits)["models"]
    a, b = found["a"]["limits"], found["b"]["limits"]
    assert [one["value"] for one in a[:6]] == pytest.approx(
        [0.5, 0, 0.5, 0.65, float("nan"), 0.25], nan_ok=True
    )
    # nobody was scanned on C, and nothing lies there: a limit without a value is not kept
    assert [one["passed"] for one in a] == [True, True, True, True, False, False, True, False]
    assert [one["passed"] for one in b[:2]] == [True, False], "one case was not processed"
    assert (found["second_rater"]["limits"], found["second_rater"]["passed"]) == ([], False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("by_load: {under 6 ml: {dice: {min: 1}}}", "by_load has no under 6 ml"),
        ("by_size: {3-30 mm3: {dice: {min: 1}}}", "dice is no metric of by_size"),
        ("by_region: {cortex: {recall: {min: 1}}}", "by_region has no cortex"),
        ("by_scanner: {A: 3}", "no table of limits"),
        ("by_scanner: 3", "no table of limits"),
        ("dice: {min: .nan}", "a bound that is no number"),
    ],
)
def test_faulty_limits_on_parts(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=why):
        read_limits(path)


@pytest.mark.parametrize(
    "text", ["dyce: {min: 1}", "dice: 1", "dice: {least: 1}", "- dice", "a: ["]
)
def test_faulty_limits(tmp_path: Path, text: str) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="no table of limits"):
        read_limits(path)


def test_files(tmp_path: Path) -> None:
    write_cases(answers(), tmp_path / "cases.csv")
    with (tmp_path / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 9
    assert (rows[0]["case"], float(rows[0]["dice"]), rows[-1]["failure"]) == ("c0", 0.5, "no T1")
    summary = json.dumps(finite(summarise_all(answers(), ["a", "b"])), allow_nan=False)
    assert json.loads(summary)["models"]["a"]["metrics"]["surface_mm"]["mean"] is None

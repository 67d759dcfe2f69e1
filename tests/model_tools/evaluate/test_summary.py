"""Summary of made-up answers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from model_tools.evaluate.summary import finite, read_limits, summarise_all, write_cases
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
    assert a["by_size"]["3-30 mm3"] == {"lesions": 16, "recall": pytest.approx(0.25)}
    assert a["volumes"]["correlation"] == pytest.approx(1)
    assert a["volumes"]["bias"] == pytest.approx(0.1 * 59 / 4)
    assert (b["cases"], b["failures"], b["training_cases"]) == (4, {"c9": "no T1"}, 30)


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

"""Counts, proportions and tables from made-up scores; the page shows what change.json holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_tools.change.run import networks_hash
from model_tools.change.summary import noise_floor, read_scores, share, spread, summarise
from model_tools.change.tables import BEGIN, END, percent, place, rendered
from operators.dicom_writer.noise_floor import NoiseFloor

ROOT = Path(__file__).resolve().parents[3]
MODEL = {"name": "m", "version": "1", "sha256": "abcdef0123"}


def _trial(kind: str, scan: str, **more: Any) -> dict[str, Any]:
    return {
        "trial": f"{kind}-{scan}",
        "kind": kind,
        "scan": scan,
        "comparator": "c0ffee",
        "model": MODEL,
        "counts": {"stable": 10},
        "lesion_ml": 5.1,
        "prior_lesion_ml": 5.0,
        "compare_cpu_s": 4.0,
        "unplanted": [],
        **more,
    }


def _planted(kind: str, diameter: float, call: str, **more: Any) -> dict[str, Any]:
    volume = 0.5236 * diameter**3
    return {
        "kind": kind,
        "diameter_mm": diameter,
        "volume_mm3": volume,
        "prior_volume_mm3": 0.0 if kind == "new" else volume / 2,
        "contrast": 0.45,
        "found": call != "missed",
        "call": call,
        "found_mm3": None if call == "missed" else volume * 0.9,
        "found_prior_mm3": None if call == "missed" else volume * 0.4,
        "interval_mm3": None if call == "missed" else [volume * 0.7, volume * 1.3],
        **more,
    }


def _scores() -> list[dict[str, Any]]:
    error = {"mean": 0.1, "max": 0.3}
    marked = {
        "marks": [{"volume_mm3": 100.0, "found": True}, {"volume_mm3": 12.0, "found": False}],
        "changed_lesions": [{"call": "new", "right": True}, {"call": "resolved", "right": False}],
        "marked_ml": 0.112,
        "found_change_ml": 0.2,
    }
    return [
        _trial("retest", "12_2", counts={"stable": 9, "new": 2}, registration_error_mm=error),
        _trial("retest", "04_1", registration_error_mm=error, lesion_ml=4.9),
        _trial(
            "transplant",
            "04_1",
            planted=[
                _planted("new", 3.0, "missed"),
                _planted("new", 5.0, "new"),
                _planted("new", 8.5, "stable"),
                _planted("enlarging", 8.0, "enlarging"),
                _planted("stable", 6.0, "stable"),
            ],
            unplanted=[{"call": "new"}, {"call": "shrinking"}],
        ),
        _trial(
            "realtransplant",
            "12_2",
            planted=[_planted("new", 6.0, "new")],
            unplanted=[{"call": "new", "real": True}, {"call": "new", "real": False}],
        ),
        _trial("real", "12_2", marked=marked),
    ]


def test_the_summary_counts_what_was_planted_and_what_was_not() -> None:
    found = summarise(_scores())
    planted = found["transplant"]
    assert planted["new_from_5_mm"]["called"]["hits"] == 1
    assert planted["new_from_5_mm"]["called"]["among"] == 2
    assert planted["new_from_5_mm"]["outlined"]["hits"] == 2
    assert planted["false_new"]["mean"] == 1.0
    assert planted["other_unplanted"] == {"shrinking": 1}
    assert planted["enlarging"]["called"]["share"] == 1.0
    # growth found 0.5 V of 0.5 V
    assert planted["growth_error_percent_of_growth"]["mean"] == pytest.approx(0.0, abs=1e-6)
    assert planted["new_volume_error_percent"]["mean"] == pytest.approx(-10.0, abs=0.01)
    assert planted["new_volume_in_interval"]["share"] == 1.0
    assert found["real_transplant"]["false_new"]["mean"] == 1.0
    assert found["real"]["12_2"]["sensitivity_from_65_mm3"]["share"] == 1.0
    assert found["real"]["12_2"]["precision"]["share"] == 0.5


def test_the_noise_floor_is_what_the_report_reads() -> None:
    floor = noise_floor(summarise(_scores()))
    assert floor == {
        "trials": 2,
        "false_new_mean": 1.0,
        "false_new_max": 2,
        "load_change_sd_percent": pytest.approx(2.8),
    }
    assert NoiseFloor.model_validate_json(json.dumps(floor)).false_new_max == 2


@pytest.mark.parametrize("part", ["comparator", "networks"])
def test_scores_of_two_comparators_or_networks_are_not_mixed(tmp_path: Path, part: str) -> None:
    (tmp_path / "scores").mkdir()
    for number, version in enumerate(("a", "b")):
        trial = {**_scores()[1], part: version}
        (tmp_path / "scores" / f"{number}.json").write_text(json.dumps(trial))
    with pytest.raises(ValueError, match=f"several {part}"):
        summarise(read_scores(tmp_path))


def test_a_new_network_or_threshold_is_another_one_and_a_new_card_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "brain"
    folder.mkdir()

    def described(card: str, network: str, threshold: float, version: str) -> str:
        files = {"MODEL_CARD.md": card, "ensemble.onnx": network}
        content = {"files": files, "threshold": threshold, "version": version}
        (folder / "model.json").write_text(json.dumps(content))
        return networks_hash(tmp_path)

    first = described("a", "b", 0.5, "1")
    assert described("c", "b", 0.5, "2") == first
    assert len({first, described("a", "d", 0.5, "1"), described("a", "b", 0.4, "1")}) == 3


def test_proportions_and_spreads() -> None:
    assert share(0, 0)["share"] is None and percent(share(0, 0)) == "–"
    assert percent(share(9, 10)) == "9 of 10, 90 % (60–98)"
    assert spread([])["n"] == 0
    assert spread([1.0, 3.0])["sd"] == pytest.approx(1.414)


def test_tables_go_between_the_marks_only() -> None:
    page = f"# Title\n\n{BEGIN}\nstale row\n{END}\n\n## Regions\n"
    made = place(page, rendered(summarise(_scores())))
    assert made.startswith("# Title") and made.endswith("## Regions\n") and "stale row" not in made
    assert "| 4.5–5.5 | 1 of 1" in made
    assert place(made, "x") == place(page, "x")
    with pytest.raises(ValueError, match="marks"):
        place("no marks", "x")


def test_the_page_and_the_noise_floor_are_those_of_the_committed_numbers() -> None:
    """Whoever runs the trials again must write all three."""
    summary = json.loads((ROOT / "docs/evaluation/change.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/evaluation.md").read_text(encoding="utf-8")
    assert place(page, rendered(summary)) == page
    floor = (ROOT / "operators/dicom_writer/noise_floor.json").read_text(encoding="utf-8")
    assert json.loads(floor) == noise_floor(summary)

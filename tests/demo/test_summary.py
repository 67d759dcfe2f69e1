"""The summary and the demonstration's command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from demo import __main__ as demonstration
from demo.summary import find_objects, main, read_results, summarise
from operators.dicom_writer.results import check_results
from operators.errors import InputError
from operators.version import NAME, STATEMENT
from tests.conftest import ROOT


def lesion(number: int | None, now: float, before: float | None, change: str) -> dict[str, Any]:
    return {
        "tracking_uid": "1.2.3",
        "tracking_id": "lesion",
        "segment_number": number,
        "volume_ml": now,
        "prior_volume_ml": before,
        "diameter_mm": 12.3,
        "centroid_lps_mm": [-105.4, 32.25, -48.0],
        "region": "deep_white_matter",
        "change": change,
        "confidence": 0.9,
        "found_by": "network",
        "change_confidence": None if before is None else 0.95,
        "volume_interval_ml": [0.9 * now, 1.1 * now],
        "prior_volume_interval_ml": None if before is None else [0.9 * before, 1.1 * before],
        "change_since_first": None,
        "lineage": [],
        "volumes_ml": [now] if before is None else [before, now],
        "distance_to_ventricle_mm": 4.0,
        "distance_to_cortex_mm": None,
    }


def results(follow_up: bool = True) -> dict[str, Any]:
    def study(uid: str, days: int) -> dict[str, Any]:
        reason = "inversion recovery with a long echo time " + "and many words " * 8
        return {
            "study_uid": uid,
            "series": {
                "flair": {"series_uid": f"{uid}.1", "reason": reason.strip()},
                "t2": {"series_uid": f"{uid}.2", "reason": "spin echo"},
            },
            "spacing_mm": [0.94, 0.86, 3.0],
            "interval_days": days,
        }

    lesions = [lesion(1, 0.9, None, "baseline")]
    if follow_up:
        lesions = [
            lesion(1, 0.9, 0.6, "enlarging"),
            lesion(2, 0.25, 0.0, "new"),
            lesion(None, 0.0, 0.4, "resolved"),
        ]
    content = {
        "schema_version": "1.1",
        "software": {"name": NAME, "version": "0.1.0"},
        "model": {
            "name": "brain_ms",
            "version": "1",
            "sha256": "a" * 64,
            "engine": "openvino",
            "precision": "fp32",
        },
        "current": study("1.2", 0),
        "prior": study("1.3", 399) if follow_up else None,
        "registration": {},
        "lesions": lesions,
        "totals": {
            "lesion_count": 2 if follow_up else 1,
            "lesion_volume_ml": 1.15 if follow_up else 0.9,
            "prior_lesion_volume_ml": 1.0 if follow_up else None,
            "new_count": 1 if follow_up else 0,
            "enlarging_count": 1 if follow_up else 0,
            "shrinking_count": 0,
            "resolved_count": 1 if follow_up else 0,
            "lesion_volume_interval_ml": [1.0, 1.3] if follow_up else [0.8, 1.0],
            "prior_lesion_volume_interval_ml": [0.9, 1.1] if follow_up else None,
        },
        "earlier": [],
        "time_points": [
            {
                "study_uid": uid,
                "interval_days": days,
                "lesion_count": 2,
                "lesion_volume_ml": 1.0,
                "lesion_volume_interval_ml": [0.9, 1.1],
            }
            for uid, days in ([("1.3", 399), ("1.2", 0)] if follow_up else [("1.2", 0)])
        ],
        "dissemination": {
            "in_space": {
                "periventricular": 0,
                "juxtacortical": 0,
                "infratentorial": 0,
                "spinal_cord": None,
                "optic_nerve": None,
            },
            "in_time": [],
        },
        "quality": [{"code": "no_t1", "severity": "warning", "message": "There is no T1."}],
        "timing_s": {"dicom_loader": 0.5},
    }
    check_results(content)
    return content


def test_a_follow_up_is_told_in_100_columns(tmp_path: Path) -> None:
    text = summarise(results(), Path("out"), {"SEG": [Path("out/dicom/segmentation.dcm")]})
    assert max(map(len, text.splitlines())) <= 100
    for expected in (
        "399 days earlier",
        "0.94 × 0.86 × 3.00 mm",
        "T1    none",
        "now         1.15 ml in 2 lesions",
        "before      1.00 ml",
        "+0.15 ml (+15 %)",
        "1 new, 1 enlarging, 0 shrinking, 1 resolved",
        "There is no T1. [no_t1]",
        "out/dicom/segmentation.dcm",
        STATEMENT,
    ):
        assert expected in text, expected
    rows = {line.split()[0]: line for line in text.splitlines() if "deep white matter" in line}
    assert rows["1"].split()[4:8] == ["0.900", "0.600", "+50", "%"]
    assert rows["1"].endswith("enlarging")
    assert rows["2"].endswith("new")
    assert rows["–"].endswith("resolved")
    assert "-105.4,   32.2,  -48.0" in rows["1"]


def test_a_baseline_has_no_columns_of_change() -> None:
    text = summarise(results(follow_up=False), Path("out"), {})
    assert "none, this is a baseline" in text
    assert "before" not in text
    assert "0.90 ml in 1 lesion\n" in text
    assert "missing" in text


def test_no_lesion_and_no_note() -> None:
    content = results()
    content["lesions"], content["quality"] = [], []
    content["totals"] |= {"lesion_count": 0, "lesion_volume_ml": 0.0, "prior_lesion_volume_ml": 0.0}
    text = summarise(content, Path("out"), {})
    assert "Lesions\n  none found" in text
    assert "Quality notes\n  none" in text
    assert "0.00 ml in 0 lesions" in text
    assert "%" not in text


def test_objects_are_found_by_their_modality(tmp_path: Path, shared_data: Path) -> None:
    source = next((shared_data / "dicom" / "highdicom").rglob("*.dcm"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.dcm").write_bytes(source.read_bytes())
    (tmp_path / "note.txt").write_text("not DICOM")
    found = find_objects(tmp_path)
    assert [p for paths in found.values() for p in paths] == [tmp_path / "a" / "x.dcm"]
    assert set(found) <= {"SEG", "SR"}


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "Run the application first" in capsys.readouterr().err
    (tmp_path / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    assert "Lesion load" in capsys.readouterr().out
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"no readable results\.json"):
        read_results(tmp_path)


def test_the_applications_exit_code_and_message_are_passed_on(tmp_path: Path) -> None:
    arguments = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Lesion load" not in done.stdout


def test_the_demonstration_shows_what_the_application_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, Path, Path | None]] = []

    def pretend(source: Path, out: Path, models: Path | None) -> int:
        calls.append((source, out, models))
        (out / "dicom").mkdir(parents=True)
        (out / "results.json").write_text(json.dumps(results()), encoding="utf-8")
        return 0

    monkeypatch.setattr(demonstration, "run_application", pretend)
    out = tmp_path / "out"
    arguments = ["--data", str(tmp_path), "--out", str(out), "--models", "m"]
    assert demonstration.main(arguments) == 0
    assert calls == [(tmp_path, out, Path("m"))]
    assert "1 new, 1 enlarging" in capsys.readouterr().out


def test_real_without_data_fails_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPEN_MS_DIR", str(tmp_path))
    assert demonstration.main(["--real", "--out", "out"]) == 2
    assert "Set OPEN_MS_DIR" in capsys.readouterr().err


def test_a_real_patient_becomes_the_applications_input(
    open_ms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPEN_MS_DIR", str(open_ms))
    sources: list[Path] = []

    def pretend(source: Path, out: Path, models: Path | None) -> int:
        sources.append(source)
        return 7

    monkeypatch.setattr(demonstration, "run_application", pretend)
    assert demonstration.main(["--real", "--patient", "4"]) == 7
    assert len(list((tmp_path / sources[0]).rglob("*.dcm"))) == 140

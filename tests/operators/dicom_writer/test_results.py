"""results.json: what it holds, what the schema refuses, and that it repeats itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operators.dicom_writer.results import (
    build_results,
    check_results,
    results_schema,
    write_results,
)
from operators.errors import OutputError
from operators.messages import FollowUp, Registration
from tests.operators.followup_example import (
    CURRENT_DATE,
    EARLIER_DATES,
    PRIOR_DATE,
    PRIOR_MOTION,
    make_follow_up,
)

TIMING = {"dicom_loader": 0.4, "registration": 31.2}


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("follow_up"))


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("baseline"), prior=False)


def _with_registrations(follow_up: FollowUp, **changes: Any) -> FollowUp:
    aligned = replace(follow_up.probabilities.aligned, **changes)
    return replace(follow_up, probabilities=replace(follow_up.probabilities, aligned=aligned))


def test_the_contract_is_kept_field_by_field(follow_up: FollowUp, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, build_results(follow_up, TIMING))
    results = json.loads(path.read_text(encoding="utf-8"))

    assert results["schema_version"] == "1.1"
    assert set(results) == {
        "schema_version", "software", "model", "current", "prior", "earlier", "registration",
        "lesions", "totals", "time_points", "dissemination", "quality", "timing_s",
    }  # fmt: skip
    assert results["software"] == {"name": "MS Lesion Follow-up", "version": "0.1.0"}
    assert set(results["model"]) == {"name", "version", "sha256", "engine", "precision"}
    selected = follow_up.probabilities.aligned.selected
    assert results["current"]["study_uid"] == selected.current.study.study_uid
    assert results["current"]["interval_days"] == 0
    assert results["prior"]["interval_days"] == (CURRENT_DATE - PRIOR_DATE).days
    assert results["current"]["spacing_mm"] == [2.1, 1.8, 4.4]
    assert results["prior"]["spacing_mm"] == [2.4, 1.6, 4.0]
    assert set(results["current"]["series"]) == {"flair", "t2", "t1"}
    assert results["current"]["series"]["flair"] == {
        "series_uid": selected.current.series["flair"].series.series_uid,
        "reason": "long TR, TE and TI",
    }
    assert set(results["registration"]) == {
        "t1_to_flair", "t2_to_flair", "prior_flair_to_flair", "prior_t1_to_flair",
        "prior_t2_to_flair",
    }  # fmt: skip
    assert len(results["lesions"]) == len(follow_up.lesions)
    for found, lesion in zip(results["lesions"], follow_up.lesions, strict=True):
        assert found["tracking_uid"] == lesion.tracking_uid
        assert found["segment_number"] == lesion.segment_number
        assert found["volume_ml"] == pytest.approx(lesion.volume_ml, abs=1e-4)
        assert found["prior_volume_ml"] == pytest.approx(lesion.prior_volume_ml, abs=1e-4)
        assert found["centroid_lps_mm"] == pytest.approx(lesion.centroid_lps_mm, abs=1e-3)
        assert found["change"] == lesion.change
        assert found["region"] == lesion.region
    resolved = [lesion for lesion in results["lesions"] if lesion["change"] == "resolved"]
    assert len(resolved) == 1
    assert resolved[0]["segment_number"] is None
    assert resolved[0]["volume_ml"] == 0
    assert resolved[0]["prior_volume_ml"] > 0
    assert results["totals"]["new_count"] == 2
    assert [note["code"] for note in results["quality"]] == ["spacing", "protocol_changed"]
    assert results["timing_s"] == TIMING


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("several"), earlier=2)


def test_several_earlier_studies_are_told_apart(several: FollowUp, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, build_results(several, TIMING))
    results = json.loads(path.read_text(encoding="utf-8"))
    aligned = several.probabilities.aligned
    assert [study["interval_days"] for study in results["earlier"]] == [
        (CURRENT_DATE - day).days for day in EARLIER_DATES
    ]
    for found, study in zip(results["earlier"], aligned.earlier, strict=True):
        assert found["study_uid"] == study.aligned.selected.study.study_uid
        assert set(found["series"]) == {"flair", "t2", "t1"}
        assert np.asarray(found["flair_to_current_flair"]["matrix_lps"]) == pytest.approx(
            study.to_current.matrix_lps, abs=1e-7
        )
    points = results["time_points"]
    assert [point["interval_days"] for point in points] == [
        *[(CURRENT_DATE - day).days for day in reversed(EARLIER_DATES)],
        (CURRENT_DATE - PRIOR_DATE).days,
        0,
    ]
    for position, point in enumerate(points):
        total = sum(lesion["volumes_ml"][position] for lesion in results["lesions"])
        assert point["lesion_volume_ml"] == pytest.approx(total, abs=1e-3)
    assert results["prior"]["study_uid"] == points[-2]["study_uid"]
    assert results["current"]["study_uid"] == points[-1]["study_uid"]


def test_the_study_compared_with_need_not_be_the_latest(several: FollowUp) -> None:
    """The latest earlier study could not be registered: change is against the one before."""
    aligned = several.probabilities.aligned
    older = aligned.earlier[0]
    refused = replace(aligned.earlier[1], aligned=aligned.prior)
    changed = _with_registrations(
        several,
        prior=older.aligned,
        earlier=(replace(refused, to_current=replace(older.to_current, accepted=False)),),
    )
    results = build_results(changed, TIMING)
    check_results(results)
    assert results["prior"]["study_uid"] == older.aligned.selected.study.study_uid
    assert results["earlier"][0]["flair_to_current_flair"]["accepted"] is False


def test_intervals_confidence_lineage_and_distances_come_through(follow_up: FollowUp) -> None:
    results = build_results(follow_up, TIMING)
    check_results(results)
    uids = {lesion.tracking_uid for lesion in follow_up.lesions}
    for found, lesion in zip(results["lesions"], follow_up.lesions, strict=True):
        assert found["volume_interval_ml"] == pytest.approx(lesion.volume_interval_ml, abs=1e-4)
        assert found["prior_volume_interval_ml"] == pytest.approx(
            lesion.prior_volume_interval_ml, abs=1e-4
        )
        assert found["change_confidence"] == pytest.approx(lesion.change_confidence)
        assert found["change_since_first"] is None
        assert tuple(found["lineage"]) == lesion.lineage
        assert set(found["lineage"]) <= uids
        assert found["distance_to_ventricle_mm"] == lesion.distance_to_ventricle_mm
        assert found["distance_to_cortex_mm"] == lesion.distance_to_cortex_mm
    totals = results["totals"]
    low, high = totals["lesion_volume_interval_ml"]
    assert low < totals["lesion_volume_ml"] < high


def test_dissemination_counts_present_lesions_by_place(
    follow_up: FollowUp, baseline: FollowUp
) -> None:
    found = build_results(follow_up, TIMING)["dissemination"]
    assert found["in_space"] == {
        "periventricular": 2,
        "juxtacortical": 1,  # the second one has resolved
        "infratentorial": 1,
        "spinal_cord": None,
        "optic_nerve": None,
    }
    (new,) = found["in_time"]
    assert new["new_count"] == 2
    assert new["interval_days"] == (CURRENT_DATE - PRIOR_DATE).days
    assert build_results(baseline, TIMING)["dissemination"]["in_time"] == []


def test_every_field_of_the_schema_is_described() -> None:
    schema = results_schema()
    undescribed: list[str] = []

    def visit(node: dict[str, Any], path: str) -> None:
        for name, field in node.get("properties", {}).items():
            if "$ref" not in field and "description" not in field:
                undescribed.append(f"{path}/{name}")
            visit(field, f"{path}/{name}")
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False, path
        if isinstance(node.get("items"), dict):
            visit(node["items"], f"{path}[]")

    visit(schema, "")
    for name, definition in schema["$defs"].items():
        visit(definition, name)
    assert not undescribed


def test_no_patient_identity_or_date_is_in_the_file(follow_up: FollowUp, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results(path, build_results(follow_up, TIMING))
    text = path.read_text(encoding="utf-8")
    header = follow_up.probabilities.aligned.selected.current.series["flair"].headers[0]
    assert str(header.PatientName) == "Sørensen^Åse"
    secrets = ("Sørensen", "Åse", CURRENT_DATE.isoformat(), PRIOR_DATE.isoformat())
    keywords = ("PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber")
    for secret in (*secrets, *(header[keyword].value for keyword in keywords)):
        assert str(secret) not in text


def test_two_runs_give_the_same_bytes_apart_from_timing(
    follow_up: FollowUp, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    again = make_follow_up(tmp_path_factory.mktemp("again"))
    # the last bits of floating-point sums differ between machines and thread counts
    jittered = replace(
        again,
        lesions=tuple(
            replace(
                lesion,
                volume_ml=lesion.volume_ml * (1 + 1e-12),
                centroid_lps_mm=tuple(x * (1 - 1e-13) for x in lesion.centroid_lps_mm),
            )
            for lesion in again.lesions
        ),
    )
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    write_results(first, {**build_results(follow_up, {"a": 1.0}), "timing_s": {}})
    write_results(second, {**build_results(jittered, {"a": 2.0}), "timing_s": {}})
    assert first.read_bytes() == second.read_bytes()


def test_a_baseline_has_null_for_everything_that_needs_a_prior(baseline: FollowUp) -> None:
    results = build_results(baseline, TIMING)
    check_results(results)
    assert results["prior"] is None
    assert set(results["registration"]) == {"t1_to_flair", "t2_to_flair"}
    assert results["totals"]["prior_lesion_volume_ml"] is None
    assert {lesion["change"] for lesion in results["lesions"]} == {"baseline"}
    assert {lesion["prior_volume_ml"] for lesion in results["lesions"]} == {None}


def test_no_lesion_gives_an_empty_list(tmp_path: Path) -> None:
    results = build_results(make_follow_up(tmp_path, empty=True), TIMING)
    check_results(results)
    assert results["lesions"] == []
    assert results["totals"]["lesion_count"] == 0


def test_a_refused_registration_is_reported_as_refused(follow_up: FollowUp) -> None:
    registration = follow_up.probabilities.aligned.prior_to_current
    assert registration is not None
    refused = _with_registrations(follow_up, prior_to_current=replace(registration, accepted=False))
    results = build_results(refused, TIMING)
    check_results(results)
    assert results["registration"]["prior_flair_to_flair"]["accepted"] is False
    assert results["registration"]["prior_t1_to_flair"]["accepted"] is False
    assert results["registration"]["t1_to_flair"]["accepted"] is True


def test_matrices_of_prior_images_map_current_flair_points(follow_up: FollowUp) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    turn[:3, 3] = (10.0, 20.0, 30.0)
    prior = follow_up.probabilities.aligned.prior
    assert prior is not None
    to_flair = {"t1": Registration(turn, 37.4, 90.0, 1.3, True)}
    changed = _with_registrations(follow_up, prior=replace(prior, to_flair=to_flair))
    results = build_results(changed, TIMING)
    check_results(results)

    assert "prior_t2_to_flair" not in results["registration"]
    point = np.array([12.0, -34.0, 56.0, 1.0])
    in_prior_flair = PRIOR_MOTION @ point
    expected = turn @ in_prior_flair
    found = np.array(results["registration"]["prior_t1_to_flair"]["matrix_lps"]) @ point
    assert found == pytest.approx(expected, abs=1e-4)
    flair = np.array(results["registration"]["prior_flair_to_flair"]["matrix_lps"]) @ point
    assert flair == pytest.approx(in_prior_flair, abs=1e-4)
    centre = np.append(np.argwhere(
        follow_up.probabilities.aligned.current.brain_mask.array
    ).mean(axis=0), 1.0)  # fmt: skip
    centre = follow_up.probabilities.aligned.current.brain_mask.affine @ centre
    moved = turn @ PRIOR_MOTION @ centre
    assert results["registration"]["prior_t1_to_flair"]["translation_mm"] == pytest.approx(
        float(np.linalg.norm(moved[:3] - centre[:3])), abs=1e-2
    )
    angle = results["registration"]["prior_t1_to_flair"]["rotation_deg"]
    rotation = (turn @ PRIOR_MOTION)[:3, :3]
    axis_angle = np.degrees(np.arccos((np.trace(rotation) - 1) / 2))
    assert angle == pytest.approx(float(axis_angle), abs=1e-2)


def test_a_number_that_is_not_finite_is_refused(follow_up: FollowUp) -> None:
    lesions = (replace(follow_up.lesions[0], volume_ml=float("nan")), *follow_up.lesions[1:])
    with pytest.raises(ValueError, match="nan"):
        build_results(replace(follow_up, lesions=lesions), TIMING)


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split("/")]
        node: Any = results
        for key in parents:
            node = node[key]
        node[last] = value

    return change


def _remove(path: str) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        node: Any = results
        for key in parents:
            node = node[int(key) if key.isdigit() else key]
        del node[last]

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("schema_version", "2.0"),
        _set("patient_name", "Sørensen"),
        _set("current/study_date", "20240612"),
        _set("current/spacing_mm", [1.0, 1.0]),
        _set("current/spacing_mm", [1.0, 1.0, 0.0]),
        _set("current/study_uid", "study 1"),
        _set("current/interval_days", 1.5),
        _remove("current/series/flair"),
        _set("prior", {}),
        _set("registration/t1_to_flair/matrix_lps", [1.0] * 16),
        _set("registration/t1_to_flair/matrix_lps/3", [0.0, 0.0, 1.0]),
        _set("registration/flair_to_moon", None),
        _set("lesions/0/change", "bigger"),
        _set("lesions/0/region", "elsewhere"),
        _set("lesions/0/segment_number", None),
        _set("lesions/0/segment_number", 0),
        _set("lesions/0/prior_volume_ml", None),
        _set("lesions/7/segment_number", 8),
        _set("lesions/7/volume_ml", 0.2),
        _set("lesions/0/volume_ml", -0.1),
        _set("lesions/0/confidence", 1.2),
        _set("lesions/0/centroid_lps_mm", [0.0, 0.0]),
        _remove("lesions/0/tracking_uid"),
        _remove("totals/resolved_count"),
        _set("totals/new_count", 1.5),
        _set("quality/0/severity", "bad"),
        _set("model/sha256", "5B" * 32),
        _set("timing_s/dicom_loader", "0.4"),
        _remove("timing_s"),
    ],
)
def test_the_schema_refuses(
    follow_up: FollowUp, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    results = copy.deepcopy(build_results(follow_up, TIMING))
    change(results)
    path = tmp_path / "results.json"
    with pytest.raises(OutputError, match=r"results\.schema\.json"):
        write_results(path, results)
    assert not path.exists()


def test_the_schema_refuses_a_comparison_without_prior(follow_up: FollowUp) -> None:
    results = build_results(follow_up, TIMING)
    with pytest.raises(OutputError):
        check_results({**results, "prior": None})

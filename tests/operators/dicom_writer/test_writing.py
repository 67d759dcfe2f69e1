"""The whole result on disk: what is there, and what independent validators say about it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    EncapsulatedPDFStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from operators import version
from operators.dicom_writer import writing
from operators.dicom_writer.common import PATIENT_KEYWORDS, STUDY_KEYWORDS
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.dicom_writer.writing import WrittenOutputs, collect_timing, write_outputs
from operators.errors import OutputError
from operators.messages import FollowUp
from tests.operators.dicom_writer.validators import entity_errors, object_errors, run
from tests.operators.followup_example import make_follow_up

CASES = {"follow-up": {}, "enhanced": {"enhanced": True}, "first": {"prior": False},
         "empty": {"empty": True}}  # fmt: skip

Case = tuple[FollowUp, WrittenOutputs, Path]


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A result written for each kind of input: message, paths and folder."""
    folder = tmp_path_factory.mktemp("writing")
    follow_up = make_follow_up(folder, **CASES[request.param])
    written = write_outputs(folder / "out", follow_up, DICOMWriterSettings(), lambda: 1.25)
    return follow_up, written, folder


def objects(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "dicom").iterdir())


def headers(folder: Path) -> list[Dataset]:
    return [dcmread(path, stop_before_pixels=True) for path in objects(folder)]


def test_the_folder_holds_the_result_and_nothing_else(case: Case) -> None:
    follow_up, written, folder = case
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "dicom",
        "report.pdf",
        "results.json",
    ]
    paths = {written.segmentation, written.measurements, written.encapsulated_report}
    assert set(objects(folder)) == paths | set(written.preview)
    classes = {
        written.segmentation: SegmentationStorage,
        written.measurements: Comprehensive3DSRStorage,
        written.encapsulated_report: EncapsulatedPDFStorage,
        **dict.fromkeys(written.preview, SecondaryCaptureImageStorage),
    }
    assert {path: dcmread(path).SOPClassUID for path in objects(folder)} == classes
    assert written.report.read_bytes().startswith(b"%PDF-")
    results = json.loads(written.results.read_text(encoding="utf-8"))
    assert len(results["lesions"]) == len(follow_up.lesions)


def test_timing_covers_every_stage_and_this_one(case: Case) -> None:
    follow_up, written, _ = case
    timing_s = json.loads(written.results.read_text(encoding="utf-8"))["timing_s"]
    assert timing_s == pytest.approx({**follow_up.timing_s, "dicom_writer": 1.25})


def test_every_object_passes_dciodvfy(case: Case, need_tool: Callable[[str], str]) -> None:
    _, _, folder = case
    tool = need_tool("dciodvfy")
    assert {path.name: object_errors(tool, path) for path in objects(folder)} == {
        path.name: [] for path in objects(folder)
    }


def test_outputs_and_sources_agree_for_dcentvfy(
    case: Case, need_tool: Callable[[str], str]
) -> None:
    _, _, folder = case
    sources = sorted((folder / "source").rglob("*.dcm"))
    assert entity_errors(need_tool("dcentvfy"), [*objects(folder), *sources]) == []


def test_dcmdump_reads_every_object(case: Case, need_tool: Callable[[str], str]) -> None:
    _, _, folder = case
    for path in objects(folder):
        output = run(need_tool("dcmdump"), "+fo", path)
        assert not [line for line in output.splitlines() if line.startswith(("E:", "F:", "W:"))]


def test_patient_and_study_are_the_current_studys(case: Case) -> None:
    follow_up, _, folder = case
    current = follow_up.probabilities.aligned.selected.current
    source = current.series["flair"].headers[0]
    for header in headers(folder):
        assert header.SpecificCharacterSet == "ISO_IR 100"
        assert str(header.PatientName) == "Sørensen^Åse"
        for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
            if keyword in source:
                assert header[keyword].value == source[keyword].value, keyword
        for keyword in ("PatientAge", "PatientWeight", "PatientSize", "AccessionNumber"):
            assert keyword in header


def test_series_equipment_and_statement(case: Case) -> None:
    follow_up, _, folder = case
    model = follow_up.probabilities.current.model
    source = follow_up.probabilities.aligned.selected.current
    by_series: dict[str, set[int]] = {}
    for header in headers(folder):
        by_series.setdefault(header.SeriesInstanceUID, set()).add(int(header.SeriesNumber))
        assert header.Manufacturer == version.MANUFACTURER
        assert header.ManufacturerModelName == version.NAME
        assert header.SoftwareVersions[0] == version.VERSION
        assert model.name in header.SoftwareVersions[1]
        assert header.DeviceSerialNumber == model.sha256[:16]
        assert "research use only" in header.SeriesDescription
        equipment = header.ContributingEquipmentSequence[-1]
        assert version.STATEMENT in equipment.ContributionDescription
        assert model.sha256 in equipment.ContributionDescription
        if header.Modality in ("SEG", "OT"):
            assert version.STATEMENT in header.ImageComments
            assert version.STATEMENT in header.DerivationDescription
            assert model.sha256 in header.DerivationDescription
            assert header.BodyPartExamined == "BRAIN"
    numbers = [number for used in by_series.values() for number in used]
    assert len(by_series) == 4
    assert len(numbers) == len(set(numbers)) == 4
    assert not set(numbers) & {series.attributes.series_number for series in source.study.series}
    assert not set(by_series) & {series.series_uid for series in source.study.series}


def test_instance_numbers_and_uids_are_distinct(case: Case) -> None:
    _, _, folder = case
    found = headers(folder)
    assert len({header.SOPInstanceUID for header in found}) == len(found)
    keys = {(header.SeriesInstanceUID, header.InstanceNumber) for header in found}
    assert len(keys) == len(found)


def test_a_rerun_has_the_same_lesions_in_new_objects(tmp_path: Path) -> None:
    follow_up = make_follow_up(tmp_path)
    first = write_outputs(tmp_path / "out", follow_up, DICOMWriterSettings())
    before = dcmread(first.segmentation)
    uids = {header.SOPInstanceUID for header in headers(tmp_path)}
    count = len(objects(tmp_path))
    second = write_outputs(tmp_path / "out", follow_up, DICOMWriterSettings())
    after = dcmread(second.segmentation)
    assert len(objects(tmp_path)) == count
    assert not uids & {header.SOPInstanceUID for header in headers(tmp_path)}
    assert [s.TrackingUID for s in before.SegmentSequence] == [
        s.TrackingUID for s in after.SegmentSequence
    ]


@pytest.fixture(scope="module")
def first_study(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("first"), prior=False)


@pytest.mark.parametrize(
    "function",
    ["build_segmentation", "build_report", "write_preview", "write_report",
     "write_encapsulated_pdf", "write_results"],
)  # fmt: skip
@pytest.mark.parametrize("error", [ValueError("boom"), OSError(28, "No space left on device")])
def test_a_failure_in_any_part_leaves_no_result(
    first_study: FollowUp,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    error: Exception,
) -> None:
    out = tmp_path / "out"
    for name in ("write_preview", "write_report", "write_encapsulated_pdf"):
        if name != function:
            monkeypatch.setattr(writing, name, lambda *arguments: [])

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(writing, function, fail)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write_outputs(out, first_study, DICOMWriterSettings())
    assert list(out.iterdir()) == []


def test_timing_is_collected_from_messages_that_carry_only_their_own(
    first_study: FollowUp,
) -> None:
    probabilities = first_study.probabilities
    aligned = probabilities.aligned
    selected = replace(aligned.selected, timing_s={"dicom_loader": 1.0, "series_selector": 2.0})
    aligned = replace(aligned, selected=selected, timing_s={"registration": 3.0})
    probabilities = replace(probabilities, aligned=aligned, timing_s={"lesion_segmentation": 4.0})
    follow_up = replace(
        first_study, probabilities=probabilities, timing_s={"longitudinal_comparator": 5.0}
    )
    assert list(collect_timing(follow_up).items()) == [
        ("dicom_loader", 1.0),
        ("series_selector", 2.0),
        ("registration", 3.0),
        ("lesion_segmentation", 4.0),
        ("longitudinal_comparator", 5.0),
    ]


@pytest.mark.parametrize("name", ["Geheimnis", "Geheimnis^Anna"])
def test_nothing_logs_or_warns_with_patient_data(
    first_study: FollowUp,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """highdicom quotes a name of one component in a warning."""
    warnings.simplefilter("always")
    caplog.set_level(logging.INFO)
    probabilities = first_study.probabilities
    selected = probabilities.aligned.selected
    flair = selected.current.series["flair"]
    headers = []
    for header in flair.headers:
        changed = deepcopy(header)
        changed.PatientName, changed.PatientID = name, "TOPSECRET77"
        headers.append(changed)
    series = {**selected.current.series, "flair": replace(flair, headers=tuple(headers))}
    selected = replace(selected, current=replace(selected.current, series=series))
    aligned = replace(probabilities.aligned, selected=selected)
    follow_up = replace(first_study, probabilities=replace(probabilities, aligned=aligned))
    written = write_outputs(tmp_path / "out", follow_up, DICOMWriterSettings())
    for path in (written.segmentation, written.measurements, written.preview[0]):
        assert dcmread(path).PatientName == name
    said = caplog.text + " ".join(str(item.message) for item in recwarn.list)
    for secret in ("Geheimnis", "TOPSECRET77", "19810314", "20240612"):
        assert secret not in said

"""What a whole run wrote, held against independent validators and readers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from operators.dicom_writer.results import results_schema
from operators.version import NAME, STATEMENT, VERSION
from tests.conftest import ROOT
from tests.e2e.conftest import VENDORS, SecondVisit
from tests.e2e.running import Run, run_app
from tests.operators.dicom_writer.validators import (
    PIXELMED_JARS,
    entity_errors,
    object_errors,
    report_errors,
)
from tests.operators.dicom_writer.validators import run as run_tool

PRIVATE = (
    "Sørensen",
    "S\\xf8rensen",
    "Åse",
    "DEMO-4711",
    "19840502",
    "1984-05-02",
    "20250416",
    "2025-04-16",
)


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_object_passes_the_validators(
    vendor: str, synthetic_run: Callable[[str], Run], need_tool: Callable[[str], str]
) -> None:
    run = synthetic_run(vendor)
    modalities = {pydicom.dcmread(path, stop_before_pixels=True).Modality for path in run.dicom()}
    assert {"SEG", "SR", "DOC"} < modalities
    previews = [path for path in run.dicom() if path.name.startswith("preview")]
    for path in run.dicom():
        if path not in previews[3:]:
            assert not object_errors(need_tool("dciodvfy"), path), path.name
    dump = run_tool(need_tool("dsrdump"), run.of_modality("SR")[0])
    assert "Lesion" in dump
    assert not [line for line in dump.splitlines() if line.startswith(("E:", "F:"))]
    assert not entity_errors(need_tool("dcentvfy"), run.dicom())


@pytest.mark.parametrize("vendor", VENDORS)
def test_every_object_says_who_made_it_and_belongs_to_the_current_study(
    vendor: str, synthetic_run: Callable[[str], Run]
) -> None:
    run = synthetic_run(vendor)
    model = run.results["model"]
    series = set()
    for path in run.dicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert dataset.StudyInstanceUID == run.results["current"]["study_uid"]
        assert str(dataset.PatientName) == "Sørensen^Åse"
        assert dataset.PatientAge
        assert float(dataset.PatientWeight) > 0
        assert dataset.ManufacturerModelName == NAME
        assert VERSION in str(dataset.SoftwareVersions)
        text = str(dataset)
        assert STATEMENT.rstrip(".") in text, path.name
        assert model["name"] in text
        assert model["sha256"][:16] in text
        series.add((dataset.Modality, dataset.SeriesInstanceUID))
    assert len(series) == 4


@pytest.mark.parametrize("vendor", VENDORS)
def test_dcmqi_reads_the_segments_where_our_mask_has_them(
    vendor: str,
    synthetic_run: Callable[[str], Run],
    tmp_path: Path,
) -> None:
    run = synthetic_run(vendor)
    (path,) = run.of_modality("SEG")
    converter = Path(sys.executable).parent / "segimage2itkimage"
    subprocess.run(
        [
            *(str(converter), "--inputDICOM", str(path), "--outputDirectory", str(tmp_path)),
            *("--outputType", "nii", "--mergeSegments"),
        ],
        check=True,
        capture_output=True,
    )
    (mask,) = tmp_path.glob("*.nii*")
    theirs = sitk.ReadImage(str(mask))
    ours = run.segmentation().get_volume(combine_segments=True, relabel=False)
    indices = np.argwhere(np.asarray(ours.array) > 0)
    points = indices @ ours.affine[:3, :3].T + ours.affine[:3, 3]
    read = sitk.GetArrayFromImage(theirs)
    for index, point in zip(indices, points, strict=True):
        x, y, z = theirs.TransformPhysicalPointToIndex([float(v) for v in point])
        assert read[z, y, x] == ours.array[tuple(index)]
    assert int((read > 0).sum()) == len(indices)


def test_results_agree_with_schema_and_segmentation(synthetic_run: Callable[[str], Run]) -> None:
    run = synthetic_run("siemens")
    jsonschema.validate(run.results, results_schema())
    seg = run.segmentation()
    volume = seg.get_volume(combine_segments=True, relabel=False)
    for lesion in run.results["lesions"]:
        if lesion["segment_number"] is None:
            assert lesion["change"] == "resolved"
            continue
        description = seg.get_segment_description(lesion["segment_number"])
        assert description.tracking_uid == lesion["tracking_uid"]
        voxels = int((volume.array == lesion["segment_number"]).sum())
        assert voxels * volume.voxel_volume / 1000 == pytest.approx(lesion["volume_ml"], abs=1e-3)
    stages = set(run.results["timing_s"])
    assert {"dicom_loader", "registration", "lesion_segmentation", "dicom_writer"} <= stages


@pytest.mark.parametrize("vendor", VENDORS)
def test_no_log_line_names_the_patient(vendor: str, synthetic_run: Callable[[str], Run]) -> None:
    run = synthetic_run(vendor)
    assert len(run.log.splitlines()) >= 6
    assert not [word for word in PRIVATE if word in run.log]
    text = (run.out / "results.json").read_text(encoding="utf-8")
    assert not [word for word in PRIVATE if word in text]


def test_a_rerun_replaces_the_whole_and_a_prior_seg_keeps_the_identities(
    second_visit: SecondVisit,
) -> None:
    """Prior alone, then both with the prior's objects: lesions keep their tracking UIDs."""
    first, second = second_visit.without, second_visit.run
    assert second_visit.baseline["prior"] is None
    assert {lesion["change"] for lesion in second_visit.baseline["lesions"]} == {"baseline"}
    known = {lesion["tracking_uid"] for lesion in second_visit.baseline["lesions"]}
    kept = {
        lesion["tracking_uid"]
        for lesion in second.results["lesions"]
        if lesion["change"] not in {"new", "split"} and lesion["prior_volume_ml"] > 0.03
    }
    assert kept <= known
    assert len(kept) >= 8
    studies = {pydicom.dcmread(path).StudyInstanceUID for path in second.dicom()}
    assert studies == {first.results["current"]["study_uid"]}
    # another run of the same images gives the same numbers to the last digit
    assert second.results["registration"] == first.results["registration"]
    names = {"tracking_uid", "tracking_id", "lineage"}
    for before, after in zip(first.results["lesions"], second.results["lesions"], strict=True):
        assert {k: v for k, v in after.items() if k not in names} == {
            k: v for k, v in before.items() if k not in names
        }
    for key in ("totals", "time_points", "current", "prior", "dissemination"):
        assert second.results[key] == first.results[key], key


def test_two_runs_give_the_same_results_file_apart_from_timing(
    synthetic_run: Callable[[str], Run], tmp_path: Path
) -> None:
    first = synthetic_run("siemens")
    again = run_app(first.source, tmp_path / "out")
    assert again.code == 0, again.log

    def without_timing(run: Run) -> bytes:
        content = (run.out / "results.json").read_bytes()
        head, timing = content.split(b'"timing_s": {')
        return head + timing[timing.index(b"}") :]

    assert without_timing(again) == without_timing(first)


def test_pixelmed_finds_no_error_in_the_report(
    synthetic_run: Callable[[str], Run], need_tool: Callable[[str], str]
) -> None:
    run = synthetic_run("siemens")
    errors, output = report_errors(need_tool("java"), PIXELMED_JARS[0], run.of_modality("SR")[0])
    assert "Comprehensive3DSR" in output.replace(" ", "")
    assert not errors


def test_the_schema_is_shipped_and_versioned() -> None:
    path = ROOT / "operators" / "dicom_writer" / "results.schema.json"
    schema = json.loads(path.read_text(encoding="utf-8"))
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]["schema_version"]

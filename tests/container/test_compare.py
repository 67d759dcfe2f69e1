"""The comparison of two runs sees what differs and only that."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from reportlab.pdfgen.canvas import Canvas

from container.compare import compare_values, differences, same_text
from tests.operators.dicom_loader.builders import Grid, make_classic_series

RESULT = {
    "lesions": [{"volume_ml": 1.234, "segment_number": 1, "change": "new"}],
    "quality": ["2 lesions at 12.5 mm"],
    "timing_s": {"dicom_writer": 1.0},
}


def test_only_seconds_may_differ_freely() -> None:
    other = copy.deepcopy(RESULT) | {"timing_s": {"dicom_writer": 9.0}}
    assert not list(compare_values(RESULT, other))


@pytest.mark.parametrize(
    ("key", "value"),
    [("volume_ml", 1.27), ("segment_number", 2), ("change", "stable"), ("extra", 1)],
)
def test_a_different_value_is_named_by_its_place(key: str, value: object) -> None:
    other = copy.deepcopy(RESULT)
    other["lesions"][0][key] = value
    (found,) = compare_values(RESULT, other)
    assert f"lesions[0].{key}" in found


def test_a_missing_lesion_is_seen() -> None:
    other = copy.deepcopy(RESULT) | {"lesions": []}
    assert list(compare_values(RESULT, other)) == [".lesions: 1 and 0 entries"]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a 12.5 mm", "a 12.6 mm", True),
        ("a 12.5 mm", "a 12.8 mm", False),
        ("growth 41 %", "growth 42 %", True),
        ("growth 41 %", "growth 43 %", False),
        ("4 new", "5 new", False),
        ("4 new", "4 old", False),
        ("object 2.25.123456789012345", "object 2.25.99999999999999", True),
        ("volume 0.35 ml  now", "volume 0.36 ml now", True),
    ],
)
def test_texts_may_differ_in_the_last_digit_of_a_measure(
    first: str, second: str, same: bool
) -> None:
    assert same_text(first, second) is same


def write_seg(path: Path, voxels: np.ndarray, number: int) -> None:
    grid = Grid(shape=(10, 20, 18), spacing_mm=(3.0, 1.1, 0.9))
    uids = {"study_uid": "1.2.3", "series_uid": "1.2.4", "frame_of_reference_uid": "1.2.5"}
    sources = make_classic_series(grid, **uids)
    description = hd.seg.SegmentDescription(
        1,
        "Lesion",
        hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        hd.sr.CodedConcept("49755003", "SCT", "Morphologically Abnormal Structure"),
        hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    seg = hd.seg.Segmentation(
        sources,
        voxels.astype(np.uint8),
        hd.seg.SegmentationTypeValues.BINARY,
        [description],
        hd.UID(),
        9001,
        hd.UID(),
        number,
        "maker",
        "model",
        "1",
        "serial",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    seg.save_as(path)


def test_masks_are_compared_voxel_by_voxel_and_headers_by_value(tmp_path: Path) -> None:
    voxels = np.zeros((10, 20, 18))
    voxels[2:8, 4:12, 5:15] = 1
    moved = voxels.copy()
    moved[2, 4:12, 5:15] = 0
    for name, mask, number in (
        ("a", voxels, 1),
        ("b", voxels, 1),
        ("c", moved, 1),
        ("d", voxels, 2),
    ):
        write_seg(tmp_path / name / "dicom" / "seg.dcm", mask, number)
        (tmp_path / name / "results.json").write_text(json.dumps(RESULT))
    assert not differences(tmp_path / "a", tmp_path / "b")
    (found,) = differences(tmp_path / "a", tmp_path / "c")
    assert "80 of 480 lesion voxels differ" in found
    (found,) = differences(tmp_path / "a", tmp_path / "d")
    assert "InstanceNumber" in found
    (tmp_path / "b" / "results.json").unlink()
    assert differences(tmp_path / "a", tmp_path / "b") == ["only in one: results.json"]


def test_reports_may_differ_in_when_they_were_made_only(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    need_tool("pdftotext")
    for name, made, load in (
        ("a", "2026-11-21 14:50", "6.53"),
        ("b", "2027-01-01 09:05", "6.53"),
        ("c", "2026-11-21 14:50", "9.99"),
    ):
        (tmp_path / name).mkdir()
        page = Canvas(str(tmp_path / name / "report.pdf"))
        page.drawString(72, 700, f"Made {made}")
        page.drawString(72, 680, f"Lesion load {load} ml on 2026-03-01")
        page.save()
    assert differences(tmp_path / "a", tmp_path / "b") == []
    (found,) = differences(tmp_path / "a", tmp_path / "c")
    assert "9.99" in found

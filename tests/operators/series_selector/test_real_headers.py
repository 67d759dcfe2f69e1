"""The real scanner headers of the shared data: each series with its role or why it is refused.

Of most classic series only the first, the middle and the last instance are there, and the folder's
name tells how many there were; whether a series could be used is therefore decided on the extent
that this count and the stated spacing give.
"""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from operators.dicom_loader.scan import scan_folder
from operators.errors import InputError
from operators.messages import Series
from operators.series_selector.classification import classify, obstacle
from operators.series_selector.settings import SeriesSelectorSettings

TABLE = Path(__file__).with_name("real_headers.csv")


def rows() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_holds_every_series(shared_data: Path) -> None:
    folders = [path for path in (shared_data / "dicom_headers").glob("*/*") if path.is_dir()]
    listed = {row["folder"] for row in rows()}
    assert len(folders) == 32
    assert listed == {path.relative_to(shared_data).as_posix() for path in folders} | {
        "dicom/xa30_enhanced_mr"
    }


def as_acquired(series: Series, folder: Path) -> Series:
    """The series with the extent of all its instances, and without the gaps of the excerpt."""
    excerpt = re.search(r"_n(\d+)$", folder.name)
    if series.attributes.enhanced or excerpt is None:
        return series
    header = pydicom.dcmread(series.instances[0].path, stop_before_pixels=True)
    between = float(header.get("SpacingBetweenSlices") or header.get("SliceThickness") or 1.0)
    down, across = (float(value) for value in header.PixelSpacing)
    count = int(excerpt.group(1))
    attributes = replace(
        series.attributes,
        slice_count=count,
        spacing_mm=(down, across, between),
        coverage_mm=count * between,
    )
    return replace(series, attributes=attributes, problems=())


@pytest.mark.parametrize("row", rows(), ids=[row["folder"] for row in rows()])
def test_real_headers(
    shared_data: Path, rules: SeriesSelectorSettings, row: dict[str, str]
) -> None:
    folder = shared_data / row["folder"]
    if row["expected"] == "no MR images":
        with pytest.raises(InputError, match="no MR images"):
            scan_folder(folder)
        return
    stacks = [series for study in scan_folder(folder).studies for series in study.series]
    assert stacks
    for series in stacks:
        found = classify(series.attributes, rules)
        assert (found.role or found.code) == row["expected"], found.reason
        assert found.reason
        if found.role:
            series = replace(
                series,
                problems=tuple(
                    p for p in series.problems if p.code != "missing_frame_of_reference"
                ),
            )
            problem = obstacle(as_acquired(series, folder), rules)
            assert (problem.code if problem else "usable") == row["use"]

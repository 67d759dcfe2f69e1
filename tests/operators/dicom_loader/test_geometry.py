"""Defects of a series' geometry are found in its headers, named, and rightly fatal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid

from operators.messages import Series
from tests.operators.dicom_loader.builders import (
    FrameSpec,
    Grid,
    make_classic_series,
    make_enhanced,
)
from tests.operators.dicom_loader.test_stacks import codes, scan_series

PLANES = ["axial", "sagittal", "coronal"]


def only(series: list[Series]) -> Series:
    assert len(series) == 1
    return series[0]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("tilt", [(0, 0, 0), (11, -5, 3), (-17, 12, 9)])
def test_sound_series_have_no_problem(
    tmp_path: Path, plane: str, tilt: tuple[float, float, float]
) -> None:
    grid = Grid(plane=plane, tilt_deg=tilt)
    series = only(scan_series(make_classic_series(grid), tmp_path))
    assert codes(series) == []
    assert series.attributes.orientation == plane
    assert series.attributes.spacing_mm == pytest.approx((0.9, 0.7, 3.3))


def test_slices_are_in_order_whatever_the_files_are_called(tmp_path: Path) -> None:
    datasets = make_classic_series()
    shuffled = [datasets[i] for i in np.random.default_rng(4).permutation(7)]
    series = only(scan_series(shuffled, tmp_path))
    expected = [dataset.SOPInstanceUID for dataset in reversed(datasets)]
    assert [instance.sop_instance_uid for instance in series.instances] == expected


def test_missing_slices_are_counted_and_placed(tmp_path: Path) -> None:
    grid = Grid(shape=(12, 12, 10), tilt_deg=(0, 0, 0), position_mm=(0, 0, 10))
    datasets = make_classic_series(grid)
    kept = [d for i, d in enumerate(datasets) if i not in (3, 7, 8)]
    series = only(scan_series(kept, tmp_path))
    (problem,) = series.problems
    assert (problem.code, problem.fatal) == ("missing_slices", True)
    assert "3 of 12 slices" in problem.message
    assert "1 between 16.6 and 23.2 mm" in problem.message
    assert "2 between 29.8 and 39.7 mm" in problem.message


def test_missing_slices_without_a_stated_spacing(tmp_path: Path) -> None:
    datasets = make_classic_series(SpacingBetweenSlices=None)
    del datasets[2]
    assert codes(only(scan_series(datasets, tmp_path))) == ["missing_slices"]


def test_every_second_slice_missing(tmp_path: Path) -> None:
    datasets = make_classic_series(Grid(shape=(12, 12, 10)))[::2]
    series = only(scan_series(datasets, tmp_path))
    assert codes(series) == ["missing_slices"]
    assert "every 2. slice" in series.problems[0].message


def test_stated_spacing_that_is_the_gap_is_only_a_warning(tmp_path: Path) -> None:
    datasets = make_classic_series(SpacingBetweenSlices="0.3")
    series = only(scan_series(datasets, tmp_path))
    assert [(p.code, p.fatal) for p in series.problems] == [("spacing_mismatch", False)]
    assert series.attributes.spacing_mm == (0.9, 0.7, 3.3)


def test_fewer_images_than_stated_is_a_warning(tmp_path: Path) -> None:
    series = only(scan_series(make_classic_series(ImagesInAcquisition=9), tmp_path))
    assert [(p.code, p.fatal) for p in series.problems] == [("fewer_images_than_stated", False)]


@pytest.mark.parametrize(("kept", "absent"), [(slice(1, None), 1), (slice(2, 6), 2)])
def test_missing_first_slices_leave_a_trace_in_the_numbers(
    tmp_path: Path, kept: slice, absent: int
) -> None:
    series = only(scan_series(make_classic_series()[kept], tmp_path))
    assert [(p.code, p.fatal) for p in series.problems] == [("gaps_in_numbers", False)]
    assert f"{absent} numbers are absent" in series.problems[0].message


def test_uneven_spacing(tmp_path: Path) -> None:
    grid = Grid()
    datasets = make_classic_series(grid)
    datasets[3].ImagePositionPatient = [float(v) for v in np.round(grid.position(3.4), 6)]
    assert codes(only(scan_series(datasets, tmp_path))) == ["uneven_spacing"]


def test_scanner_rounding_is_even_enough(tmp_path: Path) -> None:
    grid = Grid()
    datasets = make_classic_series(grid)
    for index, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [float(v) for v in np.round(grid.position(index), 1)]
    assert codes(only(scan_series(datasets, tmp_path))) == []


@pytest.mark.parametrize("plane", PLANES)
def test_sheared_stack(tmp_path: Path, plane: str) -> None:
    series = only(scan_series(make_classic_series(Grid(plane=plane, shear_mm=0.6)), tmp_path))
    assert codes(series) == ["sheared_stack"]
    assert "10.3 degrees" in series.problems[0].message


def test_sheared_enhanced_image(tmp_path: Path) -> None:
    series = only(scan_series([make_enhanced(Grid(shear_mm=0.6))], tmp_path))
    assert codes(series) == ["sheared_stack"]


def _without(keyword: str) -> dict[str, Any]:
    return {keyword: None}


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        (_without("ImagePositionPatient"), "missing_position"),
        (_without("ImageOrientationPatient"), "missing_orientation"),
        (_without("FrameOfReferenceUID"), "missing_frame_of_reference"),
        (_without("PixelSpacing"), "missing_spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "invalid_orientation"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "invalid_orientation"),
        ({"PixelSpacing": [0, 0]}, "absurd_spacing"),
        ({"PixelSpacing": [-1, 1]}, "absurd_spacing"),
        ({"PixelSpacing": [900, 700]}, "absurd_spacing"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour_image"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, "mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not_mr_image"),
    ],
)
def test_defect_of_every_slice(tmp_path: Path, attributes: dict[str, Any], code: str) -> None:
    series = only(scan_series(make_classic_series(**attributes), tmp_path))
    found = {problem.code: problem.fatal for problem in series.problems}
    assert found.get(code) is True


def test_pixel_spacing_that_is_not_a_number(tmp_path: Path) -> None:
    datasets = make_classic_series()
    for dataset in datasets:
        dataset.PixelSpacing = ["nan", "nan"]
    assert "missing_spacing" in codes(only(scan_series(datasets, tmp_path)))


def test_one_slice_without_position(tmp_path: Path) -> None:
    datasets = make_classic_series()
    del datasets[4].ImagePositionPatient
    series = only(scan_series(datasets, tmp_path))
    assert codes(series) == ["missing_position"]
    assert series.problems[0].message.startswith("1 image is")


@pytest.mark.parametrize("distance", [0.05, 25.0])
def test_absurd_slice_distance(tmp_path: Path, distance: float) -> None:
    series = only(scan_series(make_classic_series(Grid(spacing_mm=(distance, 0.9, 0.7))), tmp_path))
    assert codes(series) == ["absurd_spacing"]


def test_pixel_spacing_that_differs_between_slices(tmp_path: Path) -> None:
    datasets = make_classic_series()
    datasets[5].PixelSpacing = [0.8, 0.7]
    assert codes(only(scan_series(datasets, tmp_path))) == ["inconsistent_spacing"]


def test_two_frames_of_reference(tmp_path: Path) -> None:
    datasets = make_classic_series()
    datasets[5].FrameOfReferenceUID = generate_uid()
    assert codes(only(scan_series(datasets, tmp_path))) == ["mixed_frames_of_reference"]


def test_single_slice(tmp_path: Path) -> None:
    series = only(scan_series(make_classic_series(Grid(shape=(1, 12, 10))), tmp_path))
    assert codes(series) == ["single_slice"]


def test_three_plane_localizer(tmp_path: Path) -> None:
    uids = {"study_uid": "1.2", "series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4"}
    datasets = []
    for plane in PLANES:
        datasets += make_classic_series(Grid(plane=plane, shape=(3, 12, 10)), **uids)
    series = scan_series(datasets, tmp_path)
    assert {one.stack for one in series} == set(PLANES)
    assert all("localizer" in codes(one) for one in series)


def test_enhanced_image_with_fewer_groups_than_frames(tmp_path: Path) -> None:
    image = make_enhanced()
    del image.PerFrameFunctionalGroupsSequence[-2:]
    found = {code for one in scan_series([image], tmp_path) for code in codes(one)}
    assert "missing_position" in found


def test_enhanced_image_without_functional_groups(tmp_path: Path) -> None:
    image = make_enhanced(
        PerFrameFunctionalGroupsSequence=None, SharedFunctionalGroupsSequence=None
    )
    series = only(scan_series([image], tmp_path))
    assert {"missing_position", "missing_orientation", "missing_spacing"} <= set(codes(series))


def test_missing_frame_of_an_enhanced_image(tmp_path: Path) -> None:
    frames = [FrameSpec(index) for index in (0, 1, 2, 4, 5, 6)]
    assert codes(only(scan_series([make_enhanced(frames=frames)], tmp_path))) == ["missing_slices"]


def test_repeated_frame_of_an_enhanced_image(tmp_path: Path) -> None:
    frames = [FrameSpec(index) for index in (0, 1, 2, 2, 3, 4, 5, 6)]
    series = only(scan_series([make_enhanced(frames=frames)], tmp_path))
    assert codes(series) == ["duplicate_positions"]


def test_concatenated_multi_frame_image(tmp_path: Path) -> None:
    image = make_enhanced(
        ConcatenationUID="1.2.5", InConcatenationNumber=1, InConcatenationTotalNumber=2
    )
    assert "concatenation" in codes(only(scan_series([image], tmp_path)))

"""Splitting series into stacks: what sets them apart and what they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from operators.dicom_loader.scan import scan_folder
from operators.messages import Series
from tests.operators.dicom_loader.builders import (
    FrameSpec,
    Grid,
    make_classic_series,
    make_enhanced,
    write_files,
)


def scan_series(datasets: list, folder: Path) -> list[Series]:
    write_files(datasets, folder)
    collection = scan_folder(folder)
    return [series for study in collection.studies for series in study.series]


def codes(series: Series) -> list[str]:
    return [problem.code for problem in series.problems]


def two_part_series(first: dict, second: dict, **common: object) -> list:
    uids = {
        "study_uid": generate_uid(),
        "series_uid": generate_uid(),
        "frame_of_reference_uid": generate_uid(),
    }
    return [
        *make_classic_series(**uids, **common, **first),
        *make_classic_series(**uids, **common, **second, first_instance_number=8),
    ]


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        (
            {"EchoNumbers": 1, "EchoTime": "12"},
            {"EchoNumbers": 2, "EchoTime": "96"},
            {"echo 1", "echo 2"},
        ),
        ({"EchoTime": "12"}, {"EchoTime": "96"}, {"TE 12 ms", "TE 96 ms"}),
        ({"InversionTime": "400"}, {"InversionTime": "2500"}, {"TI 400 ms", "TI 2500 ms"}),
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, {"b 0", "b 1000"}),
        (
            {"TemporalPositionIdentifier": 1},
            {"TemporalPositionIdentifier": 2},
            {"temporal position 1", "temporal position 2"},
        ),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M", "SE"]},
            {"ImageType": ["ORIGINAL", "PRIMARY", "P", "SE"]},
            {"M", "P"},
        ),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, {"acquisition 1", "acquisition 2"}),
        (
            {"AcquisitionTime": "102030"},
            {"AcquisitionTime": "102130"},
            {"acquisition time 1", "acquisition time 2"},
        ),
    ],
)
def test_attribute_splits_a_series(
    tmp_path: Path, first: dict, second: dict, labels: set[str]
) -> None:
    series = scan_series(two_part_series(first, second), tmp_path)
    assert {one.stack for one in series} == labels
    for one in series:
        assert codes(one) == []
        assert len(one.instances) == one.attributes.slice_count == 7
    assert len({one.series_uid for one in series}) == 1


def test_single_stack_has_no_label(tmp_path: Path) -> None:
    (series,) = scan_series(make_classic_series(), tmp_path)
    assert series.stack == ""
    assert series.label == "series 4"


def test_siemens_private_b_value_splits(tmp_path: Path) -> None:
    parts = two_part_series({}, {})
    for index, dataset in enumerate(parts):
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", 0 if index < 7 else 1000)
    series = scan_series(parts, tmp_path)
    assert {one.attributes.b_value for one in series} == {0.0, 1000.0}


def test_ge_private_b_value_is_taken_modulo(tmp_path: Path) -> None:
    datasets = make_classic_series(vendor="ge")
    for dataset in datasets:
        block = dataset.private_block(0x0043, "GEMS_PARM_01", create=True)
        block.add_new(0x39, "IS", [1000000900, 8, 0, 0])
    (series,) = scan_series(datasets, tmp_path)
    assert series.attributes.b_value == 900.0


def test_private_block_of_another_vendor_is_no_b_value(tmp_path: Path) -> None:
    datasets = make_classic_series()
    for dataset in datasets:
        block = dataset.private_block(0x0019, "SOMEONE ELSE", create=True)
        block.add_new(0x0C, "IS", 1000)
    (series,) = scan_series(datasets, tmp_path)
    assert series.attributes.b_value is None


def test_orientations_split_and_jitter_does_not(tmp_path: Path) -> None:
    axial = make_classic_series(Grid(tilt_deg=(11, -5, 3)), series_uid="1.2.3", study_uid="1.2")
    for index, dataset in enumerate(axial):
        dataset.ImageOrientationPatient[0] += 1e-8 * index
    coronal = make_classic_series(
        Grid(plane="coronal", shape=(30, 12, 10)), series_uid="1.2.3", study_uid="1.2"
    )
    series = scan_series([*axial, *coronal], tmp_path)
    assert {one.stack for one in series} == {"axial", "coronal"}
    assert {len(one.instances) for one in series} == {7, 30}


def test_sizes_split(tmp_path: Path) -> None:
    small = make_classic_series(Grid(shape=(7, 12, 10)), series_uid="1.2.3", study_uid="1.2")
    large = make_classic_series(Grid(shape=(7, 14, 10)), series_uid="1.2.3", study_uid="1.2")
    series = scan_series([*small, *large], tmp_path)
    assert {one.stack for one in series} == {"12 × 10", "14 × 10"}


def test_four_dimensional_series_counts_its_temporal_positions(tmp_path: Path) -> None:
    uids = {"study_uid": "1.2", "series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4"}
    datasets = []
    for time in (1, 2, 3):
        datasets += make_classic_series(**uids, TemporalPositionIdentifier=time)
    series = scan_series(datasets, tmp_path)
    assert [one.attributes.temporal_positions for one in series] == [3, 3, 3]
    assert [codes(one) for one in series] == [[], [], []]


def test_incomplete_last_temporal_position_is_named(tmp_path: Path) -> None:
    parts = two_part_series({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2})
    first, second = scan_series(parts[:-2], tmp_path)
    assert codes(first) == []
    assert codes(second) == ["missing_slices"]
    assert "2 of 7" in second.problems[0].message


def test_duplicated_slice_is_not_taken_for_a_second_time(tmp_path: Path) -> None:
    datasets = make_classic_series()
    extra = make_classic_series()[3]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(extra, keyword, datasets[0][keyword].value)
    (series,) = scan_series([*datasets, extra], tmp_path)
    assert codes(series) == ["duplicate_positions"]


def test_alternating_echoes_are_mixed(tmp_path: Path) -> None:
    datasets = make_classic_series()
    for index, dataset in enumerate(datasets):
        dataset.EchoTime = "12" if index % 2 else "96"
    series = scan_series(datasets, tmp_path)
    assert len(series) == 2
    assert all("mixed_echoes" in codes(one) for one in series)
    assert all(
        problem.fatal
        for one in series
        for problem in one.problems
        if problem.code == "mixed_echoes"
    )


def test_alternating_image_types_are_mixed(tmp_path: Path) -> None:
    datasets = make_classic_series(Grid(shape=(8, 12, 10)))
    for index, dataset in enumerate(datasets):
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M" if index % 2 else "P"]
    series = scan_series(datasets, tmp_path)
    assert {one.stack for one in series} == {"M", "P"}
    assert all("mixed_images" in codes(one) for one in series)


def test_two_slabs_that_lie_above_each_other_are_two_sound_stacks(tmp_path: Path) -> None:
    datasets = make_classic_series(Grid(shape=(8, 12, 10)))
    for index, dataset in enumerate(datasets):
        dataset.EchoTime = "12" if index < 4 else "96"
    series = scan_series(datasets, tmp_path)
    assert [codes(one) for one in series] == [[], []]


def test_many_temporal_positions(tmp_path: Path) -> None:
    grid = Grid(shape=(3, 4, 5))
    uids = {"study_uid": "1.2", "series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4"}
    for time in range(1, 61):
        datasets = make_classic_series(grid, **uids, TemporalPositionIdentifier=time)
        write_files(datasets, tmp_path, stem=f"t{time}")
    series = scan_folder(tmp_path).studies[0].series
    assert len(series) == 60
    assert {one.attributes.temporal_positions for one in series} == {60}


def test_echo_that_lacks_an_end_slice_is_named(tmp_path: Path) -> None:
    parts = two_part_series(
        {"EchoNumbers": 1, "EchoTime": "12"}, {"EchoNumbers": 2, "EchoTime": "96"}
    )
    first, second = scan_series(parts[:-1], tmp_path)
    assert codes(first) == []
    assert codes(second) == ["missing_slices"]
    assert "another echo" in second.problems[0].message


# --- Enhanced MR ------------------------------------------------------------------------------


def test_enhanced_image_in_order_needs_no_frame_numbers(tmp_path: Path) -> None:
    frames = [FrameSpec(index) for index in reversed(range(7))]
    (series,) = scan_series([make_enhanced(frames=frames)], tmp_path)
    assert series.frame_numbers is None
    assert len(series.instances) == 1


def test_shuffled_enhanced_frames_are_put_in_order(tmp_path: Path) -> None:
    order = [4, 6, 0, 5, 2, 1, 3]
    (series,) = scan_series([make_enhanced(frames=[FrameSpec(i) for i in order])], tmp_path)
    assert codes(series) == []
    assert series.frame_numbers is not None
    slices = [order[number - 1] for number in series.frame_numbers]
    assert slices == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("legacy", [False, True])
def test_enhanced_image_of_two_echoes(tmp_path: Path, legacy: bool) -> None:
    frames = [FrameSpec(index, echo_time_ms=te) for index in range(7) for te in (12.0, 96.0)]
    short, long = scan_series([make_enhanced(frames=frames, legacy=legacy)], tmp_path)
    assert (short.stack, long.stack) == ("TE 12 ms", "TE 96 ms")
    assert sorted(short.frame_numbers or ()) == [1, 3, 5, 7, 9, 11, 13]
    assert sorted(long.frame_numbers or ()) == [2, 4, 6, 8, 10, 12, 14]


def test_enhanced_image_of_times_b_values_and_components(tmp_path: Path) -> None:
    times = [FrameSpec(i, temporal_index=t) for t in (1, 2) for i in range(7)]
    series = scan_series([make_enhanced(frames=times)], tmp_path / "a")
    assert [one.stack for one in series] == ["temporal position 1", "temporal position 2"]
    assert [one.attributes.temporal_positions for one in series] == [2, 2]
    values = [FrameSpec(i, b_value=b) for b in (0.0, 800.0) for i in range(7)]
    series = scan_series([make_enhanced(frames=values)], tmp_path / "b")
    assert [one.attributes.b_value for one in series] == [0.0, 800.0]
    magnitude = [FrameSpec(i) for i in range(7)]
    phase = [replace(frame, component="PHASE") for frame in magnitude]
    series = scan_series([make_enhanced(frames=magnitude + phase)], tmp_path / "c")
    assert {one.stack for one in series} == {"MAGNITUDE", "PHASE"}


def test_one_enhanced_file_for_each_time(tmp_path: Path) -> None:
    uids = {"study_uid": "1.2", "series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4"}
    images = [make_enhanced(**uids, InstanceNumber=number) for number in (1, 2)]
    first, second = scan_series(images, tmp_path)
    assert (first.stack, second.stack) == ("instance 1", "instance 2")
    assert first.attributes.temporal_positions == 2


# --- attributes -------------------------------------------------------------------------------


@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips"])
def test_classic_attributes(tmp_path: Path, vendor: str) -> None:
    (series,) = scan_series(make_classic_series(vendor=vendor), tmp_path)
    attributes = series.attributes
    assert attributes.modality == "MR"
    assert (attributes.echo_time_ms, attributes.repetition_time_ms) == (96.0, 9000.0)
    assert attributes.inversion_time_ms == 2500.0
    assert attributes.scanning_sequence[-1] == "IR"
    assert attributes.spacing_mm == (0.9, 0.7, 3.3)
    assert attributes.orientation == "axial"
    assert attributes.coverage_mm == pytest.approx(7 * 3.3)
    assert attributes.slice_count == 7
    assert attributes.contrast_agent is None
    assert (attributes.rows, attributes.columns) == (12, 10)
    assert attributes.series_description == "t2_flair_tra"
    assert not attributes.enhanced


@pytest.mark.parametrize("legacy", [False, True])
def test_enhanced_attributes(tmp_path: Path, legacy: bool) -> None:
    (series,) = scan_series([make_enhanced(legacy=legacy)], tmp_path)
    attributes = series.attributes
    assert attributes.enhanced
    assert attributes.echo_time_ms == 96.0
    assert attributes.repetition_time_ms == 9000.0
    assert attributes.inversion_time_ms == 2500.0
    assert attributes.flip_angle_deg == 150.0
    assert attributes.echo_train_length == 16
    assert attributes.scanning_sequence == ("SE", "IR")
    assert attributes.mr_acquisition_type == "2D"
    assert attributes.spacing_mm == (0.9, 0.7, 3.3)
    assert attributes.slice_count == 7
    assert attributes.image_type == ("ORIGINAL", "PRIMARY", "T2", "NONE")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("Gadovist", "Gadovist"), ("", None), ("NONE", None), ("no", None), ("  ", None)],
)
def test_contrast_agent_of_a_classic_series(
    tmp_path: Path, value: str, expected: str | None
) -> None:
    (series,) = scan_series(make_classic_series(ContrastBolusAgent=value), tmp_path)
    assert series.attributes.contrast_agent == expected


def test_contrast_agent_as_ingredient_and_in_sequences(tmp_path: Path) -> None:
    (series,) = scan_series(
        make_classic_series(ContrastBolusIngredient="GADOLINIUM"), tmp_path / "a"
    )
    assert series.attributes.contrast_agent == "GADOLINIUM"
    image = make_enhanced(contrast_agent="Gadolinium compound")
    (series,) = scan_series([image], tmp_path / "b")
    assert series.attributes.contrast_agent == "Gadolinium compound"
    classic = make_classic_series()
    for dataset in classic:
        dataset.ContrastBolusAgentSequence = image.ContrastBolusAgentSequence
    (series,) = scan_series(classic, tmp_path / "c")
    assert series.attributes.contrast_agent == "Gadolinium compound"


def test_text_is_decoded_in_the_character_set_of_the_file(tmp_path: Path) -> None:
    datasets = make_classic_series(
        SpecificCharacterSet="ISO_IR 192", SeriesDescription="Schädel T2 dunkle Flüssigkeit ł"
    )
    (series,) = scan_series(datasets, tmp_path)
    assert series.attributes.series_description == "Schädel T2 dunkle Flüssigkeit ł"


def test_invalid_numbers_count_as_absent(tmp_path: Path) -> None:
    datasets = make_classic_series()
    paths = write_files(datasets, tmp_path)
    for path in paths:
        data = path.read_bytes()
        at = data.index(b"\x18\x00\x81\x00DS")
        path.write_bytes(data[: at + 8] + b"x?" + data[at + 10 :])
    (series,) = scan_folder(tmp_path).studies[0].series
    assert series.attributes.echo_time_ms is None

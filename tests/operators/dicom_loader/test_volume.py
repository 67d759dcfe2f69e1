"""Volumes: right voxels at right places in patient millimetres, and bad pixels refused."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import InputError
from operators.geometry import to_sitk
from operators.messages import Series, SeriesProblem
from tests.operators.dicom_loader.builders import (
    FrameSpec,
    Grid,
    make_classic_series,
    make_enhanced,
    write_files,
)

PLANES = ["axial", "sagittal", "coronal"]


def first_series(folder: Path) -> Series:
    return scan_folder(folder).studies[0].series[0]


def assert_matches(volume: hd.Volume, grid: Grid, expected: np.ndarray) -> None:
    """Every voxel of the grid is in the volume at its place in millimetres with its value."""
    assert volume.array.shape == expected.shape
    assert volume.array.dtype == np.float32
    indices = np.argwhere(np.ones(grid.shape, bool))
    points = np.array([grid.point(*index) for index in indices])
    own = volume.map_reference_to_indices(points)
    rounded = np.rint(own).astype(int)
    assert np.abs(own - rounded).max() < 1e-3
    found = volume.array[tuple(rounded.T)]
    np.testing.assert_allclose(found, expected[tuple(indices.T)], rtol=1e-6)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("vendor", ["siemens", "ge", "philips"])
def test_classic_series(tmp_path: Path, plane: str, vendor: str) -> None:
    grid = Grid(plane=plane)
    datasets = make_classic_series(grid, vendor=vendor)
    order = np.random.default_rng(2).permutation(len(datasets))
    write_files([datasets[index] for index in order], tmp_path)
    series = first_series(tmp_path)
    volume, headers = read_volume(series)
    assert_matches(volume, grid, grid.pixels().astype(float))
    assert volume.frame_of_reference_uid == datasets[0].FrameOfReferenceUID
    assert len(headers) == 7
    for index, header in enumerate(headers):
        assert "PixelData" not in header
        position = volume.map_indices_to_reference(np.array([[float(index), 0, 0]]))[0]
        np.testing.assert_allclose(position, header.ImagePositionPatient, atol=1e-6)
        assert header.SOPInstanceUID == series.instances[index].sop_instance_uid
    assert str(headers[0].PatientName) == "Sørensen^Åse"


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("tilt", [(0, 0, 0), (11, -5, 3), (-24, 16, 8)])
def test_agrees_with_an_independent_reader(
    tmp_path: Path, plane: str, tilt: tuple[float, float, float]
) -> None:
    """SimpleITK's reader (GDCM), compared point by point in millimetres."""
    grid = Grid(plane=plane, tilt_deg=tilt)
    write_files(make_classic_series(grid, slope=2.0, intercept=-3.0), tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    other = sitk.Cast(sitk.ReadImage(names), sitk.sitkFloat32)
    volume, _ = read_volume(first_series(tmp_path))
    ours = sitk.Resample(to_sitk(volume), other, sitk.Transform(), sitk.sitkNearestNeighbor, -1e6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(other))
    assert np.prod(volume.array.shape) == np.prod(other.GetSize())


def test_rescale_differs_by_slice(tmp_path: Path) -> None:
    """Philips writes another slope and intercept for each slice."""
    grid = Grid()
    slopes, intercepts = 0.5 + np.arange(7) / 3, np.arange(7) * 10.0
    datasets = make_classic_series(grid, vendor="philips", slope=slopes, intercept=intercepts)
    for dataset in datasets:
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.0123)
    write_files(datasets, tmp_path)
    volume, _ = read_volume(first_series(tmp_path))
    expected = grid.pixels() * slopes[:, None, None] + intercepts[:, None, None]
    assert_matches(volume, grid, expected)


def test_real_world_value_map_is_not_applied(tmp_path: Path) -> None:
    grid = Grid()
    datasets = make_classic_series(grid)
    for dataset in datasets:
        mapping = Dataset()
        mapping.RealWorldValueFirstValueMapped = 0
        mapping.RealWorldValueLastValueMapped = 65535
        mapping.RealWorldValueIntercept = 7.0
        mapping.RealWorldValueSlope = 100.0
        mapping.LUTLabel = "X"
        dataset.RealWorldValueMappingSequence = [mapping]
    write_files(datasets, tmp_path)
    volume, _ = read_volume(first_series(tmp_path))
    assert_matches(volume, grid, grid.pixels().astype(float))


def test_signed_pixels(tmp_path: Path) -> None:
    grid = Grid()
    pixels = grid.pixels().astype(np.int16) - 400
    write_files(make_classic_series(grid, pixels=pixels), tmp_path)
    volume, _ = read_volume(first_series(tmp_path))
    assert_matches(volume, grid, pixels.astype(float))


def test_one_echo_of_two_is_read(tmp_path: Path) -> None:
    grid = Grid()
    uids = {"study_uid": "1.2", "series_uid": "1.2.3", "frame_of_reference_uid": "1.2.4"}
    for echo, seed in ((1, 5), (2, 6)):
        datasets = make_classic_series(
            grid, pixels=grid.pixels(seed), **uids, EchoNumbers=echo, EchoTime=str(12 * echo)
        )
        write_files(datasets, tmp_path, stem=f"echo{echo}")
    _, second = scan_folder(tmp_path).studies[0].series
    assert second.stack == "echo 2"
    volume, headers = read_volume(second)
    assert_matches(volume, grid, grid.pixels(6).astype(float))
    assert {header.EchoNumbers for header in headers} == {2}


# --- Enhanced MR ------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_shuffled_enhanced_image(tmp_path: Path, plane: str, legacy: bool) -> None:
    grid = Grid(plane=plane)
    order = [4, 6, 0, 5, 2, 1, 3]
    frames = [FrameSpec(i, slope=1 + i / 3, intercept=float(i)) for i in order]
    write_files([make_enhanced(grid, frames=frames, legacy=legacy)], tmp_path)
    volume, headers = read_volume(first_series(tmp_path))
    weights = np.arange(7)[:, None, None]
    assert_matches(volume, grid, grid.pixels() * (1 + weights / 3) + weights)
    assert len(headers) == 1
    assert "PixelData" not in headers[0]
    assert len(headers[0].PerFrameFunctionalGroupsSequence) == 7


def test_one_stack_of_an_enhanced_image(tmp_path: Path) -> None:
    grid = Grid()
    frames = [
        FrameSpec(index, echo_time_ms=te, temporal_index=time)
        for index in range(7)
        for te in (12.0, 96.0)
        for time in (1, 2)
    ]
    volumes = {(te, time): grid.pixels(int(te) + time) for te in (12.0, 96.0) for time in (1, 2)}
    pixels = np.stack([volumes[f.echo_time_ms, f.temporal_index][f.slice_index] for f in frames])
    write_files([make_enhanced(grid, frames=frames, pixels=pixels)], tmp_path)
    series = scan_folder(tmp_path).studies[0].series
    assert len(series) == 4
    for one in series:
        time = int(one.stack[-1])
        volume, _ = read_volume(one)
        assert_matches(volume, grid, volumes[one.attributes.echo_time_ms, time].astype(float))


def test_xa30_agrees_with_highdicom_and_its_own_positions(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "xa30_enhanced_mr"
    series = first_series(folder)
    volume, (header,) = read_volume(series)
    reference = hd.imread(series.instances[0].path).get_volume(apply_real_world_transform=False)
    np.testing.assert_allclose(volume.affine, reference.affine, atol=1e-4)
    np.testing.assert_array_equal(volume.array, reference.array)
    assert volume.array.std() > 10
    pixels = dcmread(series.instances[0].path).pixel_array
    groups = header.PerFrameFunctionalGroupsSequence
    for number in (0, 40, 95):
        position = groups[number].PlanePositionSequence[0].ImagePositionPatient
        index = volume.map_reference_to_indices(np.array([[float(v) for v in position]]))[0]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-3)
        np.testing.assert_array_equal(volume.array[round(index[0])], pixels[number])


def test_real_dcmqi_images_agree_with_an_independent_reader(
    shared_data: Path, tmp_path: Path
) -> None:
    """Real CT slices, relabelled MR since this loader takes nothing else."""
    source = shared_data / "dicom" / "dcmqi" / "data" / "segmentations" / "ct-3slice"
    datasets = [dcmread(path) for path in sorted(source.glob("*.dcm"))]
    for dataset in datasets:
        dataset.Modality = "MR"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    write_files(datasets, tmp_path)
    volume, _ = read_volume(first_series(tmp_path))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    other = sitk.Cast(sitk.ReadImage(names), sitk.sitkFloat32)
    ours = sitk.Resample(to_sitk(volume), other, sitk.Transform(), sitk.sitkNearestNeighbor, -1e6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(other))


# --- encodings --------------------------------------------------------------------------------

LARGE = Grid(shape=(4, 48, 40))


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
@pytest.mark.parametrize("enhanced", [False, True])
def test_compressed_by_pydicom(tmp_path: Path, syntax: str, enhanced: bool) -> None:
    frames = [FrameSpec(index) for index in (2, 0, 3, 1)]
    datasets = (
        [make_enhanced(LARGE, frames=frames)] if enhanced else make_classic_series(LARGE, slope=2.0)
    )
    for dataset in datasets:
        dataset.compress(syntax, generate_instance_uid=False)
    write_files(datasets, tmp_path)
    volume, headers = read_volume(first_series(tmp_path))
    assert headers[0].file_meta.TransferSyntaxUID == syntax
    assert_matches(volume, LARGE, LARGE.pixels() * (1.0 if enhanced else 2.0))


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("dcmcjpeg", ["+e1"]),
        ("dcmcjpeg", ["+el"]),
        ("dcmcjpls", []),
        ("dcmcrle", []),
    ],
)
def test_compressed_by_dcmtk(
    tmp_path: Path, need_tool: Callable[[str], str], tool: str, options: list[str]
) -> None:
    program = need_tool(tool)
    (tmp_path / "out").mkdir()
    for path in write_files(make_classic_series(LARGE), tmp_path / "in"):
        target = tmp_path / "out" / path.name
        subprocess.run([program, *options, path, target], check=True, capture_output=True)
    volume, headers = read_volume(first_series(tmp_path / "out"))
    assert headers[0].file_meta.TransferSyntaxUID.is_compressed
    assert_matches(volume, LARGE, LARGE.pixels().astype(float))


def test_lossy_baseline_jpeg_is_read_within_its_loss(tmp_path: Path) -> None:
    slices, rows, columns = np.mgrid[0:4, 0:48, 0:40]
    smooth = (rows * 2 + columns + 10 * slices).astype(np.uint8)
    datasets = make_classic_series(LARGE, pixels=smooth.astype(np.uint16))
    for dataset, plane in zip(datasets, smooth, strict=True):
        stream = io.BytesIO()
        Image.fromarray(plane).save(stream, "JPEG", quality=95)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    write_files(datasets, tmp_path)
    volume, _ = read_volume(first_series(tmp_path))
    assert np.abs(volume.array[::-1] - smooth).max() <= 4


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_native_encodings(tmp_path: Path, syntax: str) -> None:
    grid = Grid()
    big = syntax == ExplicitVRBigEndian
    for number, dataset in enumerate(make_classic_series(grid)):
        bare = Dataset()
        bare.update(dataset)
        bare.file_meta = dataset.file_meta
        bare.file_meta.TransferSyntaxUID = syntax
        if big:
            bare.PixelData = np.frombuffer(bare.PixelData, "<u2").astype(">u2").tobytes()
        dcmwrite(tmp_path / str(number), bare, enforce_file_format=True)
    volume, _ = read_volume(first_series(tmp_path))
    assert_matches(volume, grid, grid.pixels().astype(float))


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_meta_information(tmp_path: Path, implicit: bool) -> None:
    grid = Grid()
    for number, dataset in enumerate(make_classic_series(grid)):
        bare = Dataset()
        bare.update(dataset)
        bare.save_as(tmp_path / str(number), implicit_vr=implicit, little_endian=True)
    volume, _ = read_volume(first_series(tmp_path))
    assert_matches(volume, grid, grid.pixels().astype(float))


# --- refused ----------------------------------------------------------------------------------


def test_fatal_problem_is_named_with_series_rule_and_remedy(tmp_path: Path) -> None:
    datasets = make_classic_series()
    del datasets[3]
    write_files(datasets, tmp_path)
    with pytest.raises(InputError) as caught:
        read_volume(first_series(tmp_path))
    assert caught.value.subject == "series 4"
    assert "rule missing_slices" in caught.value.rule
    assert caught.value.remedy.startswith("Export")


def test_warning_does_not_stop_the_reading(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path)
    series = replace(first_series(tmp_path), problems=(SeriesProblem("x", "y", fatal=False),))
    assert read_volume(series)[0].array.shape == (7, 12, 10)


@pytest.mark.parametrize("value", [0, 12])
def test_constant_pixels(tmp_path: Path, value: int) -> None:
    pixels = np.full(Grid().shape, value, np.uint16)
    write_files(make_classic_series(pixels=pixels), tmp_path / "a")
    write_files([make_enhanced(pixels=pixels)], tmp_path / "b")
    for folder in ("a", "b"):
        with pytest.raises(InputError, match="same value") as caught:
            read_volume(first_series(tmp_path / folder))
        assert caught.value.subject == "series 4"


@pytest.mark.parametrize("slope", ["0", "-1", "nan", "inf", "1e30", "1e-30"])
def test_wrong_rescale_slope(tmp_path: Path, slope: str) -> None:
    datasets = make_classic_series(slope=1.0)
    datasets[4].RescaleSlope = slope
    write_files(datasets, tmp_path)
    with pytest.raises(InputError, match="rescale slope") as caught:
        read_volume(first_series(tmp_path))
    assert caught.value.subject == "file im_0005 of series 4"


@pytest.mark.parametrize("intercept", ["nan", "1e30"])
def test_wrong_rescale_intercept(tmp_path: Path, intercept: str) -> None:
    datasets = make_classic_series(slope=1.0)
    datasets[4].RescaleIntercept = intercept
    write_files(datasets, tmp_path)
    with pytest.raises(InputError, match="rescale intercept"):
        read_volume(first_series(tmp_path))


def test_wrong_rescale_of_one_enhanced_frame(tmp_path: Path) -> None:
    frames = [FrameSpec(index, slope=0.0 if index == 3 else 1.0) for index in range(7)]
    write_files([make_enhanced(frames=frames)], tmp_path)
    with pytest.raises(InputError, match="rescale slope is 0"):
        read_volume(first_series(tmp_path))


def test_float_pixels_that_are_not_numbers(tmp_path: Path) -> None:
    pixels = np.full(Grid().shape, np.nan, np.float32)
    datasets = make_classic_series()
    for dataset, plane in zip(datasets, pixels, strict=True):
        del dataset.PixelData
        dataset.BitsAllocated = 32
        dataset.FloatPixelData = plane.tobytes()
    write_files(datasets, tmp_path)
    with pytest.raises(InputError, match="not finite"):
        read_volume(first_series(tmp_path))


def test_image_without_pixel_data(tmp_path: Path) -> None:
    datasets = make_classic_series()
    del datasets[2].PixelData
    write_files(datasets, tmp_path)
    with pytest.raises(InputError, match="cannot be decoded") as caught:
        read_volume(first_series(tmp_path))
    assert caught.value.subject == "file im_0003 of series 4"


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("damage", ["cut", "unknown syntax", "noise"])
def test_damaged_compressed_pixels_name_their_file(
    tmp_path: Path, enhanced: bool, damage: str
) -> None:
    datasets = [make_enhanced(LARGE)] if enhanced else make_classic_series(LARGE)
    for dataset in datasets:
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    broken = datasets[-1]
    if damage == "unknown syntax":
        broken.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    paths = write_files(datasets, tmp_path)
    data = paths[-1].read_bytes()
    if damage == "cut":
        paths[-1].write_bytes(data[:-1200])
    elif damage == "noise":
        start = data.index(b"\xff\x4f\xff\x51") + 2
        paths[-1].write_bytes(data[:start] + bytes(200) + data[start + 200 :])
    with pytest.raises(InputError) as caught:
        read_volume(first_series(tmp_path))
    assert paths[-1].name in str(caught.value)


def test_truncated_native_pixels_name_their_file(tmp_path: Path) -> None:
    paths = write_files(make_classic_series(), tmp_path)
    paths[5].write_bytes(paths[5].read_bytes()[:-50])
    with pytest.raises(InputError, match="im_0006 is truncated"):
        read_volume(first_series(tmp_path))


def test_file_that_is_cut_after_the_scan_is_named(tmp_path: Path) -> None:
    paths = write_files(make_classic_series(), tmp_path)
    series = first_series(tmp_path)
    paths[5].write_bytes(paths[5].read_bytes()[:-50])
    with pytest.raises(InputError) as caught:
        read_volume(series)
    assert caught.value.subject == "file im_0006 of series 4"

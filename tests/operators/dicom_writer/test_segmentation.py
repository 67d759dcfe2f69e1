"""The SEG equals the lesion mask in patient millimetres, however the FLAIR is stored."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom import DataElement, Dataset, config, dcmread
from pydicom.sequence import Sequence as DicomSequence
from scipy.spatial import cKDTree

from operators import version
from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.common import OutputContext, save
from operators.dicom_writer.segmentation import EMPTY_LABEL, build_segmentation
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.messages import FollowUp, InstanceRef, Lesion
from tests.operators.dicom_writer.validators import entity_errors, object_errors, run
from tests.operators.followup_example import make_follow_up


def with_flair(follow_up: FollowUp, **changes: object) -> FollowUp:
    """The same result with another current FLAIR."""
    probabilities = follow_up.probabilities
    aligned = probabilities.aligned
    current = aligned.selected.current
    flair = replace(current.series["flair"], **changes)
    current = replace(current, series={**current.series, "flair": flair})
    selected = replace(aligned.selected, current=current)
    aligned = replace(
        aligned, selected=selected, current=replace(aligned.current, selected=current)
    )
    return replace(follow_up, probabilities=replace(probabilities, aligned=aligned))


def mask_points(follow_up: FollowUp, number: int) -> np.ndarray:
    """LPS millimetres (n, 3) of the centres of a lesion's voxels."""
    indices = np.argwhere(follow_up.labels.array == number)
    return indices @ follow_up.labels.affine[:3, :3].T + follow_up.labels.affine[:3, 3]


def mask_volume_ml(follow_up: FollowUp, lesion: Lesion) -> float:
    voxels = int((follow_up.labels.array == lesion.segment_number).sum())
    return voxels * float(np.prod(follow_up.labels.spacing)) / 1000.0


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("classic"))


@pytest.fixture(scope="module")
def enhanced(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("enhanced"), enhanced=True)


@pytest.fixture(params=["classic", "enhanced"])
def follow_up(request: pytest.FixtureRequest) -> FollowUp:
    found: FollowUp = request.getfixturevalue(request.param)
    return found


def compare_with_dcmqi(follow_up: FollowUp, path: Path, out: Path, dcmqi: str) -> None:
    """Every voxel of every segment as dcmqi reads it is one of the mask, and there is no other."""
    out.mkdir()
    said = run(
        dcmqi, "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nrrd",
        "--prefix", "s",
    )  # fmt: skip
    present = [lesion for lesion in follow_up.lesions if lesion.segment_number is not None]
    assert len(list(out.glob("s-*.nrrd"))) == len(present), said
    spacing_mm = sorted(follow_up.labels.spacing)
    for lesion in present:
        image = sitk.ReadImage(str(out / f"s-{lesion.segment_number}.nrrd"))
        assert sorted(image.GetSpacing()) == pytest.approx(spacing_mm, abs=1e-4)
        indices = np.argwhere(sitk.GetArrayViewFromImage(image) > 0)[:, ::-1]
        points = np.array(
            [image.TransformIndexToPhysicalPoint([int(i) for i in index]) for index in indices]
        )
        expected = mask_points(follow_up, lesion.segment_number)
        assert len(points) == len(expected)
        distance_mm, nearest = cKDTree(expected).query(points)
        assert distance_mm.max() < 0.01
        assert len(set(nearest)) == len(expected)
        volume_ml = len(points) * float(np.prod(image.GetSpacing())) / 1000.0
        assert volume_ml == pytest.approx(mask_volume_ml(follow_up, lesion), rel=1e-4)


def test_dcmqi_reads_back_every_voxel_in_millimetres(
    follow_up: FollowUp, tmp_path: Path, dcmqi: str
) -> None:
    path = save(build_segmentation(OutputContext(follow_up)), tmp_path / "seg.dcm")
    compare_with_dcmqi(follow_up, path, tmp_path / "dcmqi", dcmqi)


def test_highdicom_reads_back_the_mask_on_the_flair_grid(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    path = save(build_segmentation(OutputContext(follow_up)), tmp_path / "seg.dcm")
    flair = follow_up.probabilities.aligned.selected.current.series["flair"].volume
    read = hd.seg.segread(path).get_volume(combine_segments=True)
    assert read.frame_of_reference_uid == flair.frame_of_reference_uid
    on_flair = read.match_geometry(flair)
    np.testing.assert_array_equal(on_flair.array, follow_up.labels.array)


def test_frames_lie_on_flair_planes_hold_lesion_and_name_their_source(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    path = save(build_segmentation(OutputContext(follow_up)), tmp_path / "seg.dcm")
    dataset = dcmread(path)
    series = follow_up.probabilities.aligned.selected.current.series["flair"]
    assert dataset.pixel_array.reshape(dataset.NumberOfFrames, -1).any(axis=1).all()
    by_uid = {}
    for ref in series.series.instances:
        header = dcmread(ref.path, stop_before_pixels=True)
        by_uid[ref.sop_instance_uid] = header
    assert {
        item.ReferencedSOPInstanceUID
        for item in dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    } == set(by_uid)
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        header = by_uid[source.ReferencedSOPInstanceUID]
        if series.series.frame_numbers is None:
            expected = header.ImagePositionPatient
        else:
            assert source.ReferencedFrameNumber in series.series.frame_numbers
            expected = (
                header.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
                .PlanePositionSequence[0]
                .ImagePositionPatient
            )
        assert list(position) == list(expected)


def test_each_present_lesion_is_described(follow_up: FollowUp) -> None:
    segmentation = build_segmentation(OutputContext(follow_up))
    present = [lesion for lesion in follow_up.lesions if lesion.segment_number is not None]
    assert len(present) < len(follow_up.lesions)
    assert len(segmentation.SegmentSequence) == len(present)
    for lesion, item in zip(present, segmentation.SegmentSequence, strict=True):
        assert item.SegmentNumber == lesion.segment_number
        assert (item.TrackingID, item.TrackingUID) == (lesion.tracking_id, lesion.tracking_uid)
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (
            version.NAME,
            version.VERSION,
        )
        assert follow_up.probabilities.current.model.sha256 in algorithm.AlgorithmParameters
        assert lesion.change in item.SegmentDescription
        colour = hd.color.CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue)
        np.testing.assert_allclose(colour.to_rgb(), CHANGE_COLOURS[lesion.change], atol=2)


def test_no_lesion_gives_one_empty_untracked_segment_over_the_whole_volume(
    tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    follow_up = make_follow_up(tmp_path, empty=True)
    path = save(build_segmentation(OutputContext(follow_up)), tmp_path / "seg.dcm")
    dataset = dcmread(path)
    (segment,) = dataset.SegmentSequence
    assert segment.SegmentLabel == EMPTY_LABEL
    assert "TrackingUID" not in segment
    assert dataset.NumberOfFrames == follow_up.labels.spatial_shape[0]
    assert not dataset.pixel_array.any()
    assert object_errors(need_tool("dciodvfy"), path) == []


def test_labelmap_is_smaller_and_holds_the_same_mask(classic: FollowUp, tmp_path: Path) -> None:
    binary = save(build_segmentation(OutputContext(classic)), tmp_path / "binary.dcm")
    context = OutputContext(classic, DICOMWriterSettings(segmentation_type="LABELMAP"))
    labelmap = save(build_segmentation(context), tmp_path / "labelmap.dcm")
    read = hd.seg.segread(labelmap).get_volume(combine_segments=True)
    np.testing.assert_array_equal(read.match_geometry(classic.labels).array, classic.labels.array)
    assert labelmap.stat().st_size < binary.stat().st_size


def test_headers_that_vary_within_the_series_do_not_stop_the_writer(
    classic: FollowUp, tmp_path: Path
) -> None:
    """As scanners write them: the orientation's last digits differ from slice to slice, Spacing
    Between Slices holds the gap, and attributes that must be present are not."""
    headers = []
    flair = classic.probabilities.aligned.selected.current.series["flair"]
    for index, header in enumerate(flair.headers):
        changed = deepcopy(header)
        orientation = [float(value) for value in header.ImageOrientationPatient]
        orientation[0] += 1e-6 * (index % 3)
        changed.ImageOrientationPatient = [f"{value:.8f}" for value in orientation]
        changed.SpacingBetweenSlices = "0.4"
        for keyword in ("AccessionNumber", "StudyID", "PatientSex", "SliceThickness"):
            del changed[keyword]
        changed.add(DataElement(0x00101010, "AS", "forty", validation_mode=config.IGNORE))
        headers.append(changed)
    changed_up = with_flair(classic, headers=tuple(headers))
    path = save(build_segmentation(OutputContext(changed_up)), tmp_path / "seg.dcm")
    dataset = dcmread(path)
    assert dataset.AccessionNumber == ""
    assert "PatientAge" not in dataset
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(flair.volume.spacing[0])
    read = hd.seg.segread(path).get_volume(combine_segments=True)
    np.testing.assert_array_equal(
        read.match_geometry(classic.labels, tol=1e-3).array, classic.labels.array
    )


def test_the_source_headers_are_not_changed(follow_up: FollowUp) -> None:
    flair = follow_up.probabilities.aligned.selected.current.series["flair"]
    headers = deepcopy(flair.headers)
    headers[0].SpacingBetweenSlices = "0.4"
    before = deepcopy(headers)
    build_segmentation(OutputContext(with_flair(follow_up, headers=headers)))
    assert headers == before


def test_orientation_given_with_every_frame_is_understood(
    enhanced: FollowUp, tmp_path: Path
) -> None:
    """Some vendors put orientation and pixel measures into the per-frame functional groups."""
    flair = enhanced.probabilities.aligned.selected.current.series["flair"]
    header = Dataset()
    header.update(flair.headers[0])
    shared = Dataset()
    shared.update(header.SharedFunctionalGroupsSequence[0])
    frames = []
    for frame in header.PerFrameFunctionalGroupsSequence:
        own = Dataset()
        own.update(frame)
        own.PlaneOrientationSequence = shared.PlaneOrientationSequence
        own.PixelMeasuresSequence = shared.PixelMeasuresSequence
        frames.append(own)
    del shared.PlaneOrientationSequence, shared.PixelMeasuresSequence
    header.SharedFunctionalGroupsSequence = DicomSequence([shared])
    header.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    changed = with_flair(enhanced, headers=(header,))
    path = save(build_segmentation(OutputContext(changed)), tmp_path / "seg.dcm")
    read = hd.seg.segread(path).get_volume(combine_segments=True)
    np.testing.assert_array_equal(read.match_geometry(enhanced.labels).array, enhanced.labels.array)


def test_a_mask_that_does_not_belong_to_the_lesions_is_refused(classic: FollowUp) -> None:
    array = classic.labels.array.copy()
    array[array == 3] = 0
    with pytest.raises(ValueError, match="different segments"):
        build_segmentation(OutputContext(replace(classic, labels=classic.labels.with_array(array))))
    shifted = classic.labels.affine.copy()
    shifted[:3, 3] += 1.0
    moved = hd.Volume(classic.labels.array, shifted, coordinate_system="PATIENT")
    with pytest.raises(ValueError, match="grid"):
        build_segmentation(OutputContext(replace(classic, labels=moved)))


def test_a_header_of_another_slice_is_refused(classic: FollowUp) -> None:
    flair = classic.probabilities.aligned.selected.current.series["flair"]
    swapped = with_flair(classic, headers=flair.headers[::-1])
    with pytest.raises(ValueError, match="position"):
        build_segmentation(OutputContext(swapped))


def test_a_real_enhanced_mr_image_of_a_scanner(
    classic: FollowUp,
    tmp_path: Path,
    shared_data: Path,
    dcmqi: str,
    need_tool: Callable[[str], str],
) -> None:
    """Siemens XA30: sagittal, orientation with every frame, frames in the scanner's own order."""
    (source,) = (shared_data / "dicom" / "xa30_enhanced_mr").rglob("*.dcm")
    header = dcmread(source, stop_before_pixels=True)
    volume = hd.imread(source).get_volume()
    follow_up = classic
    random = np.random.default_rng(20)
    labels = np.zeros(volume.spatial_shape, dtype=np.uint16)
    for number in range(1, follow_up.totals.lesion_count + 1):
        middle = [int(random.integers(10, size - 10)) for size in volume.spatial_shape]
        i, j, k = middle
        labels[i - 2 : i + 3, j - 4 : j + 2, k - 3 : k + 5] = number
    assert len(np.unique(labels)) == follow_up.totals.lesion_count + 1
    series = replace(
        follow_up.probabilities.aligned.selected.current.series["flair"].series,
        series_uid=header.SeriesInstanceUID,
        study_uid=header.StudyInstanceUID,
        frame_of_reference_uid=header.FrameOfReferenceUID,
        instances=(InstanceRef(source, header.SOPInstanceUID, header.SOPClassUID),),
    )
    follow_up = replace(follow_up, labels=volume.with_array(labels))
    follow_up = with_flair(follow_up, volume=volume, headers=(header,), series=series)
    path = save(build_segmentation(OutputContext(follow_up)), tmp_path / "seg.dcm")
    assert object_errors(need_tool("dciodvfy"), path) == []
    assert entity_errors(need_tool("dcentvfy"), [path, source]) == []
    read = hd.seg.segread(path).get_volume(combine_segments=True)
    np.testing.assert_array_equal(read.match_geometry(volume, tol=1e-2).array, labels)
    compare_with_dcmqi(follow_up, path, tmp_path / "dcmqi", dcmqi)


def test_a_flair_without_frame_of_reference_gets_one_for_the_run(
    classic: FollowUp, tmp_path: Path
) -> None:
    flair = classic.probabilities.aligned.selected.current.series["flair"]
    headers = []
    for header in flair.headers:
        changed = Dataset()
        changed.update(header)
        del changed.FrameOfReferenceUID
        headers.append(changed)
    series = replace(flair.series, frame_of_reference_uid=None)
    without = with_flair(classic, headers=tuple(headers), series=series)
    context = OutputContext(without)
    path = save(build_segmentation(context), tmp_path / "seg.dcm")
    assert dcmread(path).FrameOfReferenceUID == context.frame_of_reference_uid
    read = hd.seg.segread(path).get_volume(combine_segments=True)
    assert read.frame_of_reference_uid == context.frame_of_reference_uid
    np.testing.assert_array_equal(
        read.match_geometry(
            hd.Volume(classic.labels.array, classic.labels.affine, coordinate_system="PATIENT")
        ).array,
        classic.labels.array,
    )


def test_frames_keep_the_positions_of_a_slightly_uneven_series(
    classic: FollowUp, tmp_path: Path
) -> None:
    """Rounded positions leave slices a little off the volume's grid; viewers lay a segment over
    the image at its very position, so that one is written."""
    flair = classic.probabilities.aligned.selected.current.series["flair"]
    headers = []
    for index, header in enumerate(flair.headers):
        changed = deepcopy(header)
        position = [float(value) for value in header.ImagePositionPatient]
        position[2] += 0.02 * (index % 2)
        changed.ImagePositionPatient = [f"{value:.3f}" for value in position]
        headers.append(changed)
    uneven = with_flair(classic, headers=tuple(headers))
    dataset = dcmread(save(build_segmentation(OutputContext(uneven)), tmp_path / "seg.dcm"))
    stated = {tuple(header.ImagePositionPatient) for header in headers}
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        assert tuple(frame.PlanePositionSequence[0].ImagePositionPatient) in stated
    assert dataset.pixel_array.sum() == (classic.labels.array > 0).sum()

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from operators.longitudinal_comparator.earlier_objects import (
    Identity,
    identities_from,
    read_tracked_segmentation,
)
from operators.longitudinal_comparator.identity import (
    newest_tracked_segmentation,
    next_number,
)
from operators.messages import FOUND_BY_COMPARISON, InstanceRef
from tests.operators.longitudinal_comparator.scenes import (
    CURRENT_GRID,
    MOTION,
    PRIOR_GRID,
    flair_of,
    follow,
    prior_alone,
    probability,
)

A = ((-12.0, -20.0, 12.0), 4.5)
B = ((14.0, -2.0, 30.0), 4.0)
C = ((-8.0, 8.0, 34.0), 5.0)
# slices are the prior grid's last axis; SEG volumes have them first
SLICES_FIRST = PRIOR_GRID.permute_spatial_axes([2, 1, 0])


def _sources() -> list[Dataset]:
    """Headers of an MR series on the prior's grid."""
    series, study = generate_uid(), generate_uid()
    images = []
    rows, columns = SLICES_FIRST.spatial_shape[1:]
    for k in range(SLICES_FIRST.spatial_shape[0]):
        image = Dataset()
        image.file_meta = Dataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, generate_uid()
        image.StudyInstanceUID, image.SeriesInstanceUID = study, series
        image.FrameOfReferenceUID = SLICES_FIRST.frame_of_reference_uid
        image.PatientID, image.PatientName = "x", "x"
        image.PatientBirthDate, image.PatientSex = "", ""
        image.StudyDate, image.StudyTime = date(2024, 1, 1), "120000"
        image.StudyID, image.AccessionNumber, image.ReferringPhysicianName = "1", "", ""
        image.Modality, image.SeriesNumber, image.InstanceNumber = "MR", 1, k + 1
        image.Rows, image.Columns = rows, columns
        image.PixelSpacing = [float(s) for s in SLICES_FIRST.spacing[1:]]
        image.SliceThickness = float(SLICES_FIRST.spacing[0])
        image.SpacingBetweenSlices = float(SLICES_FIRST.spacing[0])
        directions = np.asarray(SLICES_FIRST.direction)
        image.ImageOrientationPatient = [*directions[:, 2], *directions[:, 1]]
        image.ImagePositionPatient = list((SLICES_FIRST.affine @ (k, 0, 0, 1))[:3])
        images.append(image)
    return images


def _write_seg(
    path: Path,
    masks: list[np.ndarray],
    names: list[tuple[str, str] | None],
    compared: Sequence[int] = (),
) -> InstanceRef:
    """Write masks (prior grid) as a BINARY SEG; empty frames are left out.

    The segments ``compared`` (from 0) say that a comparison found them.
    """
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"Lesion {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name="MS Lesion Follow-up",
                family=codes.cid7162.ArtificialIntelligence,
                version="0",
            ),
            **({} if one is None else {"tracking_uid": one[0], "tracking_id": one[1]}),
        )
        for number, one in enumerate(names, start=1)
    ]
    for n in compared:
        descriptions[n].SegmentDescription = f"new, 0.1 ml, {FOUND_BY_COMPARISON}"
    stacked = np.stack([mask.transpose(2, 1, 0) for mask in masks], axis=-1).astype(np.uint8)
    volume = hd.Volume(
        stacked,
        affine=SLICES_FIRST.affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=SLICES_FIRST.frame_of_reference_uid,
        channels={hd.ChannelDescriptor("SegmentNumber"): list(range(1, len(masks) + 1))},
    )
    segmentation = hd.seg.Segmentation(
        source_images=_sources(),
        pixel_array=volume,
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="MS Lesion Follow-up",
        software_versions="0",
        device_serial_number="1",
    )
    segmentation.save_as(path)
    return InstanceRef(path, segmentation.SOPInstanceUID, segmentation.SOPClassUID)


def _mask(ball) -> np.ndarray:
    return probability(PRIOR_GRID, [ball], MOTION).probability.array >= 0.5


@pytest.fixture(scope="module")
def seg(tmp_path_factory: pytest.TempPathFactory) -> InstanceRef:
    """B and A, in this order and with names from elsewhere; C is not in it."""
    path = tmp_path_factory.mktemp("seg") / "seg.dcm"
    return _write_seg(
        path, [_mask(B), _mask(A)], [("1.2.999.1", "Lesion 12"), ("1.2.999.2", "Lesion 5")]
    )


def test_a_segmentation_is_read_back_in_millimetres(seg: InstanceRef) -> None:
    tracked = read_tracked_segmentation(seg)
    assert [one.tracking_uid for one in tracked.identities] == ["1.2.999.1", "1.2.999.2"]
    affine = np.asarray(tracked.labels.affine)
    for value, ball in ((1, B), (2, A)):
        voxels = np.argwhere(tracked.labels.array == value)
        centre = voxels.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
        np.testing.assert_allclose(centre, MOTION[:3, :3] @ ball[0] + MOTION[:3, 3], atol=0.4)
        assert len(voxels) == _mask(ball).sum()


def test_identities_come_from_the_prior_segmentation(seg: InstanceRef) -> None:
    new = ((0.0, -24.0, 38.0), 3.0)
    result = follow([A, C, new], [A, B, C], prior_segmentations=(seg,))
    named = {lesion.tracking_id: lesion for lesion in result.lesions}
    assert named["Lesion 5"].tracking_uid == "1.2.999.2"
    assert named["Lesion 5"].change == "stable"
    assert named["Lesion 12"].tracking_uid == "1.2.999.1"
    assert named["Lesion 12"].change == "resolved"
    # C has no segment: derived from the prior study, numbered after those that are taken
    assert named["Lesion 13"].change == "stable"
    assert named["Lesion 13"].tracking_uid in {
        lesion.tracking_uid for lesion in prior_alone([A, B, C]).lesions
    }
    assert named["Lesion 14"].change == "new"
    assert result.quality == ()


def test_a_damaged_segmentation_gives_a_warning_and_derived_identities(
    seg: InstanceRef, tmp_path: Path
) -> None:
    broken = InstanceRef(tmp_path / "broken.dcm", "1.2.3.4.5", seg.sop_class_uid)
    broken.path.write_bytes(seg.path.read_bytes()[:1500])
    result = follow([A], [A], prior_segmentations=(broken,))
    assert [(n.code, n.severity) for n in result.quality] == [
        ("prior_segmentation_not_used", "warning")
    ]
    assert "1.2.3.4.5" in result.quality[0].message
    assert result.lesions[0].tracking_uid == prior_alone([A]).lesions[0].tracking_uid
    # the next newest one is used when there is one
    result = follow([A], [A], prior_segmentations=(broken, seg))
    assert result.lesions[0].tracking_uid == "1.2.999.2"
    assert len(result.quality) == 1


def test_a_segmentation_without_tracking_is_not_used(tmp_path: Path) -> None:
    plain = _write_seg(tmp_path / "plain.dcm", [_mask(A)], [None])
    with pytest.raises(ValueError, match="has no tracking UID"):
        read_tracked_segmentation(plain)


def test_a_segmentation_in_another_frame_of_reference_is_not_used(
    seg: InstanceRef, tmp_path: Path
) -> None:
    moved = dcmread(seg.path)
    moved.FrameOfReferenceUID = "1.2.3.999"
    moved.save_as(tmp_path / "moved.dcm")
    elsewhere = InstanceRef(tmp_path / "moved.dcm", seg.sop_instance_uid, seg.sop_class_uid)
    result = follow([A], [A], prior_segmentations=(elsewhere,))
    assert "another frame of reference" in result.quality[0].message
    assert result.lesions[0].tracking_uid == prior_alone([A]).lesions[0].tracking_uid


def test_two_lesions_cannot_take_one_segment(tmp_path: Path) -> None:
    both = _write_seg(tmp_path / "both.dcm", [_mask(A) | _mask(B)], [("1.2.999.7", "Lesion 1")])
    result = follow([A, B], [A, B], prior_segmentations=(both,))
    uids = [lesion.tracking_uid for lesion in result.lesions]
    assert uids.count("1.2.999.7") == 1
    assert len(set(uids)) == 2


@pytest.mark.parametrize(
    ("ids", "expected"), [([], 1), (["Lesion 7", "Lesion 2"], 8), (["x", "y", "z"], 4)]
)
def test_numbers_go_on_after_those_that_are_taken(ids: list[str], expected: int) -> None:
    assert next_number([Identity(str(n), one) for n, one in enumerate(ids)]) == expected


def test_a_segmentation_that_says_no_lesion_gives_no_identities_and_no_warning(
    tmp_path: Path,
) -> None:
    empty = _write_seg(tmp_path / "empty.dcm", [np.zeros_like(_mask(A))], [None])
    tracked, notes = newest_tracked_segmentation([empty], SLICES_FIRST.frame_of_reference_uid)
    assert tracked is not None
    assert tracked.identities == ()
    assert notes == ()
    assert identities_from(tracked, ()) == []


def test_a_lesion_that_an_earlier_comparison_found_is_followed_by_its_segmentation(
    tmp_path: Path,
) -> None:
    """The network finds A in neither study; only the prior's own result knows of it."""
    names = [("1.2.999.2", "Lesion 5"), ("1.2.999.3", "Lesion 6")]
    seg = _write_seg(tmp_path / "seg.dcm", [_mask(A), _mask(B)], [*names], compared=[0])
    shown_now = flair_of(probability(CURRENT_GRID, [A, B]))
    shown_before = flair_of(probability(PRIOR_GRID, [A, B], MOTION))
    result = follow(
        [B], [B], prior_segmentations=(seg,), flair_now=shown_now, flair_before=shown_before
    )
    lesion = next(one for one in result.lesions if one.tracking_uid == "1.2.999.2")
    assert (lesion.tracking_id, lesion.change) == ("Lesion 5", "stable")
    assert lesion.found_by == "comparison"
    assert lesion.volume_ml == pytest.approx(_mask(A).sum() * 1.0 * 1.3 * 2.2 / 1000, rel=0.25)
    (other,) = [one for one in result.lesions if one is not lesion]
    assert (other.tracking_uid, other.found_by) == ("1.2.999.3", "network")

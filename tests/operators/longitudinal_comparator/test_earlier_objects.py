"""What earlier results say is read back; what others wrote or changed is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from operators.dicom_writer.common import OutputContext, save
from operators.dicom_writer.segmentation import build_segmentation
from operators.dicom_writer.structured_report import build_report
from operators.longitudinal_comparator.earlier_objects import (
    TrackedReport,
    TrackedSegmentation,
    read_known,
)
from operators.messages import FollowUp, InstanceRef
from tests.operators.followup_example import make_follow_up


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def written(
    follow_up: FollowUp, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, InstanceRef]:
    """The SEG and the SR of one run."""
    context, folder = OutputContext(follow_up), tmp_path_factory.mktemp("objects")
    segmentation = build_segmentation(context)
    report = build_report(context, segmentation)
    return {
        name: InstanceRef(save(one, folder / name), one.SOPInstanceUID, one.SOPClassUID)
        for name, one in (("seg.dcm", segmentation), ("sr.dcm", report))
    }


@pytest.fixture(scope="module")
def frame(written: dict[str, InstanceRef]) -> str:
    return str(dcmread(written["seg.dcm"].path).FrameOfReferenceUID)


def edited(source: InstanceRef, folder: Path, change: Callable[[Dataset], None]) -> InstanceRef:
    dataset = dcmread(source.path)
    change(dataset)
    path = folder / "edited.dcm"
    dataset.save_as(path)
    return InstanceRef(path, source.sop_instance_uid, source.sop_class_uid)


def test_the_segmentation_names_every_present_lesion(
    follow_up: FollowUp, written: dict[str, InstanceRef], frame: str
) -> None:
    known = read_known(written["seg.dcm"], frame)
    assert isinstance(known, TrackedSegmentation)
    present = [one for one in follow_up.lesions if one.segment_number is not None]
    assert {(one.tracking_uid, one.tracking_id) for one in known.identities} == {
        (one.tracking_uid, one.tracking_id) for one in present
    }
    assert len(known.written) == 20


def test_the_report_alone_says_where_each_lesion_lies(
    follow_up: FollowUp, written: dict[str, InstanceRef], frame: str
) -> None:
    known = read_known(written["sr.dcm"], frame)
    assert isinstance(known, TrackedReport)
    assert known.frame_of_reference_uid == frame
    assert len(known.identities) == len(follow_up.lesions)
    for one, centre, volume in zip(
        known.identities, known.centres_mm, known.volumes_ml, strict=True
    ):
        (lesion,) = [two for two in follow_up.lesions if two.tracking_uid == one.tracking_uid]
        assert one.tracking_id == lesion.tracking_id
        assert volume == pytest.approx(lesion.volume_ml, abs=1e-5)
        if lesion.segment_number is None:
            assert centre is None
        else:
            np.testing.assert_allclose(centre, lesion.centroid_lps_mm, atol=1e-3)


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm"])
def test_what_another_program_wrote_is_not_trusted(
    name: str, written: dict[str, InstanceRef], frame: str, tmp_path: Path
) -> None:
    def sign(dataset: Dataset) -> None:
        dataset.ManufacturerModelName = "Another tool"

    with pytest.raises(ValueError, match="another program"):
        read_known(edited(written[name], tmp_path, sign), frame)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("SegmentAlgorithmType", "MANUAL"), ("SegmentAlgorithmName", "A brush")],
)
def test_a_segment_that_was_edited_is_not_trusted(
    keyword: str, value: str, written: dict[str, InstanceRef], frame: str, tmp_path: Path
) -> None:
    def edit(dataset: Dataset) -> None:
        setattr(dataset.SegmentSequence[-1], keyword, value)

    with pytest.raises(ValueError, match="not outlined by this application"):
        read_known(edited(written["seg.dcm"], tmp_path, edit), frame)


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm"])
def test_another_frame_of_reference_is_not_trusted(
    name: str, written: dict[str, InstanceRef]
) -> None:
    with pytest.raises(ValueError, match="another frame of reference"):
        read_known(written[name], "1.2.3.4")


@pytest.mark.parametrize("name", ["seg.dcm", "sr.dcm"])
@pytest.mark.parametrize("length", [200, 900, 3000])
def test_a_damaged_object_is_not_trusted(
    name: str, length: int, written: dict[str, InstanceRef], frame: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(written[name].path.read_bytes()[:length])
    broken = InstanceRef(path, "1.2", written[name].sop_class_uid)
    with pytest.raises(ValueError) as caught:
        read_known(broken, frame)
    assert "Sørensen" not in str(caught.value)


def test_a_report_without_centres_names_the_lesions_but_places_none(
    written: dict[str, InstanceRef], frame: str, tmp_path: Path
) -> None:
    """As version 0.1.0 wrote it."""

    def strip(dataset: Dataset) -> None:
        def walk(items: list[Dataset]) -> None:
            for item in items:
                if item.get("ContentSequence"):
                    item.ContentSequence = [
                        one
                        for one in item.ContentSequence
                        if not (one.ValueType == "SCOORD3D" and item.ValueType == "CONTAINER")
                    ]
                    walk(item.ContentSequence)

        walk(dataset.ContentSequence)

    known = read_known(edited(written["sr.dcm"], tmp_path, strip), frame)
    assert isinstance(known, TrackedReport)
    assert known.identities
    assert set(known.centres_mm) == {None}
    assert known.named([]) == []

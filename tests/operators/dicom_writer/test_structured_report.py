"""The report, read back: every lesion, every number, the totals, the evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from highdicom.sr import (
    Comprehensive3DSR,
    MeasurementsAndQualitativeEvaluations,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
    srread,
)
from pydicom import Dataset
from pydicom.sr.coding import Code

from operators import version
from operators.dicom_writer import codes
from operators.dicom_writer.common import OutputContext, save
from operators.dicom_writer.segmentation import build_segmentation
from operators.dicom_writer.structured_report import (
    NO_LESION,
    NOT_COMPARED,
    TOTALS_IDENTIFIER,
    build_report,
)
from operators.messages import FOUND_BY_COMPARISON, FollowUp, Lesion
from tests.operators.dicom_writer.validators import object_errors, report_errors, run
from tests.operators.followup_example import CURRENT_DATE, LESIONS, PRIOR_DATE, make_follow_up

VolumetricGroup = VolumetricROIMeasurementsAndQualitativeEvaluations
Group = VolumetricGroup | MeasurementsAndQualitativeEvaluations


def write(follow_up: FollowUp, folder: Path) -> tuple[Path, Comprehensive3DSR, Dataset]:
    """The report on disk, as read back, and the SEG it refers to."""
    context = OutputContext(follow_up)
    segmentation = build_segmentation(context)
    path = save(build_report(context, segmentation), folder / "report.dcm")
    return path, srread(path), segmentation


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def follow_up(folder: Path) -> FollowUp:
    return make_follow_up(folder)


@pytest.fixture(scope="module")
def written(follow_up: FollowUp, folder: Path) -> tuple[Path, Comprehensive3DSR, Dataset]:
    return write(follow_up, folder)


def number(group: Group, name: Code) -> tuple[float, Code] | None:
    """Value and unit of the only measurement with this name."""
    found = [item for item in group.get_measurements() if item.name == name]
    assert len(found) <= 1
    return (float(found[0].value), found[0].unit) if found else None


def change(group: Group) -> Code:
    (found,) = [item for item in group.get_qualitative_evaluations() if item.name == codes.CHANGE]
    return found.value


def site(group: Group) -> tuple[Code, Code | None]:
    (found,) = group.finding_sites
    return found.value, found.topographical_modifier


def texts(group: Group) -> list[tuple[str, str]]:
    return [
        (item.name.value, item.value)
        for item in group[0].ContentSequence
        if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS"
    ]


def lesion_groups(report: Comprehensive3DSR) -> dict[str, Group]:
    groups: list[Group] = [
        *report.content.get_volumetric_roi_measurement_groups(),
        *report.content.get_image_measurement_groups(),
    ]
    return {
        group.tracking_uid: group
        for group in groups
        if group.tracking_identifier != TOTALS_IDENTIFIER
    }


def totals_group(report: Comprehensive3DSR) -> Group:
    (found,) = [
        group
        for group in report.content.get_image_measurement_groups()
        if group.tracking_identifier == TOTALS_IDENTIFIER
    ]
    return found


def check_lesion(group: Group, lesion: Lesion) -> None:
    assert group.tracking_identifier == lesion.tracking_id
    assert group.finding_type == codes.LESION_OF_BRAIN
    assert group.finding_category == codes.MORPHOLOGICALLY_ABNORMAL
    assert change(group) == codes.CHANGE_CODES[lesion.change]
    assert site(group) == (
        codes.REGION_SITES[lesion.region],
        codes.REGION_MODIFIERS[lesion.region],
    )
    assert number(group, codes.VOLUME) == (
        pytest.approx(lesion.volume_ml, abs=1e-6),
        codes.MILLILITRE,
    )
    if lesion.prior_volume_ml is None:
        assert number(group, codes.PRIOR_VOLUME) is None
    else:
        assert number(group, codes.PRIOR_VOLUME) == (
            pytest.approx(lesion.prior_volume_ml, abs=1e-6),
            codes.MILLILITRE,
        )
    diameter = codes.DIAMETER if lesion.segment_number else codes.PRIOR_DIAMETER
    assert number(group, diameter) == (
        pytest.approx(lesion.diameter_mm, abs=1e-4),
        codes.MILLIMETRE,
    )
    (measurement,) = [item for item in group.get_measurements() if item.name == diameter]
    assert measurement.method == codes.VOXEL_CENTRES
    assert measurement.derivation == (codes.MAXIMUM if lesion.segment_number else None)
    assert number(group, codes.LESION_PROBABILITY) == (
        pytest.approx(lesion.confidence, abs=1e-4),
        codes.ONE,
    )
    low, high = lesion.volume_interval_ml or (None, None)
    prior_low, prior_high = lesion.prior_volume_interval_ml or (None, None)
    for name, value, unit in (
        (codes.VOLUME_LOW, low, codes.MILLILITRE),
        (codes.VOLUME_HIGH, high, codes.MILLILITRE),
        (codes.PRIOR_VOLUME_LOW, prior_low, codes.MILLILITRE),
        (codes.PRIOR_VOLUME_HIGH, prior_high, codes.MILLILITRE),
        (codes.CHANGE_CONFIDENCE, lesion.change_confidence, codes.ONE),
        (codes.VENTRICLE_DISTANCE, lesion.distance_to_ventricle_mm, codes.MILLIMETRE),
        (codes.CORTEX_DISTANCE, lesion.distance_to_cortex_mm, codes.MILLIMETRE),
    ):
        found = number(group, name)
        assert found == (None if value is None else (pytest.approx(value, abs=1e-4), unit)), name
    lineage = tuple(text for name, text in texts(group) if name == "LINEAGE")
    assert lineage == lesion.lineage


def test_every_lesion_comes_back_with_its_numbers(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    groups = lesion_groups(report)
    assert set(groups) == {lesion.tracking_uid for lesion in follow_up.lesions}
    for lesion in follow_up.lesions:
        check_lesion(groups[lesion.tracking_uid], lesion)


def test_a_present_lesion_refers_to_its_segment_and_to_the_flair(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, segmentation = written
    flair = follow_up.probabilities.aligned.selected.current.series["flair"].series
    for lesion in follow_up.lesions:
        if lesion.segment_number is None:
            continue
        group = lesion_groups(report)[lesion.tracking_uid]
        assert isinstance(group, VolumetricGroup)
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert list(segment.referenced_segment_numbers) == [lesion.segment_number]
        assert segment.source_series_for_segmentation.value == flair.series_uid


def test_a_resolved_lesion_has_no_segment_but_a_place_in_the_current_frame_of_reference(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, segmentation = written
    (lesion,) = [lesion for lesion in follow_up.lesions if lesion.segment_number is None]
    group = lesion_groups(report)[lesion.tracking_uid]
    assert not isinstance(group, VolumetricGroup)
    (measurement,) = [m for m in group.get_measurements() if m.name == codes.PRIOR_VOLUME]
    (place,) = measurement.referenced_coordinates
    assert place.GraphicType == "POINT"
    assert list(place.GraphicData) == pytest.approx(lesion.centroid_lps_mm, abs=1e-3)
    assert place.ReferencedFrameOfReferenceUID == segmentation.FrameOfReferenceUID


def test_several_earlier_studies_come_back(tmp_path: Path) -> None:
    """Volumes before the prior study, each with an image of its study; change since the first."""
    follow_up = make_follow_up(tmp_path, earlier=2)
    _, report, _ = write(follow_up, tmp_path)
    aligned = follow_up.probabilities.aligned
    instances = {
        header.SOPInstanceUID: study.aligned.selected.study.study_uid
        for study in aligned.earlier
        for header in study.aligned.selected.series["flair"].headers
    }
    order = [point.study_uid for point in follow_up.time_points]

    def earlier_volumes(group: Group, name: Code) -> dict[str, float]:
        found = {}
        for item in group.get_measurements():
            if item.name == name:
                (image,) = item.referenced_images
                (reference,) = image.ReferencedSOPSequence
                found[instances[reference.ReferencedSOPInstanceUID]] = float(item.value)
        return found

    for lesion in follow_up.lesions:
        group = lesion_groups(report)[lesion.tracking_uid]
        check_lesion(group, lesion)
        expected = {uid: lesion.volumes_ml[order.index(uid)] for uid in instances.values()}
        assert earlier_volumes(group, codes.EARLIER_VOLUME) == pytest.approx(expected, abs=1e-6)
        (since,) = [
            item.value
            for item in group.get_qualitative_evaluations()
            if item.name == codes.CHANGE_SINCE_FIRST
        ]
        assert lesion.change_since_first is not None
        assert since == codes.CHANGE_CODES[lesion.change_since_first]
    totals = earlier_volumes(totals_group(report), codes.EARLIER_TOTAL_VOLUME)
    expected = {point.study_uid: point.lesion_volume_ml for point in follow_up.time_points[:2]}
    assert totals == pytest.approx(expected, abs=1e-6)
    items = {item.name.value: item for item in totals_group(report)[0].ContentSequence}
    assert items["126073"].value == 4
    evidence = {uids[2] for uids in report.get_evidence()}
    for study in aligned.earlier:
        for item in study.aligned.selected.series.values():
            assert {ref.sop_instance_uid for ref in item.series.instances} <= evidence


def test_a_study_that_does_not_show_a_place_has_no_volume_of_it(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    several = make_follow_up(tmp_path, earlier=1)
    first = several.lesions[0]
    hidden = replace(first, volumes_ml=(None, *first.volumes_ml[1:]))
    _, report, _ = write(replace(several, lesions=(hidden, *several.lesions[1:])), tmp_path)
    assert number(lesion_groups(report)[first.tracking_uid], codes.EARLIER_VOLUME) is None


def test_the_totals_come_back(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    group, totals = totals_group(report), follow_up.totals
    expected = {
        codes.NUMBER_OF_LESIONS: totals.lesion_count,
        codes.VOLUME: totals.lesion_volume_ml,
        codes.PRIOR_TOTAL_VOLUME: totals.prior_lesion_volume_ml,
        codes.NEW_COUNT: totals.new_count,
        codes.ENLARGING_COUNT: totals.enlarging_count,
        codes.SHRINKING_COUNT: totals.shrinking_count,
        codes.RESOLVED_COUNT: totals.resolved_count,
        codes.VOLUME_LOW: totals.lesion_volume_interval_ml[0],
        codes.VOLUME_HIGH: totals.lesion_volume_interval_ml[1],
        codes.PRIOR_VOLUME_LOW: totals.prior_lesion_volume_interval_ml[0],
        codes.PRIOR_VOLUME_HIGH: totals.prior_lesion_volume_interval_ml[1],
    }
    for name, value in expected.items():
        found = number(group, name)
        assert found is not None, name
        assert found[0] == pytest.approx(value, abs=1e-6)
    (volume,) = [m for m in group.get_measurements() if m.name == codes.VOLUME]
    assert volume.derivation == codes.TOTAL


def test_statement_model_and_quality_notes_stand_in_the_report(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    said = texts(totals_group(report))
    assert ("USE", version.STATEMENT) in said
    (model,) = [text for name, text in said if name == "MODEL"]
    identity = follow_up.probabilities.current.model
    assert identity.name in model
    assert identity.version in model
    assert identity.sha256 in model
    notes = [text for name, text in said if name == "QUALITY"]
    assert len(notes) == len(follow_up.quality)
    for note, text in zip(follow_up.quality, notes, strict=True):
        assert note.message in text
        assert note.severity in text


def test_every_group_has_the_time_point_and_the_days_since_the_prior_study(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    groups = [totals_group(report), *lesion_groups(report).values()]
    for group in groups:
        items = {item.name.value: item for item in group[0].ContentSequence}
        assert items["C2348792"].value == "Follow-up"
        assert items["126073"].value == 2
        offset = items["128740"]
        assert offset.value == (CURRENT_DATE - PRIOR_DATE).days
        assert offset.unit == codes.DAY
        assert offset.ContentSequence[0].value == codes.PRIOR_STUDY


def test_evidence_lists_the_seg_and_every_image_of_both_studies(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, segmentation = written
    selected = follow_up.probabilities.aligned.selected
    assert selected.prior is not None

    def instances(study_series: object) -> set[str]:
        return {
            ref.sop_instance_uid
            for item in study_series.values()  # type: ignore[attr-defined]
            for ref in item.series.instances
        }

    current = {uids[2] for uids in report.get_evidence(current_procedure_only=True)}
    assert current == instances(selected.current.series) | {segmentation.SOPInstanceUID}
    everything = {uids[2] for uids in report.get_evidence()}
    assert everything == current | instances(selected.prior.series)
    assert report.StudyInstanceUID == selected.current.study.study_uid


def test_observer_is_the_application_with_its_model(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    (observer,) = report.content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    model = follow_up.probabilities.current.model
    assert device.name == f"{version.NAME} {version.VERSION}"
    assert device.manufacturer_name == version.MANUFACTURER
    assert device.model_name == f"{model.name} {model.version}"
    assert device.serial_number == model.sha256[:16]
    assert report.CompletionFlag == "COMPLETE"
    assert report.VerificationFlag == "UNVERIFIED"


def test_a_first_study_has_a_baseline_time_point_and_nothing_prior(tmp_path: Path) -> None:
    follow_up = make_follow_up(tmp_path, prior=False)
    _, report, _ = write(follow_up, tmp_path)
    for lesion in follow_up.lesions:
        check_lesion(lesion_groups(report)[lesion.tracking_uid], lesion)
    totals = totals_group(report)
    assert number(totals, codes.PRIOR_TOTAL_VOLUME) is None
    assert number(totals, codes.NEW_COUNT) is None
    assert ("121106", NOT_COMPARED) in texts(totals)
    items = {item.name.value: item for item in totals[0].ContentSequence}
    assert items["C2348792"].value == "Baseline"
    assert items["126072"].value == codes.BASELINE
    assert "128740" not in items
    assert "PertinentOtherEvidenceSequence" not in report


def test_no_lesion_is_said_in_words_and_numbers(tmp_path: Path) -> None:
    follow_up = make_follow_up(tmp_path, empty=True)
    _, report, segmentation = write(follow_up, tmp_path)
    assert lesion_groups(report) == {}
    totals = totals_group(report)
    assert number(totals, codes.NUMBER_OF_LESIONS) == (0, codes.ONE)
    assert ("121106", NO_LESION) in texts(totals)
    assert segmentation.SOPInstanceUID in {uids[2] for uids in report.get_evidence()}


def test_an_undated_prior_study_has_no_offset(follow_up: FollowUp, tmp_path: Path) -> None:
    probabilities = follow_up.probabilities
    aligned = probabilities.aligned
    prior = replace(aligned.selected.prior, interval_days=None)
    aligned = replace(
        aligned,
        selected=replace(aligned.selected, prior=prior),
        prior=replace(aligned.prior, selected=prior),
    )
    undated = replace(follow_up, probabilities=replace(probabilities, aligned=aligned))
    _, report, _ = write(undated, tmp_path)
    items = {item.name.value: item for item in totals_group(report)[0].ContentSequence}
    assert items["C2348792"].value == "Follow-up"
    assert "128740" not in items


def test_a_prior_study_that_could_not_be_registered_is_said_not_to_be_compared(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    present = tuple(
        replace(lesion, change="baseline", prior_volume_ml=None)
        for lesion in follow_up.lesions
        if lesion.segment_number is not None
    )
    totals = replace(
        follow_up.totals,
        prior_lesion_volume_ml=None,
        new_count=0,
        enlarging_count=0,
        shrinking_count=0,
        resolved_count=0,
    )
    alone = replace(follow_up, lesions=present, totals=totals, prior_labels=None)
    _, report, _ = write(alone, tmp_path)
    group = totals_group(report)
    assert ("121106", NOT_COMPARED) in texts(group)
    assert number(group, codes.NEW_COUNT) is None
    for lesion in present:
        check_lesion(lesion_groups(report)[lesion.tracking_uid], lesion)


def test_private_scheme_is_declared(
    follow_up: FollowUp, written: tuple[Path, Comprehensive3DSR, Dataset]
) -> None:
    _, report, _ = written
    declared = {item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence}
    assert codes.PRIVATE_SCHEME in declared


@pytest.mark.parametrize(
    "case", [{}, {"prior": False}, {"empty": True}, {"enhanced": True}, {"earlier": 2}]
)
def test_dciodvfy_and_dsrdump_accept_it(
    case: dict[str, bool], tmp_path: Path, need_tool: Callable[[str], str]
) -> None:
    path, _, _ = write(make_follow_up(tmp_path, **case), tmp_path)
    assert object_errors(need_tool("dciodvfy"), path) == []
    dump = run(need_tool("dsrdump"), "+Pl", path)
    assert "Imaging Measurement Report" in dump
    assert version.STATEMENT in dump
    assert not [line for line in dump.splitlines() if line.startswith(("E:", "W:", "F:"))]


def test_pixelmed_finds_no_unexplained_error(tmp_path: Path, pixelmed: tuple[str, Path]) -> None:
    """A stable, a new and a resolved lesion: each kind of group, and few, as the check is slow."""
    follow_up = make_follow_up(tmp_path, lesions=(LESIONS[0], LESIONS[2], LESIONS[-1]), earlier=1)
    first = replace(follow_up.lesions[0], lineage=(follow_up.lesions[1].tracking_uid,))
    follow_up = replace(follow_up, lesions=(first, *follow_up.lesions[1:]))
    path, _, _ = write(follow_up, tmp_path)
    errors, output = report_errors(*pixelmed, path)
    assert "Root Template Validation Complete" in output, output[:2000]
    assert "Found Root Template TID_1500" in output
    assert errors == []


def test_a_lesion_that_only_the_comparison_found_says_so(follow_up: FollowUp, folder: Path) -> None:
    """Only that lesion: a present one and a resolved one, in the report and in the segments."""
    marked = {follow_up.lesions[2].tracking_uid, follow_up.lesions[-1].tracking_uid}
    lesions = tuple(
        replace(one, found_by="comparison") if one.tracking_uid in marked else one
        for one in follow_up.lesions
    )
    _, report, segmentation = write(replace(follow_up, lesions=lesions), folder)
    for uid, group in lesion_groups(report).items():
        found = [
            item.value
            for item in group.get_qualitative_evaluations()
            if item.name == codes.FOUND_BY
        ]
        assert found == ([codes.COMPARISON] if uid in marked else [])
    for item in segmentation.SegmentSequence:
        assert (FOUND_BY_COMPARISON in item.SegmentDescription) == (item.TrackingUID in marked)

"""A second visit with the first one's result in the input: what is new, and who is still whom."""

from __future__ import annotations

from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from highdicom.sr import srread

from demo.truth import TrueLesion, Truth
from operators.dicom_writer import codes
from tests.e2e.conftest import SecondVisit

NEAR_MM = 3.0
ABOUT_8_MM = (7.0, 9.5)


def diameter_mm(volume_mm3: float) -> float:
    """Of the ball with this volume."""
    return float(np.cbrt(6.0 * volume_mm3 / np.pi))


def new_lesions(truth: Truth) -> list[TrueLesion]:
    """Planted into the second study alone, about 8 mm across."""
    low, high = ABOUT_8_MM
    return [
        lesion
        for lesion in truth.lesions
        if lesion.change == "new" and low <= diameter_mm(lesion.volume_mm3) <= high
    ]


def nearest(results: dict[str, Any], point_mm: object) -> dict[str, Any]:
    """The reported lesion around a point of the results' own FLAIR, LPS millimetres."""

    def distance(lesion: dict[str, Any]) -> float:
        return float(np.linalg.norm(np.subtract(lesion["centroid_lps_mm"], point_mm)))

    found = min(results["lesions"], key=distance)
    assert distance(found) < NEAR_MM
    return found


def segment_points(image: hd.seg.Segmentation, number: int | None = None) -> np.ndarray:
    """(n, 3) LPS millimetres of the voxels of one segment, or of all."""
    volume = image.get_volume(combine_segments=True, relabel=False)
    array = np.asarray(volume.array)
    indices = np.argwhere(array > 0 if number is None else array == number)
    return indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def test_the_first_visits_objects_are_the_applications_own(second_visit: SecondVisit) -> None:
    study = second_visit.baseline["current"]["study_uid"]
    read = [pydicom.dcmread(path, stop_before_pixels=True) for path in second_visit.objects]
    assert [dataset.Modality for dataset in read] == ["SEG", "SR"]
    assert {dataset.StudyInstanceUID for dataset in read} == {study}
    named = {lesion["tracking_uid"] for lesion in second_visit.baseline["lesions"]}
    assert {item.TrackingUID for item in read[0].SegmentSequence} == named
    assert named.isdisjoint(one["tracking_uid"] for one in second_visit.without.results["lesions"])
    assert second_visit.run.results["prior"]["study_uid"] == study


def test_a_new_lesion_of_8_mm_is_called_new_in_every_output(
    second_visit: SecondVisit, truth: Truth
) -> None:
    """In results.json, the SR and the SEG, at its place in patient millimetres, under a tracking
    UID that the first visit did not give; the first visit's SEG has nothing there."""
    run, segmentation = second_visit.run, second_visit.run.segmentation()
    known = {lesion["tracking_uid"] for lesion in second_visit.baseline["lesions"]}
    (path,) = run.of_modality("SR")
    groups = {
        group.tracking_uid: group
        for group in srread(path).content.get_volumetric_roi_measurement_groups()
    }
    before = segment_points(hd.seg.segread(second_visit.objects[0]))
    to_prior = truth.transforms["prior_flair_to_flair"]
    planted = new_lesions(truth)
    assert any(abs(diameter_mm(one.volume_mm3) - 8.0) < 0.5 for one in planted)
    assert len({one.region for one in planted}) == len(planted) == 3
    for true in planted:
        centre = np.asarray(true.centroid_lps_mm)
        found = nearest(run.results, centre)
        assert (found["change"], found["prior_volume_ml"]) == ("new", 0.0)
        assert found["tracking_uid"] not in known
        assert found["volume_ml"] * 1000 == pytest.approx(true.volume_mm3, rel=0.15)

        group = groups[found["tracking_uid"]]
        said = [i.value for i in group.get_qualitative_evaluations() if i.name == codes.CHANGE]
        assert said == [codes.CHANGE_CODES["new"]]
        volumes = {item.name: float(item.value) for item in group.get_measurements()}
        assert volumes[codes.VOLUME] == pytest.approx(found["volume_ml"], abs=1e-4)
        assert volumes[codes.PRIOR_VOLUME] == 0.0

        number = found["segment_number"]
        assert segmentation.get_segment_description(number).tracking_uid == found["tracking_uid"]
        assert list(group.referenced_segment.referenced_segment_numbers) == [number]
        points = segment_points(segmentation, number)
        assert np.linalg.norm(points.mean(axis=0) - centre) < 1.5
        radius = 0.5 * diameter_mm(true.volume_mm3)
        assert np.linalg.norm(points - centre, axis=1).max() < 2.5 * radius

        then = to_prior[:3, :3] @ centre + to_prior[:3, 3]
        assert np.linalg.norm(before - then, axis=1).min() > radius
    totals = run.results["totals"]
    assert totals["new_count"] == sum(one.change == "new" for one in truth.lesions)


def test_every_lesion_of_the_first_visit_keeps_its_identity(
    second_visit: SecondVisit, truth: Truth
) -> None:
    """Whatever became of it; found by its true place in each study's own millimetres."""
    old = [one for one in truth.lesions if one.prior_volume_mm3]
    assert {one.change for one in old} == {"stable", "enlarging", "shrinking", "resolved"}
    image = second_visit.run.segmentation()
    for true in old:
        then = nearest(second_visit.baseline, true.prior_centroid_lps_mm)
        now = nearest(second_visit.run.results, true.centroid_lps_mm)
        assert now["tracking_uid"] == then["tracking_uid"], true.number
        assert now["tracking_id"] == then["tracking_id"], true.number
        assert now["change"] == true.change, true.number
        if now["segment_number"] is not None:
            segment = image.get_segment_description(now["segment_number"])
            assert segment.tracking_uid == then["tracking_uid"]
    first = [one["tracking_uid"] for one in second_visit.baseline["lesions"]]
    assert len(set(first)) == len(first)

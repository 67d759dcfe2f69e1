"""What is counted for dissemination in space and time, the time line, and the noise floor."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from operators.dicom_writer import report_summary
from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.dissemination import dissemination
from operators.dicom_writer.noise_floor import NoiseFloor, noise_floor
from operators.dicom_writer.report_sheet import Sheet
from operators.dicom_writer.timeline import timeline
from operators.messages import FollowUp
from tests.operators.followup_example import make_follow_up


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    """Two studies before the prior one."""
    return make_follow_up(tmp_path_factory.mktemp("several"), earlier=2)


def test_only_lesions_that_are_present_count_in_space(follow_up: FollowUp) -> None:
    found = dissemination(follow_up)
    assert dict(found.in_space) == {"periventricular": 2, "juxtacortical": 1, "infratentorial": 1}
    assert found.regions == 3
    resolved = [one for one in follow_up.lesions if one.segment_number is None]
    assert [one.region for one in resolved] == ["juxtacortical"]
    deep = tuple(replace(one, region="deep_white_matter") for one in follow_up.lesions)
    assert dissemination(replace(follow_up, lesions=deep)).regions == 0


def test_new_lesions_are_counted_against_the_prior_and_the_first_study(
    follow_up: FollowUp,
) -> None:
    """A lesion that was new two years ago is stable now, but new since the first study."""
    lesions = tuple(
        replace(one, change_since_first="new") if one.change == "stable" else one
        for one in follow_up.lesions
    )
    prior, first = dissemination(replace(follow_up, lesions=lesions)).in_time
    assert (prior.interval_days, prior.count) == (379, 2)
    assert (first.interval_days, first.count) == (1317, 3)
    assert first.study_uid == follow_up.time_points[0].study_uid


def test_without_a_comparison_nothing_is_new(follow_up: FollowUp) -> None:
    assert dissemination(replace(follow_up, prior_labels=None)).in_time == ()


def test_the_time_line_has_every_study_once(follow_up: FollowUp) -> None:
    moments = timeline(OutputContext(follow_up))
    assert [moment.days for moment in moments] == [-1317, -783, -379, 0]
    for position, moment in enumerate(moments):
        assert moment.load_ml == follow_up.time_points[position].lesion_volume_ml
        assert moment.volumes_ml == tuple(one.volumes_ml[position] for one in follow_up.lesions)
        assert moment.study.study.study_uid == follow_up.time_points[position].study_uid


def test_an_undated_study_leaves_the_order(follow_up: FollowUp) -> None:
    points = [replace(follow_up.time_points[0], interval_days=None), *follow_up.time_points[1:]]
    moments = timeline(OutputContext(replace(follow_up, time_points=tuple(points))))
    assert [moment.days for moment in moments] == [-3, -2, -1, 0]


def test_without_time_points_there_are_prior_and_current(follow_up: FollowUp) -> None:
    moments = timeline(OutputContext(replace(follow_up, time_points=())))
    assert [moment.days for moment in moments] == [-379, 0]
    assert moments[0].load_ml == follow_up.totals.prior_lesion_volume_ml
    assert moments[1].load_ml == follow_up.totals.lesion_volume_ml


def test_the_noise_floor_is_quoted_as_measured(
    follow_up: FollowUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = NoiseFloor(
        trials=20, false_new_mean=0.05, false_new_max=1, load_change_sd_percent=1.73
    )
    monkeypatch.setattr(report_summary, "noise_floor", lambda: measured)
    sheet = Sheet(OutputContext(follow_up))
    (_, paragraph) = report_summary.noise(sheet)
    text = paragraph.getPlainText()
    for part in ("20 comparisons", "0.05 false new lesions", "at most 1", "± 1.7 %"):
        assert part in text
    monkeypatch.setattr(
        report_summary, "noise_floor", lambda: measured.model_copy(update={"trials": 0})
    )
    (_, paragraph) = report_summary.noise(sheet)
    assert "has not been measured" in paragraph.getPlainText()


def test_the_shipped_noise_floor_is_valid_and_a_broken_one_is_refused() -> None:
    assert noise_floor().trials >= 0
    with pytest.raises(ValidationError):
        NoiseFloor.model_validate({"trials": -1})

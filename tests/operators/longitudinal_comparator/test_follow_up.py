from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from operators.longitudinal_comparator.changes import by_volume
from operators.messages import Change, FollowUp, Lesion, QualityNote
from tests.operators.lesion_segmentation.builders import points_of
from tests.operators.longitudinal_comparator.scenes import (
    CURRENT_GRID,
    MOTION,
    PRIOR_GRID,
    SETTINGS,
    Ball,
    ball_ml,
    flair_of,
    follow,
    prior_alone,
    probability,
)

A: Ball = ((-12.0, -20.0, 12.0), 4.5)
B: Ball = ((14.0, -2.0, 30.0), 4.0)
C: Ball = ((-8.0, 8.0, 34.0), 5.0)


pytestmark = pytest.mark.usefixtures("without_anatomy")


def _by_place(result: FollowUp, ball: Ball) -> Lesion:
    (found,) = (
        lesion
        for lesion in result.lesions
        if np.linalg.norm(np.subtract(lesion.centroid_lps_mm, ball[0])) < 1.0
    )
    return found


def _scaled(ball: Ball, volume_ratio: float) -> Ball:
    return ball[0], ball[1] * volume_ratio ** (1 / 3)


def test_without_a_prior_every_lesion_is_baseline() -> None:
    result = follow([A, B])
    assert [lesion.change for lesion in result.lesions] == ["baseline", "baseline"]
    assert [lesion.segment_number for lesion in result.lesions] == [1, 2]
    assert [lesion.tracking_id for lesion in result.lesions] == ["Lesion 1", "Lesion 2"]
    assert all(lesion.prior_volume_ml is None for lesion in result.lesions)
    assert result.prior_labels is None
    assert result.totals.prior_lesion_volume_ml is None
    assert result.totals.lesion_count == 2
    assert result.totals.lesion_volume_ml == pytest.approx(ball_ml(4.5) + ball_ml(4.0), rel=0.08)


def test_a_refused_registration_gives_a_baseline() -> None:
    result = follow([A], [A], accepted=False)
    assert [lesion.change for lesion in result.lesions] == ["baseline"]
    assert result.prior_labels is None


@pytest.mark.parametrize(
    ("ratio", "change"),
    [(1.0, "stable"), (1.6, "enlarging"), (0.55, "shrinking"), (1.12, "stable"), (0.9, "stable")],
)
def test_change_of_volume_after_a_rigid_motion(ratio: float, change: Change) -> None:
    result = follow([_scaled(A, ratio), B], [A, B])
    lesion = _by_place(result, A)
    assert lesion.change == change
    assert lesion.volume_ml == pytest.approx(ratio * ball_ml(A[1]), rel=0.08)
    assert lesion.prior_volume_ml == pytest.approx(ball_ml(A[1]), rel=0.08)
    assert _by_place(result, B).change == "stable"
    assert result.change_ratio == SETTINGS.change_ratio
    assert result.totals.enlarging_count == (change == "enlarging")
    assert result.totals.shrinking_count == (change == "shrinking")


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [
        (1.3, 1.0, "enlarging"),
        (1.299, 1.0, "stable"),
        (1.0, 1.3, "shrinking"),
        (1.0, 1.299, "stable"),
        (0.13, 0.1, "enlarging"),
    ],
)
def test_the_limit_of_change_is_the_same_in_both_directions(
    now: float, before: float, change: Change
) -> None:
    assert by_volume(now, before, 0.3) == change


def test_new_and_resolved_lesions() -> None:
    result = follow([A, B], [A, C])
    new, gone = _by_place(result, B), _by_place(result, C)
    assert (new.change, new.prior_volume_ml) == ("new", 0.0)
    assert (gone.change, gone.segment_number, gone.volume_ml) == ("resolved", None, 0.0)
    # the resolved lesion is shown in the current frame, with the prior's measures
    np.testing.assert_allclose(gone.centroid_lps_mm, C[0], atol=0.4)
    assert gone.prior_volume_ml == pytest.approx(ball_ml(C[1]), rel=0.08)
    assert gone.diameter_mm == pytest.approx(2 * C[1], abs=0.6)
    assert result.lesions[-1] is gone
    totals = result.totals
    assert (totals.lesion_count, totals.new_count, totals.resolved_count) == (2, 1, 1)
    assert totals.prior_lesion_volume_ml == pytest.approx(ball_ml(A[1]) + ball_ml(C[1]), rel=0.08)


def test_labels_and_prior_labels_say_which_lesion_a_voxel_belongs_to() -> None:
    result = follow([A, B], [A, C])
    points = points_of(CURRENT_GRID)
    assert result.labels.array.dtype == np.uint16
    assert result.prior_labels is not None
    assert result.prior_labels.array.dtype == np.uint16
    np.testing.assert_allclose(result.prior_labels.affine, CURRENT_GRID.affine)
    for ball in (A, B):
        lesion = _by_place(result, ball)
        inside = result.labels.array == lesion.segment_number
        np.testing.assert_allclose(points[inside].mean(axis=0), ball[0], atol=0.4)
        assert inside.sum() * np.prod(CURRENT_GRID.spacing) / 1000 == pytest.approx(
            lesion.volume_ml
        )
    for ball in (A, C):
        value = 1 + result.lesions.index(_by_place(result, ball))
        inside = result.prior_labels.array == value
        np.testing.assert_allclose(points[inside].mean(axis=0), ball[0], atol=0.7)
    assert set(np.unique(result.prior_labels.array)) == {
        0,
        1 + result.lesions.index(_by_place(result, A)),
        1 + result.lesions.index(_by_place(result, C)),
    }


def test_merging_lesions_keep_the_largest_ones_identity() -> None:
    left, right = ((-4.0, -6.0, 20.0), 4.5), ((5.5, -6.0, 20.0), 3.5)
    bridge = ((1.0, -6.0, 20.0), 3.5)
    before = prior_alone([left, right])
    result = follow([left, bridge, right], [left, right])
    (lesion,) = result.lesions
    assert lesion.change == "merged"
    assert lesion.tracking_uid == before.lesions[0].tracking_uid
    assert lesion.prior_volume_ml == pytest.approx(ball_ml(4.5) + ball_ml(3.5), rel=0.08)


def test_a_split_lesion_leaves_its_identity_to_the_largest_part() -> None:
    left, right = ((-4.5, -6.0, 20.0), 4.5), ((6.0, -6.0, 20.0), 3.5)
    bridge = ((1.0, -6.0, 20.0), 3.5)
    before = prior_alone([left, bridge, right])
    result = follow([left, right], [left, bridge, right])
    large, small = result.lesions
    assert (large.change, small.change) == ("split", "split")
    assert large.tracking_uid == before.lesions[0].tracking_uid
    assert small.tracking_uid != large.tracking_uid
    assert small.tracking_id == "Lesion 2"
    # the parts share the prior volume between them
    assert large.prior_volume_ml + small.prior_volume_ml == pytest.approx(
        before.lesions[0].volume_ml, rel=0.02
    )
    assert large.prior_volume_ml > small.prior_volume_ml > 0.1
    assert result.prior_labels is not None
    assert set(np.unique(result.prior_labels.array)) == {0, 1, 2}


def test_a_crumb_does_not_make_a_lesion_merged() -> None:
    large, crumb = ((-4.0, -6.0, 20.0), 7.0), ((6.0, -6.0, 20.0), 2.0)
    bridge = ((4.0, -6.0, 20.0), 2.5)
    result = follow([large, bridge, crumb], [large, crumb])
    assert [lesion.change for lesion in result.lesions] == ["stable"]


@pytest.mark.parametrize("error", [(1.0, 0.6, 0.0), (0.0, -0.8, 1.0), (0.9, 0.0, -0.9)])
def test_an_error_of_the_registration_makes_no_false_change(error: tuple[float, ...]) -> None:
    small: Ball = ((14.0, -2.0, 30.0), 2.2)
    result = follow([A, small], [A, small], error_mm=error)
    assert [lesion.change for lesion in result.lesions] == ["stable", "stable"]


def test_a_new_lesion_beside_an_old_one_is_new() -> None:
    old, new = ((-4.0, -6.0, 20.0), 5.0), ((6.5, -6.0, 20.0), 3.0)
    result = follow([old, new], [old])
    assert _by_place(result, old).change == "stable"
    assert _by_place(result, new).change == "new"


def _mixed(certain: list[Ball], faint: list[Ball], *, prior: bool):
    grid, motion = (PRIOR_GRID, MOTION) if prior else (CURRENT_GRID, None)
    one = probability(grid, certain, motion)
    other = probability(grid, faint, motion, peak=0.35, threshold=0.175)
    both = np.maximum(one.probability.array, other.probability.array)
    return replace(one, probability=one.probability.with_array(both))


def test_a_lesion_that_was_faint_before_is_not_new() -> None:
    result = follow([A, B], _mixed([A], [B], prior=True))
    lesion = _by_place(result, B)
    assert lesion.change in ("stable", "enlarging")
    assert 0 < lesion.prior_volume_ml <= 1.1 * lesion.volume_ml
    assert [note.code for note in result.quality] == ["faint_lesions"]
    # its name is that of a run on the current study alone
    assert lesion.tracking_uid in {one.tracking_uid for one in follow([A, B]).lesions}
    strict = SETTINGS.model_copy(update={"faint_threshold": 1.0})
    off = follow([A, B], _mixed([A], [B], prior=True), settings=strict)
    assert _by_place(off, B).change == "new"


def test_a_lesion_that_has_become_faint_is_not_resolved() -> None:
    result = follow(_mixed([A], [B], prior=False), [A, B])
    lesion = _by_place(result, B)
    assert lesion.change in ("stable", "shrinking")
    assert lesion.segment_number == 2
    assert (result.labels.array == 2).sum() > 3
    assert lesion.tracking_uid in {one.tracking_uid for one in prior_alone([A, B]).lesions}
    assert lesion.confidence < 0.5


def test_a_lesion_that_the_network_missed_before_is_not_new() -> None:
    """The prior image shows it; only the network did not answer there."""
    before = probability(PRIOR_GRID, [A], MOTION)
    seen = flair_of(probability(PRIOR_GRID, [A, B], MOTION))
    result = follow([A, B], before, flair_before=seen)
    lesion = _by_place(result, B)
    assert lesion.change == "stable"
    assert lesion.prior_volume_ml == pytest.approx(lesion.volume_ml, rel=0.1)
    assert [note.code for note in result.quality] == ["faint_lesions"]
    assert _by_place(follow([A, B], before), B).change == "new"


def test_a_lesion_that_the_network_missed_now_is_not_resolved() -> None:
    now = probability(CURRENT_GRID, [A])
    seen = flair_of(probability(CURRENT_GRID, [A, B]))
    result = follow(now, [A, B], flair_now=seen)
    assert _by_place(result, B).change == "stable"
    assert result.totals.lesion_count == 2
    assert _by_place(follow(now, [A, B]), B).change == "resolved"


def test_a_weak_shadow_in_the_prior_image_does_not_hide_a_new_lesion() -> None:
    before = probability(PRIOR_GRID, [A], MOTION)
    shadow = probability(PRIOR_GRID, [A, B], MOTION, peak=0.9 * 0.25, threshold=0.1)
    result = follow([A, B], before, flair_before=flair_of(shadow))
    assert _by_place(result, B).change == "new"


def test_what_the_other_study_does_not_show_is_not_compared() -> None:
    side = points_of(PRIOR_GRID) @ np.linalg.inv(MOTION)[:3, :3].T
    side = (side + np.linalg.inv(MOTION)[:3, 3])[..., 0] < 4
    outside_before = follow([A, B], [A], brain_before=side)
    lesion = _by_place(outside_before, B)
    assert (lesion.change, lesion.prior_volume_ml, lesion.segment_number) == ("baseline", None, 2)
    assert outside_before.totals.new_count == 0
    assert [(n.code, n.severity) for n in outside_before.quality] == [
        ("lesions_not_compared", "warning")
    ]

    outside_now = follow([A], [A, B], brain_now=points_of(CURRENT_GRID)[..., 0] < 4)
    assert [one.change for one in outside_now.lesions] == ["stable"]
    assert outside_now.totals.resolved_count == 0
    assert [n.code for n in outside_now.quality] == ["lesions_not_compared"]
    assert outside_now.prior_labels is not None
    assert set(np.unique(outside_now.prior_labels.array)) == {0, 1}


@pytest.mark.parametrize("ratio", [1.6, 0.55])
def test_an_outline_that_changes_without_the_image_is_stable(ratio: float) -> None:
    """The network's answer grows or shrinks, the images show the same lesion twice."""
    now = probability(CURRENT_GRID, [_scaled(A, ratio), B])
    same = flair_of(probability(CURRENT_GRID, [A, B]))
    result = follow(now, [A, B], flair_now=same)
    assert _by_place(result, A).change == "stable"
    assert _by_place(follow(now, [A, B]), A).change != "stable"


def test_no_lesion_at_all() -> None:
    for result in (follow([]), follow([], [])):
        assert result.lesions == ()
        assert result.totals.lesion_count == 0
        assert not result.labels.array.any()
    assert follow([], [A]).totals.resolved_count == 1


def test_two_runs_give_the_same_result() -> None:
    first, second = follow([A, B], [A, C]), follow([A, B], [A, C])
    assert first.lesions == second.lesions
    assert first.totals == second.totals


def test_the_prior_keeps_the_names_of_its_own_baseline_run() -> None:
    before = prior_alone([A, B, C])
    result = follow([A, C, ((0.0, -24.0, 38.0), 3.0)], [A, B, C])
    for ball in (A, B, C):
        earlier, now = _by_place_prior(before, ball), _by_place(result, ball)
        assert (earlier.tracking_uid, earlier.tracking_id) == (now.tracking_uid, now.tracking_id)
    new = next(lesion for lesion in result.lesions if lesion.change == "new")
    assert new.tracking_id == "Lesion 4"
    assert len({lesion.tracking_uid for lesion in result.lesions}) == len(result.lesions)


def _by_place_prior(result: FollowUp, ball: Ball) -> Lesion:
    where = MOTION[:3, :3] @ ball[0] + MOTION[:3, 3]
    return _by_place(result, (tuple(where), ball[1]))


def test_quality_and_timing_of_all_stages_are_kept_in_order() -> None:
    result = follow([A], [A])
    notes = [QualityNote(code, "info", code) for code in ("a", "b", "c")]
    probabilities = result.probabilities
    aligned = probabilities.aligned
    selected = replace(aligned.selected, quality=(notes[0],), timing_s={"x": 1.0})
    aligned = replace(aligned, selected=selected, quality=(notes[0], notes[1]), timing_s={"y": 2.0})
    probabilities = replace(
        probabilities, aligned=aligned, quality=(notes[2],), timing_s={"z": 3.0}
    )
    from operators.longitudinal_comparator.follow_up import compare

    again = compare(probabilities, SETTINGS)
    assert again.quality == tuple(notes)
    assert again.timing_s == {"x": 1.0, "y": 2.0, "z": 3.0}

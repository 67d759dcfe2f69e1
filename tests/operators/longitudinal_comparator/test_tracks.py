"""Five studies of one patient, each on its own oblique grid, with lesions that come, merge, split,
go and return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from operators.longitudinal_comparator import follow_up
from operators.longitudinal_comparator.follow_up import compare
from operators.messages import (
    EarlierStudy,
    FollowUp,
    Lesion,
    LesionProbabilities,
    LesionProbability,
)
from tests.operators.lesion_segmentation.builders import (
    aligned_studies,
    aligned_study,
    empty_volume,
    registration,
    rigid,
)
from tests.operators.longitudinal_comparator.scenes import (
    SETTINGS,
    Ball,
    ball_ml,
    flair_of,
    nowhere,
    probability,
)

GRIDS = [
    empty_volume((80, 64, 30), (1.0, 1.3, 2.2), (-3, 4, -6), (8, -2, 31)),
    empty_volume((60, 70, 56), (1.2, 1.1, 1.4), (5, 2, -4), (2, -8, 18)),
    empty_volume(
        (26, 90, 76), (2.6, 0.9, 1.1), (4, -2, 6), (6, -9, 16), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    ),
    empty_volume((72, 84, 26), (1.0, 0.9, 2.8), (-2, -6, 3), (-1, -4, 24)),
    empty_volume(
        (26, 90, 76), (2.6, 0.8, 1.1), (8, -5, 3), (3, -11, 20), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    ),
]
MOTIONS = [
    rigid((6, -4, 5), (6.0, 9.5, 12.0)),
    rigid((-3, 2, 4), (-2.0, 3.0, -4.0)),
    rigid((2, 5, -3), (3.0, 2.0, -5.0)),
    rigid((-4, -3, 2), (-4.0, 6.0, 5.0)),
    np.eye(4),
]
GROWING: Ball = ((14.0, -2.0, 30.0), 3.2)
GROWN: Ball = ((14.0, -2.0, 30.0), 4.2)
LEFT: Ball = ((-12.0, -6.0, 22.0), 4.2)
RIGHT: Ball = ((-2.0, -6.0, 22.0), 3.4)
BRIDGE: Ball = ((-6.8, -6.0, 22.0), 3.4)
BIG: Ball = ((10.0, -26.0, 20.0), 4.2)
SMALL: Ball = ((20.0, -26.0, 20.0), 3.4)
JOINT: Ball = ((15.2, -26.0, 20.0), 3.4)
LATE: Ball = ((-10.0, -26.0, 12.0), 3.4)
GUEST: Ball = ((4.0, 8.0, 8.0), 3.6)
STUDIES: list[list[Ball]] = [
    [GROWING, LEFT, RIGHT, BIG, JOINT, SMALL, GUEST],
    [GROWING, LEFT, RIGHT, BIG, JOINT, SMALL],
    [GROWN, LEFT, RIGHT, BIG, JOINT, SMALL, LATE],
    [GROWN, LEFT, BRIDGE, RIGHT, BIG, SMALL, LATE, GUEST],
    [GROWN, LEFT, BRIDGE, RIGHT, BIG, SMALL, LATE],
]


def _parts(studies: Sequence[list[Ball]], first: int) -> list[LesionProbability]:
    return [
        probability(grid, balls, motion)
        for grid, balls, motion in zip(
            GRIDS[first:][: len(studies)], studies, MOTIONS[first:][: len(studies)], strict=True
        )
    ]


def run(last: int, *, first: int = 0, refused: int | None = None) -> FollowUp:
    """Follow the studies from ``first`` to ``last``, the current one."""
    parts = _parts(STUDIES[first : last + 1], first)
    to_current = np.linalg.inv(MOTIONS[last])
    aligned = [
        aligned_study(
            {"flair": flair_of(part)},
            part.probability.with_array(np.ones(part.probability.spatial_shape, dtype=bool)),
            study_uid=f"1.2.826.{k}",
            interval_days=100 * (last - k),
        )
        for k, part in enumerate(parts, start=first)
    ]
    current, *before = reversed(list(zip(aligned, parts, MOTIONS[first : last + 1], strict=True)))
    if not before:
        return compare(
            LesionProbabilities(
                aligned=aligned_studies(current[0]), current=current[1], prior=None
            ),
            SETTINGS,
        )
    prior, *earlier = before
    studies = aligned_studies(current[0], prior[0], prior[2] @ to_current)
    studies = replace(
        studies,
        earlier=tuple(
            EarlierStudy(study, registration(motion @ to_current, accepted=last - 2 - n != refused))
            for n, (study, _, motion) in enumerate(earlier)
        ),
    )
    return compare(
        LesionProbabilities(
            aligned=studies,
            current=current[1],
            prior=prior[1],
            earlier=tuple(
                None if last - 2 - n == refused else part for n, (_, part, _) in enumerate(earlier)
            ),
        ),
        SETTINGS,
    )


def at(result: FollowUp, ball: Ball, tolerance_mm: float = 2.5) -> Lesion:
    """The lesion at a place, in the current study's millimetres."""
    (found,) = (
        one
        for one in result.lesions
        if np.linalg.norm(np.subtract(one.centroid_lps_mm, ball[0])) < tolerance_mm
    )
    return found


@pytest.fixture(scope="module")
def results() -> dict[int, FollowUp]:
    """The patient as processed after each study, with all studies so far."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow_up, "locate", nowhere)
        return {last: run(last) for last in (1, 2, 3, 4)}


def _moved(ball: Ball, last: int) -> Ball:
    where = MOTIONS[last][:3, :3] @ np.asarray(ball[0]) + MOTIONS[last][:3, 3]
    return tuple(where), ball[1]


def test_every_step_names_its_changes(results: dict[int, FollowUp]) -> None:
    changes = {
        last: sorted(one.change for one in result.lesions) for last, result in results.items()
    }
    assert changes == {
        1: ["resolved", "stable", "stable", "stable", "stable"],
        2: ["enlarging", "new", "stable", "stable", "stable"],
        3: ["merged", "new", "split", "split", "stable", "stable"],
        4: ["resolved", "stable", "stable", "stable", "stable", "stable"],
    }


def test_a_lesion_keeps_its_identity_in_every_study(results: dict[int, FollowUp]) -> None:
    for ball in (GROWING, BIG):
        names = {
            (one.tracking_uid, one.tracking_id)
            for last, result in results.items()
            for one in [at(result, _moved(ball, last), 6.0 if ball is BIG else 2.5)]
        }
        assert len(names) == 1
    late = [at(results[last], _moved(LATE, last)).tracking_uid for last in (2, 3, 4)]
    assert len(set(late)) == 1
    uids = [one.tracking_uid for one in results[4].lesions]
    assert len(set(uids)) == len(uids)


def test_a_lesion_that_returns_is_the_same(results: dict[int, FollowUp]) -> None:
    gone = at(results[1], _moved(GUEST, 1))
    back = at(results[3], _moved(GUEST, 3))
    assert (gone.change, back.change) == ("resolved", "new")
    assert back.tracking_uid == gone.tracking_uid
    assert back.volumes_ml[0] == pytest.approx(ball_ml(GUEST[1]), rel=0.12)
    assert back.volumes_ml[1:3] == (0.0, 0.0)
    assert at(results[4], GUEST).change_since_first == "resolved"


def test_merged_and_split_lesions_know_where_they_came_from(results: dict[int, FollowUp]) -> None:
    left, right = (at(results[1], _moved(ball, 1)).tracking_uid for ball in (LEFT, RIGHT))
    whole = at(results[1], _moved(JOINT, 1), 6.0).tracking_uid
    for last, merged, split in ((3, "merged", "split"), (4, "stable", "stable")):
        result = results[last]
        joined = at(result, _moved(BRIDGE, last), 4.0)
        assert (joined.change, joined.tracking_uid, joined.lineage) == (merged, left, (right,))
        big, small = at(result, _moved(BIG, last)), at(result, _moved(SMALL, last))
        assert (big.change, big.tracking_uid, big.lineage) == (split, whole, ())
        assert (small.change, small.lineage) == (split, (whole,))
        assert small.tracking_uid not in (whole, left, right)


def test_changes_since_the_first_study(results: dict[int, FollowUp]) -> None:
    result = results[4]
    assert at(result, GROWN).change_since_first == "enlarging"
    assert at(result, LATE).change_since_first == "new"
    assert at(result, BRIDGE, 4.0).change_since_first == "merged"
    assert at(result, BIG).change_since_first == "split"
    assert at(result, SMALL).change_since_first == "split"
    assert all(one.change_since_first is None for one in results[1].lesions)


def test_volumes_over_time(results: dict[int, FollowUp]) -> None:
    result = results[4]
    assert [point.study_uid for point in result.time_points] == [f"1.2.826.{k}" for k in range(5)]
    assert [point.interval_days for point in result.time_points] == [400, 300, 200, 100, 0]
    assert [point.lesion_count for point in result.time_points] == [5, 4, 5, 6, 5]
    small, large = ball_ml(GROWING[1]), ball_ml(GROWN[1])
    np.testing.assert_allclose(
        at(result, GROWN).volumes_ml, [small, small, large, large, large], rtol=0.13
    )
    assert at(result, LATE).volumes_ml[:2] == (0.0, 0.0)
    joined = at(result, BRIDGE, 4.0)
    both = ball_ml(LEFT[1]) + ball_ml(RIGHT[1])
    np.testing.assert_allclose(joined.volumes_ml[:3], both, rtol=0.13)
    for one in result.lesions:
        if one.segment_number is not None:
            assert one.volumes_ml[-1] == one.volume_ml
            assert one.volumes_ml[-2] == pytest.approx(one.prior_volume_ml)
    for k, point in enumerate(result.time_points):
        low, high = point.lesion_volume_interval_ml
        assert low < point.lesion_volume_ml < high
        if k > 2:
            followed = sum(one.volumes_ml[k] or 0.0 for one in result.lesions)
            assert followed == pytest.approx(point.lesion_volume_ml)
    totals = result.totals
    assert totals.prior_lesion_volume_ml == result.time_points[-2].lesion_volume_ml
    assert totals.lesion_volume_interval_ml == result.time_points[-1].lesion_volume_interval_ml


def test_a_study_that_is_not_aligned_is_left_out(without_anatomy: None) -> None:
    result = run(2, refused=0)
    assert len(result.time_points) == 2
    assert all(len(one.volumes_ml) == 2 for one in result.lesions)
    assert all(one.change_since_first is None for one in result.lesions)

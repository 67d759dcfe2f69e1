"""Lesions that the images show and the network does not."""

from __future__ import annotations

import numpy as np
import pytest

from operators.longitudinal_comparator.follow_up import compare
from operators.messages import FollowUp, LesionProbabilities
from tests.operators.lesion_segmentation.builders import aligned_studies, aligned_study, points_of
from tests.operators.longitudinal_comparator.scenes import (
    CURRENT_GRID,
    MOTION,
    PRIOR_GRID,
    SETTINGS,
    Ball,
    ball_ml,
    flair_of,
    follow,
    probability,
)

STEADY: Ball = ((-12.0, -6.0, 22.0), 4.2)
ARISEN: Ball = ((8.0, -4.0, 30.0), 4.0)
NOW = flair_of(probability(CURRENT_GRID, [STEADY, ARISEN]))
BEFORE = flair_of(probability(PRIOR_GRID, [STEADY], MOTION))


def test_a_new_lesion_is_found_although_the_network_is_blind_for_it() -> None:
    result = follow([STEADY], [STEADY], flair_now=NOW, flair_before=BEFORE)
    assert sorted(one.change for one in result.lesions) == ["new", "stable"]
    new = next(one for one in result.lesions if one.change == "new")
    assert new.found_by == "comparison"
    assert new.change_confidence is not None and new.change_confidence > 0.95
    assert new.prior_volume_ml == 0
    np.testing.assert_allclose(new.centroid_lps_mm, ARISEN[0], atol=1.0)
    assert new.volume_ml == pytest.approx(ball_ml(ARISEN[1]), rel=0.5)
    assert new.volume_interval_ml is not None
    assert new.volume_interval_ml[0] < ball_ml(ARISEN[1]) < new.volume_interval_ml[1]
    # it is the same lesion wherever it appears
    assert new.segment_number is not None
    voxels = np.argwhere(result.labels.array == new.segment_number)
    affine = np.asarray(result.labels.affine)
    centre = voxels.mean(axis=0) @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(centre, new.centroid_lps_mm, atol=0.01)
    assert (result.totals.lesion_count, result.totals.new_count) == (2, 1)
    assert [point.lesion_count for point in result.time_points] == [1, 2]
    assert [note.code for note in result.quality] == ["found_by_comparison"]


def test_the_studies_exchanged_it_has_resolved() -> None:
    now = flair_of(probability(CURRENT_GRID, [STEADY]))
    before = flair_of(probability(PRIOR_GRID, [STEADY, ARISEN], MOTION))
    result = follow([STEADY], [STEADY], flair_now=now, flair_before=before)
    gone = next(one for one in result.lesions if one.change == "resolved")
    assert (gone.found_by, gone.volume_ml) == ("comparison", 0.0)
    np.testing.assert_allclose(gone.centroid_lps_mm, ARISEN[0], atol=1.0)
    assert result.totals.resolved_count == 1


def test_nothing_is_found_where_nothing_has_changed() -> None:
    both = [STEADY, ARISEN]
    now = flair_of(probability(CURRENT_GRID, both))
    before = flair_of(probability(PRIOR_GRID, both, MOTION))
    result = follow([STEADY], [STEADY], flair_now=now, flair_before=before)
    assert [one.change for one in result.lesions] == ["stable"]


def test_the_network_s_part_of_a_new_lesion_is_completed() -> None:
    crumb: Ball = (ARISEN[0], 1.8)
    result = follow([STEADY, crumb], [STEADY], flair_now=NOW, flair_before=BEFORE)
    new = next(one for one in result.lesions if one.change == "new")
    assert new.volume_ml > 3 * ball_ml(crumb[1])
    assert new.volume_ml == pytest.approx(ball_ml(ARISEN[1]), rel=0.5)
    assert len(result.lesions) == 2


def test_what_lies_at_the_surface_of_the_brain_is_no_lesion() -> None:
    """The same change, with the edge of the brain at its own."""
    brain = points_of(CURRENT_GRID)[..., 0] < ARISEN[0][0] + ARISEN[1]
    result = follow([STEADY], [STEADY], flair_now=NOW, flair_before=BEFORE, brain_now=brain)
    assert [one.change for one in result.lesions] == ["stable"]


@pytest.mark.parametrize(("brighter", "found"), [(True, 2), (False, 1)])
def test_a_lesion_must_be_bright_on_t2_too(brighter: bool, found: int) -> None:
    assert len(_with_t2(brighter).lesions) == found


def _with_t2(brighter: bool) -> FollowUp:
    part = probability(CURRENT_GRID, [STEADY])
    earlier = probability(PRIOR_GRID, [STEADY], MOTION)
    t2 = NOW if brighter else flair_of(part)
    current = aligned_study(
        {"flair": NOW, "t2": t2}, part.probability.with_array(np.ones(t2.spatial_shape, bool))
    )
    prior = aligned_study(
        {"flair": BEFORE, "t2": BEFORE},
        earlier.probability.with_array(np.ones(BEFORE.spatial_shape, bool)),
        study_uid="1.2.826.2",
        template_to_flair=np.linalg.inv(MOTION),
        interval_days=400,
    )
    return compare(
        LesionProbabilities(aligned_studies(current, prior, MOTION), part, earlier), SETTINGS
    )

"""Lesions in the end slices of a study."""

from __future__ import annotations

import numpy as np
import pytest

from operators.longitudinal_comparator.field_of_view import (
    either_is_cut,
    is_cut,
    is_inside,
    share_inside,
)
from operators.longitudinal_comparator.points import transform_points
from tests.operators.longitudinal_comparator.scenes import (
    CURRENT_GRID,
    MOTION,
    PRIOR_GRID,
    Ball,
    follow,
)

STEADY: Ball = ((-12.0, -6.0, 22.0), 4.2)


pytestmark = pytest.mark.usefixtures("without_anatomy")


def _at_prior_slice(k: float, radius: float) -> Ball:
    """A ball at a slice of the prior, in the current study's millimetres."""
    point = np.asarray(PRIOR_GRID.affine) @ np.array([50, 40, k, 1.0])
    x, y, z, _ = (np.linalg.inv(MOTION) @ point).tolist()
    return (x, y, z), radius


@pytest.mark.parametrize(("k", "change"), [(28.7, "baseline"), (25.0, "new")])
def test_in_the_prior_s_end_slice_nothing_can_be_new(k: float, change: str) -> None:
    ball = _at_prior_slice(k, 2.6)
    result = follow([STEADY, ball], [STEADY])
    lesion = result.lesions[1]
    np.testing.assert_allclose(lesion.centroid_lps_mm, ball[0], atol=1.0)
    assert lesion.change == change
    assert result.totals.new_count == (change == "new")
    codes = [note.code for note in result.quality]
    assert ("lesions_not_compared" in codes) == (change == "baseline")
    assert lesion.volumes_ml[0] == (0.0 if change == "new" else None)


@pytest.mark.parametrize(("k", "resolved"), [(28.7, 0), (25.0, 1)])
def test_nor_can_it_be_resolved(k: float, resolved: int) -> None:
    result = follow([STEADY], [STEADY, _at_prior_slice(k, 2.6)])
    assert result.totals.resolved_count == resolved
    assert [one.change for one in result.lesions] == ["stable"] + ["resolved"] * resolved


@pytest.mark.parametrize(("k", "change"), [(27.8, "stable"), (24.5, "enlarging")])
def test_a_lesion_that_an_end_slice_cuts_has_no_growth(k: float, change: str) -> None:
    (centre, _) = _at_prior_slice(k, 0.0)
    result = follow([STEADY, (centre, 3.6)], [STEADY, (centre, 2.6)])
    lesion = min(result.lesions, key=lambda one: one.volume_ml)
    np.testing.assert_allclose(lesion.centroid_lps_mm, centre, atol=1.0)
    assert lesion.change == change
    if change == "stable":
        now, before = lesion.volume_interval_ml, lesion.prior_volume_interval_ml
        assert now is not None and before is not None
        assert now[0] < before[1]


def test_the_same_holds_without_matched_images() -> None:
    """Images of one value cannot be matched; then the outlines decide, but not outside."""
    ball = _at_prior_slice(28.7, 2.6)
    flat = PRIOR_GRID.with_array(np.zeros(PRIOR_GRID.spatial_shape, np.float32))
    result = follow([STEADY, ball], [STEADY], flair_before=flat)
    assert "images_not_matched" in [note.code for note in result.quality]
    assert result.lesions[1].change == "baseline"


def test_share_inside_counts_points_clear_of_the_outermost_voxels() -> None:
    affine = np.asarray(PRIOR_GRID.affine)
    index = np.array([[40, 30, k, 1.0] for k in (0.4, 0.99, 1.0, 14.0, 28.0, 28.01, 29.4)])
    points = (affine @ index.T).T[:, :3]
    assert share_inside(points, PRIOR_GRID) == pytest.approx(3 / 7)
    assert [share_inside(point[None], PRIOR_GRID) for point in points] == [0, 0, 1, 1, 1, 0, 0]
    back = np.linalg.inv(MOTION)
    inner, mixed = points[2:5], points[1:4]
    assert is_inside(inner[1:], PRIOR_GRID, CURRENT_GRID, back)
    assert not is_cut(inner[1:2], PRIOR_GRID, CURRENT_GRID, back)
    assert is_inside(mixed[[0, 2]], PRIOR_GRID, CURRENT_GRID, back)
    assert is_cut(mixed[[0, 2]], PRIOR_GRID, CURRENT_GRID, back)
    assert not is_inside(points[[0, 1, 3]], PRIOR_GRID, CURRENT_GRID, back)
    # PRIOR_GRID as the later image here, CURRENT_GRID as the earlier one
    images = (PRIOR_GRID, CURRENT_GRID)
    whole_before = transform_points(back, inner[1:2])
    edge_before = np.asarray(CURRENT_GRID.affine)[:3, 3][None]
    assert not either_is_cut(inner[1:2], [whole_before], images, back)
    assert either_is_cut(mixed[[0, 2]], [whole_before], images, back)
    assert either_is_cut(inner[1:2], [whole_before, edge_before], images, back)

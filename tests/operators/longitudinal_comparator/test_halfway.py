from __future__ import annotations

import highdicom as hd
import numpy as np
import pytest
from scipy import ndimage

from operators.longitudinal_comparator.halfway import (
    at_common_resolution,
    half_of,
    halfway,
    onto,
)
from operators.longitudinal_comparator.points import transform_points
from tests.operators.lesion_segmentation.builders import empty_volume, paint, points_of, rigid

CURRENT = empty_volume(
    (24, 60, 52), (2.6, 0.8, 1.1), (8, -5, 3), (3, -11, 20), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
PRIOR = empty_volume((56, 48, 28), (1.0, 1.3, 2.2), (-3, 4, -6), (8, -2, 31))
MOTION = rigid((6, -4, 5), (6.0, 9.5, 12.0))


def _brain(volume: hd.Volume) -> hd.Volume:
    return volume.with_array(np.ones(volume.spatial_shape, dtype=bool))


def test_the_half_applied_twice_is_the_whole() -> None:
    stretched = MOTION.copy()
    stretched[:3, :3] *= 1.01
    for matrix in (MOTION, stretched, rigid((120, 40, -70), (30, -80, 10))):
        half = half_of(matrix)
        np.testing.assert_allclose(half @ half, matrix, atol=1e-8)
    np.testing.assert_allclose(
        half_of(np.linalg.inv(MOTION)) @ half_of(MOTION), np.eye(4), atol=1e-8
    )


def test_a_mirror_cannot_be_halved() -> None:
    with pytest.raises(ValueError, match="halved"):
        half_of(np.diag([-1.0, 1.0, 1.0, 1.0]))


def test_both_studies_lie_half_way_and_on_one_grid() -> None:
    space = halfway(_brain(CURRENT), _brain(PRIOR), CURRENT, PRIOR, MOTION)
    np.testing.assert_allclose(space.to_prior @ np.linalg.inv(space.to_current), MOTION, atol=1e-8)
    point = np.array([[5.0, -8.0, 22.0]])
    there = transform_points(MOTION, point)
    np.testing.assert_allclose(space.from_current(point), space.from_prior(there), atol=1e-8)
    # the middle of a point's two places, but for the curve of the rotation
    middle = transform_points(np.asarray(space.grid.affine), space.from_current(point))
    assert np.linalg.norm(middle - (point + there) / 2) < 0.2 * np.linalg.norm(there - point)
    assert space.spacing_mm == pytest.approx(1.0)
    back = halfway(_brain(PRIOR), _brain(CURRENT), PRIOR, CURRENT, np.linalg.inv(MOTION))
    np.testing.assert_allclose(back.grid.affine, space.grid.affine, atol=1e-8)
    assert back.grid.spatial_shape == space.grid.spatial_shape


def test_an_image_keeps_its_values_and_places() -> None:
    def field(points: np.ndarray) -> np.ndarray:
        return 100 + points @ np.array([1.5, -0.7, 2.1])

    space = halfway(_brain(CURRENT), _brain(PRIOR), CURRENT, PRIOR, MOTION)
    now = onto(paint(CURRENT, field), space, space.to_current)
    before = onto(paint(PRIOR, field, MOTION), space, space.to_prior)
    # in the outer half of the outermost voxels there is nothing to interpolate with
    both = ndimage.binary_erosion(np.isfinite(now) & np.isfinite(before), iterations=2)
    assert both.mean() > 0.1
    np.testing.assert_allclose(now[both], before[both], atol=1e-2)
    here = transform_points(space.to_current, points_of(space.grid).reshape(-1, 3))
    np.testing.assert_allclose(now[both], field(here).reshape(both.shape)[both], atol=1e-2)


def test_only_the_sharper_image_is_blurred_and_only_across_the_thick_slices() -> None:
    thin = empty_volume((30, 30, 40), (1.0, 1.0, 1.0), (4, 3, -5))
    thick = empty_volume((30, 30, 12), (1.0, 1.0, 4.0), (4, 3, -5))
    thin = thin.with_array(np.random.default_rng(1).normal(0, 1, thin.spatial_shape))
    eye = np.eye(4)
    assert at_common_resolution(thick, thin, eye, eye, 1.0) is thick
    blurred = at_common_resolution(thin, thick, eye, eye, 1.0).array
    impulse = np.zeros(thin.spatial_shape)
    impulse[15, 15, 20] = 1
    response = at_common_resolution(thin.with_array(impulse), thick, eye, eye, 1.0).array
    spread = [
        (response.sum(axis=tuple({0, 1, 2} - {axis})) * (np.arange(n) - c) ** 2).sum()
        for axis, (n, c) in enumerate(zip(impulse.shape, (15, 15, 20), strict=True))
    ]
    # a box of 4 mm has a variance of 16 / 12, one of 1 mm a twelfth
    np.testing.assert_allclose(spread, [0, 0, 15 / 12], atol=0.03)
    assert blurred.std() < thin.array.std()

from __future__ import annotations

import numpy as np
import pytest

from operators.errors import InputError
from operators.lesion_segmentation.grids import prepare, to_flair_grid, working_grid
from tests.operators.lesion_segmentation.builders import (
    aligned_study,
    empty_volume,
    paint,
    points_of,
    rigid,
    write_package,
)

FLAIR = empty_volume(
    (22, 40, 34), (3.2, 0.9, 1.3), (7, -4, 5), (3, -11, 20), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
"""Axial slices first, rows, columns; oblique."""
T2 = empty_volume((44, 50, 26), (1.1, 1.0, 2.6), (-3, 6, 2), (8, -6, 17))
MOTION = rigid((4, -3, 2), (5.0, 4.0, -3.0))
"""FLAIR points to T2 points."""
BALL = np.array([4.0, -9.0, 24.0])


def _ellipsoid(points: np.ndarray) -> np.ndarray:
    return (((points - [3, -11, 20]) / [15, 14, 24]) ** 2).sum(-1) <= 1


def _smooth(points: np.ndarray) -> np.ndarray:
    distance = ((points - BALL) ** 2).sum(-1)
    return 100 + 40 * np.exp(-distance / (2 * 6.0**2)) + 0.8 * points[..., 0]


@pytest.fixture
def description(tmp_path):
    return write_package(tmp_path / "p", ("flair", "t2")).description


def test_the_working_grid_keeps_the_axes_and_covers_the_brain() -> None:
    mask = paint(FLAIR, _ellipsoid)
    grid = working_grid(mask, (1.5, 1.0, 0.8))
    np.testing.assert_allclose(grid.spacing, (0.8, 1.0, 1.5))
    # x, y, z of the FLAIR are its k, j, i axes
    np.testing.assert_allclose(grid.direction, np.asarray(FLAIR.direction)[:, ::-1], atol=1e-9)
    inside = points_of(FLAIR)[mask.array > 0]
    index = (inside - grid.position) @ np.linalg.inv(np.asarray(grid.affine)[:3, :3]).T
    assert index.min() >= -0.5
    assert (index.max(axis=0) <= np.asarray(grid.spatial_shape) - 0.5).all()
    volume = np.prod(np.asarray(grid.spatial_shape) * grid.spacing)
    assert volume < 1.6 * np.prod([30, 28, 48])


def test_a_grid_with_the_model_spacing_is_not_moved() -> None:
    flair = empty_volume((20, 24, 28), (1, 1, 1), (7, -4, 5), (3, -11, 20))
    grid = working_grid(paint(flair, lambda p: np.ones(p.shape[:-1])), (1, 1, 1))
    np.testing.assert_allclose(grid.affine, flair.affine, atol=1e-9)
    assert grid.spatial_shape == flair.spatial_shape


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="no voxel"):
        working_grid(FLAIR, (1, 1, 1))


def test_both_sequences_meet_in_patient_millimetres(description) -> None:
    study = aligned_study(
        {"flair": paint(FLAIR, _smooth), "t2": paint(T2, lambda p: 3 * _smooth(p) + 7, MOTION)},
        paint(FLAIR, _ellipsoid),
        matrices={"t2": MOTION},
    )
    prepared = prepare(study, description)
    assert prepared.image.dtype == np.float32
    assert prepared.coverage["flair"] == pytest.approx(1, abs=1e-6)
    for channel in prepared.image:
        assert channel[prepared.mask].mean() == pytest.approx(0, abs=1e-4)
        assert channel[prepared.mask].std() == pytest.approx(1, abs=1e-4)
        assert (channel[~prepared.mask] == 0).all()
    # the two are the same field up to scale: they must agree after normalisation
    difference = np.abs(prepared.image[0] - prepared.image[1])[prepared.mask]
    assert difference.mean() < 0.02
    assert difference.max() < 0.25
    # and the field is where it belongs: the array is (z, y, x) of the grid
    expected = _smooth(points_of(prepared.grid)).transpose(2, 1, 0)
    correlation = np.corrcoef(prepared.image[0][prepared.mask], expected[prepared.mask])[0, 1]
    assert correlation > 0.999


def test_a_wrong_matrix_would_be_seen(description) -> None:
    """Guards the test above: without the registration the channels disagree."""
    study = aligned_study(
        {"flair": paint(FLAIR, _smooth), "t2": paint(T2, _smooth, MOTION)}, paint(FLAIR, _ellipsoid)
    )
    prepared = prepare(study, description)
    difference = np.abs(prepared.image[0] - prepared.image[1])[prepared.mask]
    assert difference.mean() > 0.1


def test_partial_coverage_is_measured_and_filled_with_the_mean(description) -> None:
    short = empty_volume((44, 50, 10), (1.1, 1.0, 2.6), (-3, 6, 2), (8, -6, 4))
    study = aligned_study(
        {"flair": paint(FLAIR, _smooth), "t2": paint(short, _smooth)}, paint(FLAIR, _ellipsoid)
    )
    prepared = prepare(study, description)
    assert 0.2 < prepared.coverage["t2"] < 0.8
    channel = prepared.image[1]
    known = channel != 0
    assert channel[known & prepared.mask].mean() == pytest.approx(0, abs=1e-3)


def test_a_series_beside_the_brain_is_refused(description) -> None:
    far = empty_volume((20, 20, 20), (1, 1, 1), centre=(300, 0, 0))
    study = aligned_study(
        {"flair": paint(FLAIR, _smooth), "t2": paint(far, _smooth)}, paint(FLAIR, _ellipsoid)
    )
    with pytest.raises(InputError, match="series 2"):
        prepare(study, description)


def test_the_return_trip_keeps_place_and_volume() -> None:
    mask = paint(FLAIR, _ellipsoid)
    mask = mask.with_array(mask.array > 0)
    grid = working_grid(mask, (1, 1, 1))
    radius = 6.0
    distance = np.linalg.norm(points_of(grid) - BALL, axis=-1)
    probability = np.clip(radius - distance + 0.5, 0, 1).astype(np.float32).transpose(2, 1, 0)
    back = to_flair_grid(probability, grid, mask)
    assert back.spatial_shape == FLAIR.spatial_shape
    assert back.array.dtype == np.float32
    assert (back.array[~mask.array] == 0).all()
    lesion = back.array >= 0.5
    np.testing.assert_allclose(points_of(FLAIR)[lesion].mean(axis=0), BALL, atol=0.35)
    volume = lesion.sum() * np.prod(FLAIR.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.06)

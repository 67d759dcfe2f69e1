from __future__ import annotations

import time

import highdicom as hd
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from operators.longitudinal_comparator.lesions import find_lesions, maximum_diameter
from operators.longitudinal_comparator.size import LeastSize
from tests.operators.lesion_segmentation.builders import empty_volume, points_of

LEAST = LeastSize(4.0, 3.0)
ANY = LeastSize(0.1, 0.1)
GRID = empty_volume((30, 44, 38), (2.4, 0.7, 1.1), (8, -5, 3), (3, -11, 20))


def _with(*voxels: tuple[int, int, int], value: float = 0.9) -> hd.Volume:
    array = np.zeros(GRID.spatial_shape, dtype=np.float32)
    for voxel in voxels:
        array[voxel] = value
    return GRID.with_array(array)


def test_a_ball_has_its_volume_diameter_place_and_confidence() -> None:
    centre, radius = np.array([5.0, -9.0, 24.0]), 7.0
    distance = np.linalg.norm(points_of(GRID) - centre, axis=-1)
    array = np.where(distance <= radius, 0.8, 0.1).astype(np.float32)
    (lesion,) = find_lesions(GRID.with_array(array), 0.5, LEAST)
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.05)
    assert lesion.diameter_mm == pytest.approx(2 * radius, rel=0.05)
    np.testing.assert_allclose(lesion.centroid, centre, atol=0.3)
    assert lesion.confidence == pytest.approx(0.8, abs=1e-6)
    assert lesion.volume_ml == pytest.approx(
        (distance <= radius).sum() * 2.4 * 0.7 * 1.1 / 1000, rel=1e-9
    )


def test_touching_corners_make_one_lesion_and_a_gap_makes_two() -> None:
    one = _with((5, 5, 5), (6, 6, 6), (7, 7, 7))
    assert len(find_lesions(one, 0.5, ANY)) == 1
    two = _with((5, 5, 5), (6, 6, 6), (7, 7, 7), (9, 7, 7), (10, 7, 7), (11, 7, 7))
    assert len(find_lesions(two, 0.5, ANY)) == 2


@pytest.mark.parametrize(
    ("voxels", "kept"),
    [
        ([(5, 5, 5), (6, 5, 5)], False),  # 4.8 mm long, but 3.7 mm³
        ([(5, 5, 5), (5, 6, 5), (5, 7, 5)], False),  # three voxels, 2.1 mm long
        ([(5, 5, 5), (5, 6, 5), (5, 7, 5), (5, 8, 5)], False),  # 2.8 mm
        ([(5, 5, 5), (5, 6, 5), (5, 7, 5), (5, 8, 5), (5, 9, 5)], True),  # 3.5 mm
        ([(5, 5, k) for k in range(5, 11)], True),  # 6.6 mm
    ],
)
def test_both_lower_limits_count(voxels: list[tuple[int, int, int]], kept: bool) -> None:
    assert len(find_lesions(_with(*voxels), 0.5, LEAST)) == kept


def test_the_threshold_itself_is_lesion() -> None:
    voxels = [(5, 5, k) for k in range(5, 9)]
    assert len(find_lesions(_with(*voxels, value=0.5), 0.5, ANY)) == 1
    assert len(find_lesions(_with(*voxels, value=0.4999), 0.5, ANY)) == 0


def test_the_diameter_equals_that_of_all_pairs() -> None:
    random = np.random.default_rng(4)
    for _ in range(20):
        indices = np.unique(random.integers(0, 9, size=(60, 3)), axis=0)
        points = indices @ GRID.affine[:3, :3].T
        distances = pdist(points)
        first, second = (rows[distances.argmax()] for rows in np.triu_indices(len(points), 1))
        line = (points[second] - points[first]) / distances.max()
        extent = (np.asarray(GRID.spacing) / np.abs(line @ GRID.direction)).min()
        assert maximum_diameter(indices, GRID.affine) == pytest.approx(
            (distances.max(), distances.max() + extent)
        )


def test_lesions_come_largest_first_and_equal_ones_by_position() -> None:
    rows = [(20, 5, k) for k in range(4)] + [(10, 5, k) for k in range(4)]
    rows += [(2, 20, k) for k in range(9)]
    found = find_lesions(_with(*rows), 0.5, LEAST)
    assert [one.indices[0].tolist() for one in found] == [[2, 20, 0], [10, 5, 0], [20, 5, 0]]


def test_the_centre_voxel_belongs_to_the_lesion() -> None:
    ring = [
        (5, 20 + round(8 * np.cos(a)), 20 + round(8 * np.sin(a))) for a in np.linspace(0, 6.2, 80)
    ]
    (lesion,) = find_lesions(_with(*ring), 0.5, LEAST)
    assert lesion.centre_voxel in set(map(tuple, lesion.indices.tolist()))


def test_a_large_volume_is_fast() -> None:
    """320×320×200 with 200 lesions; generous, the machine may be busy."""
    random = np.random.default_rng(5)
    array = np.zeros((320, 320, 200), dtype=np.float32)
    for corner in random.integers(10, 180, size=(200, 3)):
        size = random.integers(2, 9, size=3)
        array[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = 0.9
    volume = hd.Volume(array, affine=np.diag([0.7, 0.7, 0.8, 1]), coordinate_system="PATIENT")
    start = time.process_time()
    found = find_lesions(volume, 0.5, LEAST)
    assert len(found) > 100
    assert time.process_time() - start < 5

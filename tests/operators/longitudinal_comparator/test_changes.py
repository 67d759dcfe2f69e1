"""Intervals of volumes, and the class of a change with its confidence."""

from __future__ import annotations

import numpy as np
import pytest

from operators.longitudinal_comparator.changes import appeared, grown
from operators.longitudinal_comparator.evidence import Evidence
from operators.longitudinal_comparator.lesions import find_lesions
from operators.longitudinal_comparator.size import LeastSize, fine_size
from operators.longitudinal_comparator.step import needed_widening
from operators.longitudinal_comparator.volumes import Measured, measured, rim_ml, total
from operators.messages import Change
from tests.operators.lesion_segmentation.builders import empty_volume, points_of
from tests.operators.longitudinal_comparator.scenes import SETTINGS

LEAST = LeastSize(10.0, 3.0)


def _ball(spacing, shape, radius, centre, angles=(0.0, 0.0, 0.0), rim=1.0, peak=1.0):
    grid = empty_volume(shape, spacing, angles)
    distance = np.linalg.norm(points_of(grid) - np.asarray(centre), axis=-1)
    values = np.clip((radius - distance) / rim + 0.5, 0, 1) * peak
    return grid.with_array(values.astype(np.float32))


@pytest.mark.parametrize(("radius", "counts"), [(0.9, False), (2.0, True), (3.0, True)])
def test_the_same_lesion_counts_on_any_voxels(radius: float, counts: bool) -> None:
    random = np.random.default_rng(11)
    for _ in range(12):
        centre, angles = random.uniform(-1.5, 1.5, 3), random.uniform(-15, 15, 3)
        for spacing, shape in (((1.0, 1.0, 1.0), (24, 24, 24)), ((0.5, 0.5, 3.0), (48, 48, 8))):
            image = _ball(spacing, shape, radius, centre, angles)
            assert bool(find_lesions(image, 0.5, LEAST)) is counts


def test_size_on_the_lattice_is_that_of_the_lesion() -> None:
    for spacing, shape in (((1.0, 1.0, 1.0), (24, 24, 24)), ((0.5, 0.6, 2.0), (48, 40, 12))):
        image = _ball(spacing, shape, 3.5, (0.3, -0.4, 0.2), (10, -7, 5))
        volume, extent = fine_size(np.argwhere(image.array >= 0.5), image, 0.5)
        assert volume == pytest.approx(4 / 3 * np.pi * 3.5**3, rel=0.12)
        assert extent == pytest.approx(7.0, abs=1.0)
    # a row of voxels in one plane, and one voxel
    flat = empty_volume((9, 9, 9), (1.0, 1.0, 1.0))
    flat.array[4, 4, 2:7] = 0.9
    assert 3.5 < fine_size(np.argwhere(flat.array > 0.5), flat, 0.5)[1] < 5.5


def test_a_faint_lesion_is_not_smaller_than_a_clear_one() -> None:
    sizes = []
    for peak in (0.42, 1.0):
        image = _ball((1.0, 1.0, 1.0), (24, 24, 24), 2.4, (0.2, 0.1, -0.3), rim=0.2, peak=peak)
        sizes.append(fine_size(np.argwhere(image.array >= 0.4), image, 0.4)[0])
    assert sizes[0] == pytest.approx(sizes[1], rel=0.25)


def test_an_interval_holds_the_measured_error_of_an_outline() -> None:
    """Outlines of planted lesions lay 0.35 mm (root mean square) from the true edge."""
    image = _ball((1.0, 0.8, 1.2), (30, 36, 26), 5.0, (0, 0, 0), (9, -4, 6))
    (lesion,) = find_lesions(image, 0.5, LEAST)
    volume = measured(lesion, image, 0.5)
    surface = 4 * np.pi * (3 * volume.ml * 1000 / (4 * np.pi)) ** (2 / 3)
    assert 1000 * volume.outline_ml / surface == pytest.approx(0.35, rel=0.01)
    low, high = volume.interval_ml
    radii = [(3 * 1000 * ml / (4 * np.pi)) ** (1 / 3) for ml in (low, volume.ml, high)]
    assert radii[1] - radii[0] > 0.5 and radii[2] - radii[1] > 0.7


def test_a_soft_rim_widens_the_interval() -> None:
    relative = []
    for rim in (0.5, 4.0):
        image = _ball((1.0, 0.8, 1.2), (30, 36, 26), 5.0, (0, 0, 0), (9, -4, 6), rim=rim)
        (lesion,) = find_lesions(image, 0.5, LEAST)
        volume = measured(lesion, image, 0.5)
        low, high = volume.interval_ml
        assert low < volume.ml < high
        assert low * high == pytest.approx(volume.ml**2)
        relative.append(volume.relative)
    assert relative[1] > 2 * relative[0]


def test_the_rim_of_a_lesion_is_where_the_probability_is_undecided() -> None:
    image = empty_volume((8, 8, 8), (1.0, 2.0, 0.5))
    image.array[3:5, 3:5, 3:5] = 1.0
    image.array[5, 3:5, 3:5] = 0.5
    (lesion,) = find_lesions(image, 0.5, LeastSize(1.0, 1.0))
    assert rim_ml(lesion, image) == pytest.approx(4 * 0.25 / 1000)


def test_a_sum_is_known_better_than_its_parts_but_not_as_if_they_were_independent() -> None:
    parts = [Measured(0.2, 0.04)] * 16
    whole = total(parts)
    assert whole.ml == pytest.approx(3.2)
    assert 0.04 * 4 < whole.deviation_ml < 0.04 * 16
    assert total([]).interval_ml == (0.0, 0.0)
    assert total(parts[:1]).deviation_ml == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("now", "before", "signal", "change"),
    [
        (1.5, 1.0, (1.5, 1.0), "enlarging"),
        (1.0, 1.5, (1.0, 1.5), "shrinking"),
        (1.2, 1.0, (1.5, 1.0), "stable"),  # less than 30 %
        (1.5, 1.0, (1.05, 1.0), "stable"),  # the images do not show it
        (1.5, 1.0, (1.0, 1.5), "stable"),  # the images show the opposite
        (1.5, 1.0, None, "enlarging"),  # the images cannot be asked
    ],
)
def test_growth_needs_outlines_and_images(
    now: float, before: float, signal: tuple[float, float] | None, change: Change
) -> None:
    found = None if signal is None else Evidence(*signal, noise=0.08)
    verdict = grown(Measured(now, 0.08), Measured(before, 0.08), found, SETTINGS)
    assert verdict.change == change
    assert 0.5 <= verdict.confidence <= 1


@pytest.mark.parametrize(("noise", "change"), [(0.22, "enlarging"), (0.26, "stable")])
def test_a_growth_that_outlines_say_needs_two_standard_deviations_in_the_images(
    noise: float, change: Change
) -> None:
    """For a lesion that is there in both studies, at one known place: not the three of a new one,
    for which every place was searched."""
    found = Evidence(1.5, 1.0, noise=noise)
    now, before = Measured(0.46, 0.02), Measured(0.3, 0.015)
    verdict = grown(now, before, found, SETTINGS)
    assert verdict.change == change
    assert grown(before, now, found.exchanged, SETTINGS).change == (
        "shrinking" if change == "enlarging" else "stable"
    )


def test_growth_inside_the_interval_is_stable() -> None:
    found, noisy = Evidence(1.5, 1.0, noise=0.05), Evidence(1.3, 1.0, noise=0.3)
    exact = grown(Measured(0.05, 0.004), Measured(0.03, 0.003), found, SETTINGS)
    rough = grown(Measured(0.05, 0.015), Measured(0.03, 0.009), noisy, SETTINGS)
    assert (exact.change, rough.change) == ("enlarging", "stable")
    assert exact.confidence > rough.confidence


def test_rough_outlines_do_not_hide_a_growth_that_the_images_show() -> None:
    now, before = Measured(0.18, 0.06), Measured(0.09, 0.04)
    alone = grown(now, before, None, SETTINGS)
    together = grown(now, before, Evidence(2.0, 1.0, noise=0.1), SETTINGS)
    assert (alone.change, together.change) == ("stable", "enlarging")
    back = grown(before, now, Evidence(1.0, 2.0, noise=0.1), SETTINGS)
    assert (back.change, back.confidence) == ("shrinking", pytest.approx(together.confidence))


def test_the_common_error_of_all_outlines_is_in_the_interval_but_not_in_the_growth() -> None:
    exact, biased = Measured(0.2, 0.01), Measured(0.2, 0.01, outline_ml=0.04)
    assert biased.interval_ml[0] < exact.interval_ml[0] < exact.interval_ml[1]
    assert biased.relative == exact.relative
    found = Evidence(1.4, 1.0, noise=0.05)
    assert grown(biased, Measured(0.14, 0.01, 0.03), found, SETTINGS) == grown(
        exact, Measured(0.14, 0.01), found, SETTINGS
    )


def test_a_new_lesion_must_stand_out_from_the_noise_and_from_what_was_there() -> None:
    sure = appeared(Evidence(2.0, 0.1, noise=0.1), SETTINGS)
    assert sure is not None and sure.change == "new" and sure.confidence > 0.99
    assert appeared(Evidence(2.0, 0.1, noise=0.8), SETTINGS) is None
    assert appeared(Evidence(2.0, 1.2, noise=0.1), SETTINGS) is None
    assert appeared(Evidence(-0.1, -2.0, noise=0.1), SETTINGS) is None
    nearly = appeared(Evidence(2.0, 0.95, noise=0.3), SETTINGS)
    assert nearly is not None and 0.5 <= nearly.confidence < sure.confidence


def test_intervals_of_a_stable_lesion_hold_both_volumes() -> None:
    now, before = Measured(0.10, 0.01), Measured(0.06, 0.006)
    factor = needed_widening(now, before)
    assert factor > 1
    (low, _), (_, high) = now.widened(factor).interval_ml, before.widened(factor).interval_ml
    assert low <= high
    assert needed_widening(now, Measured(0.10, 0.01)) == 1.0

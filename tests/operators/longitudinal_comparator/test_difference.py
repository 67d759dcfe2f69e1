"""Matching brightness and sharpness, and measuring the noise of what is left."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from operators.longitudinal_comparator.difference import Difference
from operators.longitudinal_comparator.evidence import Evidence, Images, LesionGain, lesion_gain
from operators.longitudinal_comparator.halfway import Halfway
from operators.longitudinal_comparator.increase import find_changes
from operators.longitudinal_comparator.intensity import matched
from operators.longitudinal_comparator.noise import blurred_at, edge_strength, measure_noise
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.sharpness import equally_sharp
from operators.longitudinal_comparator.size import LeastSize
from tests.operators.lesion_segmentation.builders import empty_volume

SHAPE = (64, 70, 58)


def _brain(seed: int = 0) -> np.ndarray:
    """Smooth structures, as tissue is."""
    noise = np.random.default_rng(seed).normal(0, 1, SHAPE)
    rough = ndimage.gaussian_filter(noise, 1.2)
    return np.clip(100 + 25 * rough / rough.std(), 20, 180).astype(np.float32)


def _field() -> np.ndarray:
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    return np.exp(0.2 * x - 0.15 * y * z)


def _noise(seed: int, sd: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sd, SHAPE)


def test_bias_contrast_and_scale_of_two_scans_cancel() -> None:
    brain = _brain()
    normal = np.ones(SHAPE, dtype=bool)
    other = (400 * (brain / 100) ** 1.3 * _field() + 50).astype(np.float32)
    one, two = matched(brain, other, normal, 1.0)
    assert one.std() == pytest.approx(1.0, abs=0.1)
    inner = (slice(6, -6),) * 3
    assert (one - two)[inner].std() < 0.08


def test_a_new_lesion_survives_the_matching_and_an_exchange_changes_its_sign() -> None:
    brain = _brain()
    lesion = np.zeros(SHAPE, dtype=bool)
    lesion[30:36, 30:36, 26:32] = True
    normal = ~ndimage.binary_dilation(lesion, iterations=2)
    now = np.where(lesion, brain + 75, brain).astype(np.float32)
    before = (brain * _field() * 3).astype(np.float32)
    one, two = matched(now, before, normal, 1.0)
    assert (one - two)[lesion].mean() == pytest.approx(3.0, abs=0.5)
    assert abs((one - two)[normal].mean()) < 0.05
    back_one, back_two = matched(before, now, normal, 1.0)
    np.testing.assert_allclose(back_one - back_two, two - one, atol=1e-3)


def test_an_image_without_structure_cannot_be_matched() -> None:
    flat = np.full(SHAPE, 7.0, dtype=np.float32)
    with pytest.raises(ValueError, match="one value"):
        matched(flat, flat, np.ones(SHAPE, dtype=bool), 1.0)
    with pytest.raises(ValueError, match="free of lesions"):
        matched(_brain(), _brain(), np.zeros(SHAPE, dtype=bool), 1.0)


def test_the_sharper_image_is_blurred_along_the_axis_that_needs_it() -> None:
    sharp = _brain()
    soft = ndimage.gaussian_filter1d(sharp, 0.9, axis=1)
    normal = np.ones(SHAPE, dtype=bool)
    one, two = equally_sharp(sharp, soft, normal, 1.0)
    assert two is soft
    assert (one - soft).std() < 0.4 * (sharp - soft).std()
    two, one = equally_sharp(soft, sharp, normal, 1.0)
    assert (one - soft).std() < 0.4 * (sharp - soft).std()
    same, again = equally_sharp(sharp, sharp, normal, 1.0)
    assert same is sharp and again is sharp


def test_the_noise_of_a_mean_falls_with_the_region_and_rises_at_edges() -> None:
    normal = np.ones(SHAPE, dtype=bool)
    white = _noise(3, 0.5).astype(np.float32)
    edges = np.ones(SHAPE, dtype=np.float32)
    model = measure_noise(white, edges, normal, 1.0)
    for ml in (0.03, 0.1, 0.4):
        radius = (750 * ml / np.pi) ** (1 / 3)
        sigma = radius / np.sqrt(5)
        expected = 0.5 / (2 * np.sqrt(np.pi) * sigma) ** 1.5
        assert model.of_region(ml, 1.0) == pytest.approx(expected, rel=0.25)
    # an image that is off by a third of a voxel differs at its edges
    brain = _brain() / 25
    moved = ndimage.shift(brain, (0.35, 0.0, 0.0), order=3, mode="nearest")
    strength = edge_strength(brain, moved, 1.0)
    model = measure_noise((brain - moved).astype(np.float32), strength, normal, 1.0)
    weak, strong = np.quantile(strength, (0.1, 0.9))
    assert model.of_region(0.03, float(strong)) > 1.5 * model.of_region(0.03, float(weak))


@pytest.mark.parametrize("mode", ["constant", "nearest"])
def test_a_thinned_blur_is_the_blur_thinned(mode) -> None:
    brain = _brain()
    whole = ndimage.gaussian_filter(brain, 1.7, mode=mode, truncate=3)
    np.testing.assert_array_equal(blurred_at(brain, 1.7, 2, mode=mode), whole[::2, ::2, ::2])


def _images(now: np.ndarray, before: np.ndarray, lesions: np.ndarray) -> Images:
    grid = empty_volume(SHAPE, (1.0, 1.0, 1.0))
    edges = edge_strength(now, before, 1.0)
    return Images(
        Difference(
            space=Halfway(grid, np.eye(4), np.eye(4)),
            current=now,
            prior=before,
            seen=np.ones(SHAPE, dtype=bool),
            lesions=lesions,
            edges=edges,
            noise=measure_noise(now - before, edges, ~lesions, 1.0),
            current_probability=np.zeros(SHAPE, np.float32),
            prior_probability=np.zeros(SHAPE, np.float32),
            brain=np.ones(SHAPE, dtype=bool),
        )
    )


def test_the_signal_of_a_new_lesion_and_of_none() -> None:
    lesion = np.zeros(SHAPE, dtype=bool)
    lesion[30:36, 30:36, 26:32] = True
    brain = ((_brain() - 100) / 250).astype(np.float32)
    now = (brain + 2.0 * lesion + _noise(1, 0.1)).astype(np.float32)
    before = (brain + _noise(2, 0.1)).astype(np.float32)
    images = _images(now, before, lesion)
    index = np.argwhere(lesion).astype(float)
    found = images.signal(index, wide=False)
    assert found is not None
    assert found.now == pytest.approx(2.0, abs=0.15)
    assert found.before == pytest.approx(0.0, abs=0.15)
    assert found.z > 10
    assert found.exchanged.z == pytest.approx(-found.z)
    nothing = images.signal(index - 18, wide=False)
    assert nothing is not None and abs(nothing.z) < 4
    assert images.signal(index + 500, wide=False) is None


def test_what_has_become_darker_is_an_increase_with_the_images_exchanged() -> None:
    new, gone = (np.zeros(SHAPE, dtype=bool) for _ in range(2))
    new[40:47, 28:35, 26:33] = True
    gone[20:26, 36:42, 24:30] = True
    brain = ((_brain() - 100) / 250).astype(np.float32)
    now = (brain + 2.0 * new + _noise(1, 0.1)).astype(np.float32)
    before = (brain + 1.7 * gone + _noise(2, 0.1)).astype(np.float32)
    images = _images(now, before, new | gone).with_gain(LesionGain(1.1, 0.1))
    least = LeastSize(10.0, 3.0)
    settings = LongitudinalComparatorSettings()
    (brighter,), (darker,) = find_changes(images, settings, least)
    for region, where in ((brighter, new), (darker, gone)):
        assert where[tuple(region.voxels.T)].mean() > 0.8
        assert region.found.now > 1.4 and abs(region.found.before) < 0.3
    (as_brighter,), (as_darker,) = find_changes(images.exchanged, settings, least)
    for one, other in ((brighter, as_darker), (darker, as_brighter)):
        np.testing.assert_array_equal(one.voxels, other.voxels)
        assert (one.peak, one.found) == (pytest.approx(other.peak), other.found)


def test_the_surroundings_of_a_region_are_brain_without_lesions() -> None:
    lesion, neighbour = (np.zeros(SHAPE, dtype=bool) for _ in range(2))
    lesion[30:34, 30:34, 26:30] = True
    neighbour[37:40, 30:34, 26:30] = True
    brain = _brain()
    around = _images(brain, brain, lesion | neighbour).around(np.argwhere(lesion))
    ring = np.zeros(SHAPE, dtype=bool)
    ring[tuple(around.ring_voxels.T)] = True
    distance = ndimage.distance_transform_edt(~lesion)
    expected = (distance > 2) & (distance <= 6) & ~neighbour & ~lesion
    np.testing.assert_array_equal(ring, expected)
    assert (around.distance_mm == 0).sum() == lesion.sum()


def test_the_contrast_of_all_lesions_is_no_change_of_one() -> None:
    pairs = [Evidence(2.0 * k, 1.6 * k * (1 + 0.02 * (-1) ** k), 0.05) for k in range(1, 9)]
    gain = lesion_gain(pairs)
    assert gain.ratio == pytest.approx(1.25, rel=0.03)
    assert lesion_gain(pairs[:5]) == LesionGain()
    faint = [Evidence(0.05, 0.06, 0.05)] * 20
    assert lesion_gain(faint) == LesionGain()

"""The one-matrix-per-axis resampling against nnU-Net v2's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling import default_resampling as reference
from scipy.ndimage import gaussian_filter

from operators.lesion_segmentation.resampling import (
    Plan,
    reach,
    resample,
    resample_labels,
    resampled_shape,
    thick_axis,
)

CASES = [
    ((18, 25, 31), (1.2, 1.1, 0.9), (1.0, 1.0, 1.0), None),
    ((12, 30, 34), (3.0, 0.7, 0.7), (1.0, 1.0, 1.0), None),
    ((30, 34, 12), (0.7, 0.7, 3.0), (0.8, 0.9, 2.5), None),
    ((30, 12, 34), (1.0, 1.0, 1.0), (0.8, 4.5, 0.9), None),
    ((20, 24, 13), (1.0, 1.0, 1.5), (0.8, 0.9, 1.0), True),
    ((12, 30, 34), (4.0, 0.7, 0.7), (1.0, 1.0, 1.0), False),
    ((16, 20, 24), (0.2, 1.0, 1.0), (0.3, 0.8, 0.9), None),
]


def _volume(shape: tuple[int, ...]) -> np.ndarray:
    noise = np.random.default_rng(5).normal(size=shape)
    return (100 * gaussian_filter(noise, 1)).astype(np.float32)


def _plan(shape, spacing, target, force) -> Plan:
    return Plan(
        shape,
        resampled_shape(shape, spacing, target),
        thick_axis(spacing, target, force=force),
    )


@pytest.mark.parametrize(("shape", "spacing", "target", "force"), CASES)
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (1, 0), (3, 1), (0, 0)])
def test_images_are_resampled_as_nnunet_does(
    shape, spacing, target, force, order: int, order_z: int
) -> None:
    volume = _volume(shape)
    plan = _plan(shape, spacing, target, force)
    expected = reference.resample_data_or_seg_to_shape(
        volume[None], plan.shape_out, spacing, target, False, order, order_z, force
    )[0]
    result = resample(volume, plan, order, order_z)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, atol=1e-4 * np.abs(volume).max())


@pytest.mark.parametrize(("shape", "spacing", "target", "force"), CASES)
def test_segmentations_are_resampled_as_nnunet_does(shape, spacing, target, force) -> None:
    volume = _volume(shape)
    labels = (volume > 5).astype(np.int16) + (volume > 15) - (volume < -15)
    assert set(np.unique(labels)) == {-1, 0, 1, 2}
    plan = _plan(shape, spacing, target, force)
    expected = reference.resample_data_or_seg_to_shape(
        labels[None], plan.shape_out, spacing, target, True, 1, 0, force
    )[0]
    result = resample_labels(labels, plan, 1)
    assert result.dtype == np.int16
    assert (result != expected).mean() < 2e-4  # ties decided by rounding


def test_thick_slices_are_told_as_nnunet_does() -> None:
    for spacing in [(3, 0.7, 0.7), (1, 1, 1), (0.2, 1, 1), (1.0, 3.1, 1.0), (2.9, 1, 1)]:
        for target in [(1, 1, 1), (3.5, 1, 1), (1, 1, 3.5)]:
            for force in (None, True, False):
                separate, axis = reference.determine_do_sep_z_and_axis(force, spacing, target)
                assert thick_axis(spacing, target, force=force) == (axis if separate else None)


@pytest.mark.parametrize(("shape", "spacing", "target", "force"), CASES)
def test_the_reach_of_a_mask_is_all_that_its_values_depend_on(
    shape, spacing, target, force
) -> None:
    plan = _plan(shape, spacing, target, force)
    mask = np.zeros(plan.shape_out, dtype=bool)
    middle = tuple(slice(n // 2, n // 2 + 2) for n in plan.shape_out)
    mask[middle] = True
    needed = reach(mask, plan, 1)
    assert 0 < needed.sum() < needed.size / 4
    volume = _volume(shape)
    disturbed = np.where(needed, volume, volume + 1000)
    # the range is not limited for probabilities far apart from the mask
    difference = np.abs(resample(disturbed, plan, 1) - resample(volume, plan, 1))
    assert difference[mask].max() < 5  # below a thousandth of the disturbance
    assert difference[~mask].max() > 500

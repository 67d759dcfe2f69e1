from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter

from operators.lesion_segmentation.tiling import (
    importance,
    predict_tiled,
    run_tiled,
    tile_starts,
    tile_sum_of,
)

PATCH = (16, 12, 20)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv3d(2, 5, 5, padding=2),
        torch.nn.LeakyReLU(),
        torch.nn.Conv3d(5, 3, 5, padding=2),
    ).eval()


def _predict(network: torch.nn.Module):
    def predict(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(np.ascontiguousarray(batch))).numpy()

    return predict


@pytest.mark.parametrize("size", [(16, 12, 20), (32, 24, 40), (24, 30, 50), (11, 24, 30)])
def test_tiling_agrees_with_monai(network: torch.nn.Module, size: tuple[int, int, int]) -> None:
    """MONAI's sliding window is the reference, at sizes where both place the same tiles."""
    image = np.random.default_rng(1).normal(size=(2, *size)).astype(np.float32)
    ours = predict_tiled(image, np.ones(size, dtype=bool), _predict(network), labels=3, patch=PATCH)
    with torch.no_grad():
        reference = sliding_window_inference(
            torch.from_numpy(image)[None],
            PATCH,
            1,
            network,
            overlap=0.5,
            roi_weight_map=torch.from_numpy(importance(PATCH)),
        )[0].numpy()
    assert ours.shape == reference.shape == (3, *size)
    np.testing.assert_allclose(ours, reference, atol=2e-5)


def test_importance_is_monais_where_both_have_the_same_centre() -> None:
    """An odd patch has one centre; MONAI raises small weights to a thousandth, nnU-Net does not."""
    patch = (17, 13, 21)
    reference = compute_importance_map(patch, mode="gaussian", sigma_scale=0.125).numpy()
    np.testing.assert_allclose(np.maximum(importance(patch), 1e-3), reference, atol=1e-5)


def test_importance_is_the_blurred_delta_of_nnunet() -> None:
    delta = np.zeros(PATCH)
    delta[tuple(p // 2 for p in PATCH)] = 1
    expected = gaussian_filter(delta, [p / 8 for p in PATCH], mode="constant", cval=0)
    expected /= expected.max()
    weights = importance(PATCH)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-12)
    assert (weights > 0).all()


@pytest.mark.parametrize(("size", "patch"), [(97, 32), (33, 32), (32, 32), (64, 32), (200, 48)])
def test_tiles_cover_the_axis_flush_at_both_ends(size: int, patch: int) -> None:
    starts = tile_starts(size, patch, 0.5)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    assert all(b - a <= patch // 2 + 1 for a, b in itertools.pairwise(starts))


def test_tiles_without_brain_are_skipped_without_effect_inside(network: torch.nn.Module) -> None:
    size = (40, 36, 60)
    image = np.random.default_rng(2).normal(size=(2, *size)).astype(np.float32)
    mask = np.zeros(size, dtype=bool)
    mask[3:14, 2:9, 4:12] = True
    calls = 0
    predict = _predict(network)

    def counted(batch: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return predict(batch)

    everywhere = np.ones(size, dtype=bool)
    full = predict_tiled(image, everywhere, counted, labels=3, patch=PATCH)
    all_tiles, calls = calls, 0
    part = predict_tiled(image, mask, counted, labels=3, patch=PATCH)
    assert 0 < calls < all_tiles / 4
    np.testing.assert_array_equal(part[:, mask], full[:, mask])


def test_sums_are_float32_even_for_many_tiles() -> None:
    image = np.zeros((1, 64, 16, 20), dtype=np.float32)
    out = predict_tiled(
        image,
        np.ones(image.shape[1:], dtype=bool),
        lambda batch: np.full((1, 1, *batch.shape[2:]), 1e-4, dtype=np.float32),
        labels=1,
        patch=PATCH,
        step=0.1,
    )
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, 1e-4, rtol=1e-5)


class _HostEngine:
    def __init__(self, network: torch.nn.Module) -> None:
        self.run = _predict(network)


class _DeviceEngine(_HostEngine):
    """Adds up the tiles itself, as an engine on a GPU does."""

    def run_tiles(self, image, corners, weights):
        assert image.dtype == weights.dtype == np.float32
        total = np.zeros((3, *image.shape[1:]), dtype=np.float64)
        for z, y, x in corners:
            place = (slice(z, z + PATCH[0]), slice(y, y + PATCH[1]), slice(x, x + PATCH[2]))
            total[(slice(None), *place)] += (
                weights * self.run(image[(slice(None), *place)][None])[0]
            )
        return total.astype(np.float32)


def test_an_engine_may_add_up_the_tiles_on_its_device(network: torch.nn.Module) -> None:
    size = (20, 30, 33)
    image = np.random.default_rng(4).normal(size=(2, *size)).astype(np.float32)
    mask = np.zeros(size, dtype=bool)
    mask[4:15, 2:20, 4:12] = True
    host, device = (
        run_tiled(image, mask, tile_sum_of(engine, 3), patch=PATCH)
        for engine in (_HostEngine(network), _DeviceEngine(network))
    )
    np.testing.assert_allclose(device, host, atol=1e-5)
    assert np.abs(host[:, mask]).max() > 0.01

"""Training elsewhere than on the processor: the same code, the same volumes, nothing mixed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model_tools.train.device import CPU, choose_device, onto
from model_tools.train.generate import Sources, make_volume, synthetic, transplanted
from model_tools.train.network import deep_loss
from model_tools.train.recipe import Recipe
from model_tools.train.trainer import Run
from operators.errors import ConfigurationError
from tests.model_tools.train.elsewhere import DEVICE, Elsewhere

SHAPE = (64, 64, 64)


def test_the_stand_in_refuses_mixed_operands_as_a_gpu_does():
    with Elsewhere() as mode:
        there = onto(DEVICE, np.ones((2, 3), np.float32))
        assert there.device.type == DEVICE.type
        assert (there * 2 + torch.ones((), dtype=torch.float32)).cpu().sum() == 18
        with pytest.raises(RuntimeError, match="on the processor and elsewhere"):
            there + torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert mode.count >= 3


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["synthetic", "transplanted"])
def test_a_volume_made_elsewhere_is_the_processors(sources: Sources, kind: str, seed: int):
    def make(device: torch.device):
        rng, here = np.random.default_rng([5, seed]), replace(sources, device=device)
        if kind == "synthetic":
            return synthetic(here, rng, shape=SHAPE)
        return transplanted(here, sources.backgrounds["99_1"], rng)

    expected = make(CPU)
    with Elsewhere() as mode:
        found = make(DEVICE)
    assert mode.count > 100
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.label, expected.label)
    assert all(np.array_equal(found.points[n], p) for n, p in expected.points.items())


def test_the_sources_say_where_a_volume_is_made(sources: Sources):
    with Elsewhere() as mode:
        make_volume(replace(sources, device=DEVICE), 11, 0, shape=SHAPE)
        assert mode.count > 100
        before = mode.count
        make_volume(sources, 11, 0, shape=SHAPE)
        assert mode.count == before


def test_a_device_that_is_not_there_is_refused():
    assert choose_device("cpu") == CPU
    for name in ("cuda", "cuda:7", "nonsense"):
        if name == "cuda" and torch.cuda.is_available():
            continue
        with pytest.raises(ConfigurationError, match=f"--device {name}: This PyTorch cannot"):
            choose_device(name)
    if not torch.cuda.is_available():
        assert choose_device("auto") == CPU


def test_a_checkpoint_says_nothing_of_the_device(tmp_path):
    run = Run.new(replace(Recipe.smoke(5), features=(4, 8)))
    run.save(tmp_path / "run.pth")
    state = torch.load(tmp_path / "run.pth", weights_only=True)
    # one that an earlier version wrote
    del state["recent"]
    torch.save(state, tmp_path / "old.pth")
    assert Run.load(tmp_path / "old.pth").recent == []
    assert "device" not in state["recipe"]


def test_the_loss_is_computed_where_the_network_is():
    rng = np.random.default_rng(4)
    outputs = [rng.standard_normal((2, 2, n, n, n), dtype=np.float32) for n in (16, 8, 4)]
    target = rng.choice(np.array([0, 1, 255], np.uint8), (2, 16, 16, 16), p=(0.8, 0.15, 0.05))
    expected = float(deep_loss([onto(CPU, one) for one in outputs], onto(CPU, target)))
    with Elsewhere():
        loss = deep_loss([onto(DEVICE, one) for one in outputs], onto(DEVICE, target))
        assert loss.device.type == DEVICE.type
        assert float(loss) == expected

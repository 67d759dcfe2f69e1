"""Patches, loss, resuming and the smoke training."""

from __future__ import annotations

import csv
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_tools.__main__ import main
from model_tools.export import export_package
from model_tools.train.device import CPU
from model_tools.train.generate import Sources, make_volume
from model_tools.train.network import deep_loss
from model_tools.train.pool import Pool, Schedule, augment, batch, stem
from model_tools.train.recipe import Recipe
from model_tools.train.score import predict_volume, score
from model_tools.train.trainer import Run, train_forks, train_trunk
from operators.lesion_segmentation.model_package import load_model_package

RECIPE = replace(Recipe.smoke(5), features=(4, 8))
SCHEDULE = Schedule(first=2, steps_per_volume=100, window=2)


@pytest.fixture(scope="module")
def pool(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool")
    for index in range(2):
        make_volume(sources, 11, index, shape=(64, 64, 64)).save(folder, stem(index))
    return Pool(folder)


def test_a_step_has_one_batch(pool: Pool):
    images, labels = batch(pool, SCHEDULE, 1, 5, 32)
    again, same = batch(Pool(pool.folder), SCHEDULE, 1, 5, 32)
    other, _ = batch(pool, SCHEDULE, 1, 6, 32)
    assert images.shape == (2, 3, 32, 32, 32)
    assert torch.equal(images, again)
    assert torch.equal(labels, same)
    assert not torch.equal(images, other)


def test_a_flip_takes_the_label_along():
    image = np.zeros((3, 8, 8, 8), np.float32)
    image[:, :, :, :4] = 1.0
    label = (image[0] > 0).astype(np.uint8)
    flips = 0
    for seed in range(12):
        changed, moved = augment(image, label, np.random.default_rng(seed), drop_t1=0)
        assert ((changed[0] != 0) == (moved == 1)).all()
        flips += int(moved[0, 0, 7])
    assert 0 < flips < 12


def test_the_window_of_volumes_slides():
    schedule = Schedule(first=3, steps_per_volume=10, window=4)
    assert schedule.span(0) == (0, 3)
    assert schedule.span(25) == (1, 5)


def test_ignored_voxels_do_not_change_the_loss():
    target = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    target[0, :4, :4, :4] = 1
    target[0, 8:] = 255
    logits = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    changed = logits.clone()
    changed[:, :, 8:] += 5 * torch.randn(1, 2, 8, 16, 16)
    assert float(deep_loss([logits], target)) == pytest.approx(float(deep_loss([changed], target)))
    right = torch.stack(
        [-8.0 * (2 * (target == 1).float() - 1), 8.0 * (2 * (target == 1).float() - 1)], 1
    )
    assert float(deep_loss([right], target)) < 0.05


def _losses(run: Run, pool: Pool, stop: int) -> list[float]:
    result = []
    while run.step < stop:
        images, labels = batch(pool, SCHEDULE, RECIPE.seed, run.step, 16)
        result.append(run.advance(images, labels, RECIPE.rate))
    return result


def test_resuming_equals_going_on(pool: Pool, tmp_path: Path):
    whole = _losses(Run.new(RECIPE), pool, 6)
    assert whole == _losses(Run.new(RECIPE), pool, 6)
    first = Run.new(RECIPE)
    start = _losses(first, pool, 3)
    first.save(tmp_path / "run.pth")
    second = Run.load(tmp_path / "run.pth")
    assert second.step == 3
    assert start + _losses(second, pool, 6) == whole


def test_score_counts_lesions_and_leaves_out_ignored_voxels():
    label = np.zeros((30, 30, 30), np.uint8)
    label[2:6, 2:6, 2:6] = 1
    label[15:20, 15:20, 15:20] = 1
    label[25:29, 25:29, 25:29] = 255
    probability = np.zeros(label.shape, np.float32)
    probability[2:6, 2:6, 2:6] = 0.9
    probability[25:29, 25:29, 25:29] = 0.9
    probability[10:12, 25:28, 2:5] = 0.9
    result = score(probability, label)
    assert result["dice"] == pytest.approx(2 * 64 / (64 + 125 + 64 + 18))
    assert result["recall"] == 0.5
    assert result["precision"] == 0.5
    assert result["false_positives"] == 1
    assert result["recall_30-100"] == 1
    assert result["recall_100-500"] == 0


def test_tiles_give_the_value_of_a_pointwise_network():
    image = np.random.default_rng(2).normal(size=(3, 33, 41, 37)).astype(np.float16)
    image[:, :3] = 0

    def predict(tile: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros_like(tile[:, 0]), tile[:, 0]], 1)

    result = predict_volume(predict, image, 16, 0.5)
    expected = np.where((image != 0).any(0), 1 / (1 + np.exp(-image[0].astype(np.float32))), 0)
    assert np.allclose(result, expected, atol=1e-4)


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """Put back what the trainer does with signals, and compute with one thread."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


STEPS, FORK_STEPS = 6, 5


def curve(path: Path) -> list[tuple[str, str]]:
    """Steps and losses of a log."""
    with path.open(newline="") as stream:
        return [(row["step"], row["loss"]) for row in csv.DictReader(stream)]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that has the process stopped, once, when a run has made so many steps."""
    advance, when = Run.advance, [-1]

    def advance_or_end(run: Run, *rest: object) -> float:
        loss = advance(run, *rest)  # type: ignore[arg-type]
        if run.step == when[0]:
            when[0] = -1
            # the handler itself: a real signal would end pytest where a library took it over
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)
        return loss

    monkeypatch.setattr(Run, "advance", advance_or_end)
    return lambda step: when.__setitem__(0, step)


def test_a_whole_run_repeats_and_goes_on_after_an_interruption(
    open_ms: Path,
    tmp_path: Path,
    kept_signals: None,
    interrupt: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
):
    """Two smoke runs with the command's own generator; one is stopped twice, and cut short."""
    recipe, whole, parts = Recipe.smoke(3), tmp_path / "whole", tmp_path / "parts"
    assert train_trunk(open_ms, whole, recipe, None, STEPS)
    folder = train_forks(open_ms, whole, 2, FORK_STEPS)
    assert folder is not None

    interrupt(3)
    assert not train_trunk(open_ms, parts, recipe, None, STEPS)
    assert curve(parts / "loss.csv") == curve(whole / "loss.csv")[:1]
    # what a run wrote after its last checkpoint, when it is cut off without a signal
    with (parts / "loss.csv").open("a") as stream:
        stream.write("4,9.9999,1.0,0.0\n")
    assert train_trunk(open_ms, parts, recipe, None, STEPS)
    assert [step for step, _ in curve(whole / "loss.csv")] == ["2", "4", "6"]
    assert curve(parts / "loss.csv") == curve(whole / "loss.csv")
    for volume in sorted((whole / "pool").glob("v0000[01].*.npy")):
        assert (parts / "pool" / volume.name).read_bytes() == volume.read_bytes()

    interrupt(3)
    assert train_forks(open_ms, parts, 2, FORK_STEPS) is None
    # no time at all: the slice ends at once, and nothing is lost
    assert train_forks(open_ms, parts, 2, FORK_STEPS, minutes=0) is None
    assert train_forks(open_ms, parts, 2, FORK_STEPS) is not None
    for fold in (0, 1):
        log = f"fork_{fold}.csv"
        assert [step for step, _ in curve(whole / log)] == ["2", "4"]
        assert curve(parts / log) == curve(whole / log)
        one, two = (
            torch.load(work / f"fork_{fold}.pth", weights_only=True)["average"]
            for work in (whole, parts)
        )
        assert all(torch.equal(value, two[name]) for name, value in one.items())

    target = tmp_path / "brain_tiny"
    export_package(folder, target, card="A smoke training.", version="0.0.1")
    package = load_model_package(target)
    assert package.description.folds == 2
    assert package.roles == ("flair", "t2", "t1")
    # what training leaves is an nnU-Net result folder like any other
    imported = tmp_path / "brain_imported"
    monkeypatch.setattr(sys, "argv", ["model_tools", "import", str(folder), "-o", str(imported)])
    main()
    assert load_model_package(imported).description.folds == 2


@pytest.mark.parametrize(
    ("arguments", "complete", "calls", "said"),
    [
        (("--steps", "9"), False, ["trunk"], "the same command goes on"),
        (("--steps", "9"), True, ["trunk", "forks"], "the same command goes on"),
        ((), True, ["trunk", "forks without a limit"], "the same command with --stage forks"),
        (("--stage", "forks"), True, ["forks"], "the same command goes on"),
    ],
)
def test_one_command_goes_on_through_all_stages(
    arguments: tuple[str, ...],
    complete: bool,
    calls: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    made = []

    def trunk(data: Path, work: Path, recipe: Recipe, minutes: float, *rest: object) -> bool:
        assert (minutes, rest[-2:]) == (10, (CPU, None))
        made.append("trunk")
        return complete

    def forks(data: Path, work: Path, folds: int, steps: int, left: float | None, *_: object):
        made.append("forks without a limit" if left is None else "forks")
        assert left is None or 0 < left <= 10
        return

    monkeypatch.setattr("model_tools.train.trainer.train_trunk", trunk)
    monkeypatch.setattr("model_tools.train.trainer.train_forks", forks)
    command = ["model_tools", "train", "--data", "d", "--work", "w", "--minutes", "10"]
    threads = str(torch.get_num_threads())
    command += ["--device", "cpu", "--threads", threads, *arguments]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert made == calls
    assert said in capsys.readouterr().out


def test_a_slice_of_time_leaves_the_trunk_for_the_next(
    open_ms: Path, tmp_path: Path, kept_signals: None
):
    assert not train_trunk(open_ms, tmp_path, Recipe.smoke(3), 0, STEPS)
    assert Run.load(tmp_path / "trunk.pth").step == 0
    # without a number of steps the trunk ends with its time
    assert train_trunk(open_ms, tmp_path, Recipe.smoke(3), 0, None)


def test_waiting_for_a_volume_can_be_ended(tmp_path: Path):
    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        Pool(tmp_path, check).volume(0)

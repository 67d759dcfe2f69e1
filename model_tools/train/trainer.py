"""The training loop: resumable, seeded, logged."""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from model_tools.train.atlas import load_atlas, load_case, load_lesion_masks
from model_tools.train.backgrounds import HELD_OUT, load_backgrounds
from model_tools.train.generate import Sample, Sources, make_volume, synthetic, transplanted
from model_tools.train.lesions import strata_points
from model_tools.train.network import architecture, build_network, deep_loss
from model_tools.train.pool import Pool, Schedule, Volume, batch, run_generator
from model_tools.train.score import predict_volume, score, torch_predictor

log = logging.getLogger(__name__)
REAL_CASE = "patient26"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, kept beside its checkpoint.

    Attributes
    ----------
    patch, batch_size
        Patch edge in voxels (1 mm) and patches per step.
    rate, warm_up
        AdamW's learning rate and the steps of its linear start; then constant in the trunk.
    average
        Decay of the exponential moving average of the weights, which is what is validated and
        exported.
    """

    seed: int = 2026
    features: tuple[int, ...] = (16, 32, 64, 128, 128)
    patch: int = 64
    batch_size: int = 2
    rate: float = 1e-3
    warm_up: int = 100
    average: float = 0.997
    schedule: Schedule = field(default_factory=Schedule)
    validate_every: int = 400
    checkpoint_seconds: float = 120.0


class Stop:
    """Turns SIGTERM and SIGINT into a request to checkpoint and end."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


@dataclass
class Run:
    """One network in training; `save` and `load` keep it whole."""

    recipe: Recipe
    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0

    @classmethod
    def new(cls, recipe: Recipe) -> Run:
        """Fresh weights from the recipe's seed."""
        torch.manual_seed(recipe.seed)
        arguments = architecture(recipe.features)
        network = build_network(arguments, deep_supervision=True)
        average = build_network(arguments, deep_supervision=True)
        average.load_state_dict(network.state_dict())
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-4)
        return cls(recipe, network, average, optimiser)

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "recipe": json.dumps(asdict(self.recipe)),
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            partial,
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read a checkpoint written by `save`."""
        state = torch.load(path, weights_only=True)
        values = json.loads(state["recipe"])
        values["schedule"] = Schedule(**values["schedule"])
        values["features"] = tuple(values["features"])
        run = cls.new(Recipe(**values))
        run.network.load_state_dict(state["network"])
        run.average.load_state_dict(state["average"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.step = int(state["step"])
        return run

    def advance(self, images: torch.Tensor, labels: torch.Tensor, rate: float) -> float:
        """One optimisation step; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(images)
        loss = deep_loss(outputs, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.average, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for mean, value in zip(
                self.average.parameters(), self.network.parameters(), strict=True
            ):
                mean.lerp_(value, 1 - decay)
        return float(loss.detach())


def real_volume(data: Path) -> Sample:
    """The real case with its consensus mask, as the network sees it."""
    images, lesions, brain = load_case(data, REAL_CASE)
    inside = brain > 0
    result = np.zeros_like(images)
    for channel in range(3):
        values = images[channel][inside]
        result[channel] = np.where(inside, (images[channel] - values.mean()) / values.std(), 0)
    hits = np.argwhere(inside)
    box = tuple(slice(max(0, a - 4), b + 5) for a, b in zip(hits.min(0), hits.max(0), strict=True))
    label = (lesions * inside).astype(np.uint8)[box]
    points = strata_points(label, inside[box], np.random.default_rng(0))
    image = np.ascontiguousarray(result[(slice(None), *box)]).astype(np.float16)
    return Sample(image, label, points, "real", REAL_CASE)


VALIDATION_LOADS = (0.8, 2.0, 5.0, 12.0, 30.0)


def make_validation(data: Path, sources: Sources, folder: Path) -> None:
    """Write the fixed validation volumes: real, transplanted on the held-out scan, synthetic."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "real-0.image.npy").exists():
        real_volume(data).save(folder, "real-0")
    for number, load in enumerate(VALIDATION_LOADS):
        if not (folder / f"transplanted-{number}.image.npy").exists():
            rng = np.random.default_rng([77, number])
            held = sources.backgrounds[HELD_OUT]
            transplanted(
                sources, held, rng, f"{HELD_OUT}-{load:g}ml", augment=False, load_ml=load
            ).save(folder, f"transplanted-{number}")
    for number in range(4):
        if not (folder / f"synthetic-{number}.image.npy").exists():
            synthetic(sources, np.random.default_rng([78, number])).save(
                folder, f"synthetic-{number}"
            )


def validate(
    network: nn.Module, folder: Path, names: tuple[str, ...], size: int, step: float = 1.0
) -> dict[str, dict[str, float]]:
    """Scores of the given validation volumes."""
    network.eval()
    predict = torch_predictor(network)
    result = {}
    for name in names:
        image = np.load(folder / f"{name}.image.npy")
        label = np.load(folder / f"{name}.label.npy")
        result[name] = score(predict_volume(predict, image, size, step), label)
    return result


def open_sources(data: Path, work: Path) -> Sources:
    """Atlas, lesion masks (without the real case's) and backgrounds."""
    atlas = load_atlas()
    masks = load_lesion_masks(data, without=(REAL_CASE,))
    return Sources(atlas, masks, load_backgrounds(data, work / "backgrounds", atlas))


def _generator(data: Path, work: Path, recipe: Recipe, step: Any, parent: int, ready: Any) -> None:
    os.nice(5)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    sources = open_sources(data, work)
    if not ready.is_set():
        make_validation(data, sources, work / "valid")
        ready.set()

    def make(index: int) -> Sample:
        return make_volume(sources, recipe.seed, index, exclude=(HELD_OUT,))

    run_generator(work / "pool", make, recipe.schedule, lambda: int(step.value), parent)


QUICK_VALIDATION = ("real-0", "transplanted-1", "transplanted-3", "synthetic-0", "synthetic-1")


class Rows:
    """Appends rows to a csv file, writing the header once."""

    def __init__(self, path: Path, names: tuple[str, ...]) -> None:
        self.path, self.names = path, names
        if not path.exists():
            with path.open("w", newline="") as stream:
                csv.writer(stream).writerow(names)

    def add(self, *values: object) -> None:
        """Append one row."""
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerow(values)


def train_trunk(
    data: Path, work: Path, recipe: Recipe, minutes: float | None, steps: int | None
) -> Run:
    """Train the common trunk, or go on with it, until time or steps are used up.

    Parameters
    ----------
    data
        The open_ms folder.
    work
        Output: trunk.pth, loss.csv, validation.csv, pool/, valid/, backgrounds/.
    minutes, steps
        Wall-clock limit of this call, and total steps of the trunk; None for no limit.
    """
    work.mkdir(parents=True, exist_ok=True)
    stop = Stop()
    path = work / "trunk.pth"
    run = Run.load(path) if path.exists() else Run.new(recipe)
    log.info("trunk at step %d", run.step)
    context = multiprocessing.get_context("spawn")
    shared = context.Value("q", run.step)
    ready = context.Event()
    generator = context.Process(
        target=_generator, args=(data, work, run.recipe, shared, os.getpid(), ready), daemon=True
    )
    generator.start()
    pool = Pool(work / "pool")
    losses = Rows(work / "loss.csv", ("step", "loss", "seconds", "waited_s"))
    scores = Rows(
        work / "validation.csv",
        ("step", "case", "dice", "recall", "precision", "f1", "false_positives", "predicted_ml"),
    )
    begin = saved = mark = time.monotonic()
    recent: list[float] = []
    try:
        while not stop.requested:
            if steps is not None and run.step >= steps:
                break
            if minutes is not None and time.monotonic() - begin > 60 * minutes:
                break
            if not generator.is_alive():
                raise RuntimeError("the generator process has ended; see its traceback above")
            rate = run.recipe.rate * min(1.0, (run.step + 1) / run.recipe.warm_up)
            images, labels = batch(
                pool,
                run.recipe.schedule,
                run.recipe.seed,
                run.step,
                run.recipe.patch,
                run.recipe.batch_size,
            )
            recent.append(run.advance(images, labels, rate))
            shared.value = run.step
            if run.step % 20 == 0:
                now = time.monotonic()
                losses.add(run.step, f"{np.mean(recent):.4f}", f"{now - mark:.1f}", pool.waited_s)
                recent, mark = [], now
            if time.monotonic() - saved > run.recipe.checkpoint_seconds:
                run.save(path)
                saved = time.monotonic()
            if run.step % run.recipe.validate_every == 0 and ready.is_set():
                table = validate(run.average, work / "valid", QUICK_VALIDATION, 80)
                for case, values in table.items():
                    scores.add(
                        run.step,
                        case,
                        *(
                            f"{values[n]:.3f}"
                            for n in (
                                "dice",
                                "recall",
                                "precision",
                                "f1",
                                "false_positives",
                                "predicted_ml",
                            )
                        ),
                    )
    finally:
        run.save(path)
        generator.terminate()
    return run


def as_volume(sample: Sample) -> Volume:
    """A sample in memory as a pool volume."""
    return Volume(sample.image, sample.label, sample.points)

"""The training loop: resumable, seeded, logged."""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import nn

from model_tools.train.atlas import load_atlas, load_case, load_lesion_masks
from model_tools.train.backgrounds import (
    HELD_OUT,
    STUDIES,
    Background,
    describe_case,
    load_backgrounds,
)
from model_tools.train.generate import (
    FULL_SHAPE,
    Sample,
    Sources,
    make_volume,
    synthetic,
    transplanted,
)
from model_tools.train.lesions import strata_points
from model_tools.train.network import architecture, build_network, deep_loss
from model_tools.train.pool import Pool, Schedule, Volume, batch, run_generator, stem
from model_tools.train.result_folder import dataset, plans, write_fold
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
    early_patch, early_steps
        The trunk's first steps use smaller patches, which cost less than half.
    rate, warm_up
        AdamW's learning rate and the steps of its linear start; then constant in the trunk.
    studies, volume_shape
        Real backgrounds to use (none: synthetic volumes alone, and no validation), and the field
        of view of synthetic volumes.
    average
        Decay of the exponential moving average of the weights, which is what is validated and
        exported.
    """

    seed: int = 2026
    features: tuple[int, ...] = (16, 32, 64, 128, 128)
    patch: int = 64
    early_patch: int = 48
    early_steps: int = 3000
    batch_size: int = 2
    rate: float = 1e-3
    warm_up: int = 100
    average: float = 0.997
    schedule: Schedule = field(default_factory=Schedule)
    validate_every: int = 400
    checkpoint_seconds: float = 120.0
    studies: tuple[str, ...] = tuple(STUDIES)
    volume_shape: tuple[int, int, int] = FULL_SHAPE

    def patch_at(self, step: int) -> int:
        """Patch edge of the trunk at a step."""
        return self.early_patch if step < self.early_steps else self.patch

    @classmethod
    def smoke(cls, seed: int) -> Recipe:
        """A tiny network and few volumes: shows that everything fits together, learns nothing."""
        return cls(
            seed=seed,
            features=(4, 8, 8),
            patch=32,
            early_patch=32,
            warm_up=2,
            schedule=Schedule(first=2, steps_per_volume=100, window=2),
            validate_every=1000,
            studies=(),
            volume_shape=(64, 72, 68),
        )


class Stop:
    """Turns SIGTERM and SIGINT into a request to checkpoint and end."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """A stop was requested while the trainer waited."""


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
        for name in ("features", "studies", "volume_shape"):
            if name in values:
                values[name] = tuple(values[name])
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


def open_sources(data: Path, work: Path, studies: tuple[str, ...]) -> Sources:
    """Atlas, lesion masks (without the real case's) and backgrounds."""
    atlas = load_atlas()
    masks = load_lesion_masks(data, without=(REAL_CASE,))
    return Sources(atlas, masks, load_backgrounds(data, work / "backgrounds", atlas, studies))


def _generator(data: Path, work: Path, recipe: Recipe, step: Any, parent: int, ready: Any) -> None:
    # A session of its own: with the kernel's autogrouping the trainer cannot starve it.
    os.setsid()
    os.nice(2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    sources = open_sources(data, work, recipe.studies)
    idle = None
    if recipe.studies:
        make_validation(data, sources, work / "valid")
        idle = fork_volume_maker(data, sources, work / "fork_pool")
        ready.set()

    def make(index: int) -> Sample:
        return make_volume(
            sources, recipe.seed, index, exclude=(HELD_OUT,), shape=recipe.volume_shape
        )

    run_generator(work / "pool", make, recipe.schedule, lambda: int(step.value), parent, idle=idle)


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
) -> bool:
    """Train the common trunk, or go on with it, until time or steps are used up.

    Parameters
    ----------
    data
        The open_ms folder.
    work
        Output: trunk.pth, loss.csv, validation.csv, pool/, valid/, backgrounds/.
    minutes, steps
        Wall-clock limit of this call, and total steps of the trunk; None for no limit.

    Returns
    -------
    bool
        False if a signal stopped it before time or steps were used up.
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

    def check() -> None:
        if stop.requested:
            raise Stopped
        if not generator.is_alive():
            raise RuntimeError("the generator process has ended; see its traceback above")

    pool = Pool(work / "pool", check)
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
            check()
            rate = run.recipe.rate * min(1.0, (run.step + 1) / run.recipe.warm_up)
            images, labels = batch(
                pool,
                run.recipe.schedule,
                run.recipe.seed,
                run.step,
                run.recipe.patch_at(run.step),
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
    except Stopped:
        log.info("stopped at step %d", run.step)
    finally:
        run.save(path)
        generator.terminate()
    return not stop.requested


FORK_VOLUMES = 18


def make_fork_volume(data: Path, sources: Sources, case: Background, index: int) -> Sample:
    """A volume only the forks 1 to 4 may see: the real case, with other lesions or without."""
    rng = np.random.default_rng([99, index])
    return transplanted(
        sources, case, rng, f"{REAL_CASE}-{index}", augment=index != 0, own_only=index % 2 == 0
    )


def fork_volume_maker(data: Path, sources: Sources, folder: Path) -> Callable[[], bool]:
    """A function that writes the next missing fork volume, and says whether there was one."""
    folder.mkdir(parents=True, exist_ok=True)
    case: list[Background] = []

    def make_next() -> bool:
        for index in range(FORK_VOLUMES):
            if not (folder / f"{stem(index)}.image.npy").exists():
                if not case:
                    case.append(describe_case(sources.atlas, *load_case(data, REAL_CASE)))
                make_fork_volume(data, sources, case[0], index).save(folder, stem(index))
                return True
        return False

    return make_next


def train_fork(
    work: Path, trunk: Run, fold: int, steps: int, stop: Stop, seen_case: bool
) -> Run | None:
    """Fine-tune one member from the trunk while the learning rate falls to 0.

    Parameters
    ----------
    seen_case
        Whether a third of the patches is cut from volumes of the real case.

    Returns
    -------
    Run or None
        None if a stop was requested before the end; a later call goes on.
    """
    path = work / f"fork_{fold}.pth"
    recipe = replace(trunk.recipe, average=0.985)
    if path.exists():
        run = Run.load(path)
    else:
        run = Run.new(recipe)
        run.network.load_state_dict(trunk.average.state_dict())
        run.average.load_state_dict(trunk.average.state_dict())
        run.optimiser.load_state_dict(trunk.optimiser.state_dict())
    pool, extra_pool = Pool(work / "pool"), Pool(work / "fork_pool")
    window = trunk.recipe.schedule.span(trunk.step)
    extra: tuple[Volume, ...] = ()
    if seen_case:
        extra = tuple(extra_pool.volume(i) for i in range(FORK_VOLUMES) if i % 5 != fold)
    losses = Rows(work / f"fork_{fold}.csv", ("step", "loss"))
    saved = time.monotonic()
    recent: list[float] = []
    while run.step < steps:
        if stop.requested:
            run.save(path)
            return None
        images, labels = batch(
            pool,
            trunk.recipe.schedule,
            trunk.recipe.seed + 1000 * (fold + 1),
            run.step,
            recipe.early_patch,
            recipe.batch_size,
            extra,
            0.33 if extra else 0.0,
            window,
            fold,
        )
        rate = recipe.rate * (1 - run.step / steps)
        recent.append(run.advance(images, labels, rate))
        if run.step % 20 == 0:
            losses.add(run.step, f"{np.mean(recent):.4f}")
            recent = []
        if time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(path)
            saved = time.monotonic()
    run.save(path)
    return run


def train_forks(data: Path, work: Path, folds: int, steps: int) -> Path | None:
    """Fine-tune all members and write the nnU-Net result folder.

    Returns
    -------
    Path or None
        The result folder; None if a stop was requested before the end.
    """
    stop = Stop()
    trunk = Run.load(work / "trunk.pth")
    target = work / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    description = plans(trunk.recipe.features, trunk.recipe.patch, trunk.recipe.batch_size)
    if folds > 1 and trunk.recipe.studies:
        make_next: Callable[[], bool] | None = None
        missing = [
            i
            for i in range(FORK_VOLUMES)
            if not (work / "fork_pool" / f"{stem(i)}.image.npy").exists()
        ]
        if missing:
            make_next = fork_volume_maker(
                data, open_sources(data, work, trunk.recipe.studies), work / "fork_pool"
            )
            while make_next():
                pass
    for fold in range(folds):
        run = train_fork(
            work, trunk, fold, steps, stop, seen_case=fold > 0 and bool(trunk.recipe.studies)
        )
        if run is None:
            return None
        write_fold(target, fold, run.average.state_dict(), description, dataset(1))
        log.info("fold %d of %d is done", fold + 1, folds)
    return target

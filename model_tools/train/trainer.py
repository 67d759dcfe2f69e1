"""The training loop: resumable, seeded, logged."""

from __future__ import annotations

import copy
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
    Background,
    describe_case,
    load_backgrounds,
)
from model_tools.train.device import CPU, make_repeatable
from model_tools.train.generate import (
    Sample,
    Sources,
    make_volume,
    synthetic,
    transplanted,
)
from model_tools.train.lesions import strata_points
from model_tools.train.network import architecture, build_network, deep_loss
from model_tools.train.pool import Pool, Schedule, Volume, batch, run_generator, stem
from model_tools.train.recipe import Recipe
from model_tools.train.result_folder import dataset, plans, write_fold
from model_tools.train.score import predict_volume, score, torch_predictor
from model_tools.train.warm_start import start_from

log = logging.getLogger(__name__)
REAL_CASE = "patient26"


class Stop:
    """Turns SIGTERM, SIGINT and the end of a slice of time into a request to checkpoint and end.

    Parameters
    ----------
    minutes
        Wall-clock time from now; None for no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._signalled = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    @property
    def requested(self) -> bool:
        """Whether to end now."""
        return self._signalled or (self._end is not None and time.monotonic() > self._end)

    @property
    def signalled(self) -> bool:
        """Whether a signal asked for it."""
        return self._signalled

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """A stop was requested while the trainer waited."""


@dataclass
class Run:
    """One network in training; `save` and `load` keep it whole, on any device.

    Attributes
    ----------
    average
        The network with the moving average of the weights.
    recent
        Losses since the last line of the log, so that an interruption does not change it.
    """

    recipe: Recipe
    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    recent: list[float] = field(default_factory=list)
    device: torch.device = CPU

    @classmethod
    def started(cls, recipe: Recipe, package: Path, member: int, device: torch.device) -> Run:
        """The weights of a member of a model package: past small patches, in need of variety."""
        run = cls.new(recipe, device)
        source = start_from(package, member, run.network)
        run.average.load_state_dict(run.network.state_dict())
        quick = max(1, recipe.schedule.steps_per_volume // 3)
        schedule = replace(recipe.schedule, steps_per_volume=quick)
        run.recipe = replace(recipe, early_steps=0, schedule=schedule, start=source)
        return run

    @classmethod
    def new(cls, recipe: Recipe, device: torch.device = CPU) -> Run:
        """Fresh weights from the recipe's seed, the same ones on every device."""
        make_repeatable(device)
        torch.manual_seed(recipe.seed)
        arguments = architecture(recipe.features)
        network = build_network(arguments, deep_supervision=True).to(device)
        average = build_network(arguments, deep_supervision=True).to(device)
        average.load_state_dict(network.state_dict())
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-4)
        return cls(recipe, network, average, optimiser, device=device)

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "step": self.step,
                "recent": self.recent,
                "recipe": json.dumps(asdict(self.recipe)),
                "network": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimiser": self.optimiser.state_dict(),
            },
            partial,
        )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, device: torch.device = CPU) -> Run:
        """Read a checkpoint written by `save`, on whichever device."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        values = json.loads(state["recipe"])
        values["schedule"] = Schedule(**values["schedule"])
        for name in ("features", "studies", "volume_shape"):
            if name in values:
                values[name] = tuple(values[name])
        run = cls.new(Recipe(**values), device)
        run.network.load_state_dict(state["network"])
        run.average.load_state_dict(state["average"])
        run.optimiser.load_state_dict(state["optimiser"])
        run.step = int(state["step"])
        run.recent = [float(loss) for loss in state.get("recent", ())]
        return run

    def advance(self, images: torch.Tensor, labels: torch.Tensor, rate: float) -> float:
        """One optimisation step; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = self.network(images.to(self.device))
        loss = deep_loss(outputs, labels.to(self.device))
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


def open_sources(
    data: Path, work: Path, studies: tuple[str, ...], device: torch.device = CPU
) -> Sources:
    """Atlas, lesion masks (without the real case's) and backgrounds, for volumes made there."""
    atlas = load_atlas()
    masks = load_lesion_masks(data, without=(REAL_CASE,))
    backgrounds = load_backgrounds(data, work / "backgrounds", atlas, studies)
    return Sources(atlas, masks, backgrounds, device=device)


def _generator(
    data: Path,
    work: Path,
    recipe: Recipe,
    step: Any,
    parent: int,
    ready: Any,
    device: torch.device,
) -> None:
    # A session of its own: with the kernel's autogrouping the trainer cannot starve it.
    os.setsid()
    os.nice(2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    make_repeatable(device)
    sources = open_sources(data, work, recipe.studies, device)
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
    """Appends rows to a csv file, writing the header once.

    Parameters
    ----------
    path, names
        The file and its columns; the first one is the step.
    step
        Where the run goes on: rows beyond it were written after its checkpoint and are removed.
    """

    def __init__(self, path: Path, names: tuple[str, ...], step: int) -> None:
        self.path, self.names = path, names
        kept: list[list[str]] = []
        if path.exists():
            with path.open(newline="") as stream:
                kept = [row for row in list(csv.reader(stream))[1:] if row and int(row[0]) <= step]
        partial = path.with_suffix(".partial")
        with partial.open("w", newline="") as stream:
            csv.writer(stream).writerows([list(names), *kept])
        partial.replace(path)

    def add(self, *values: object) -> None:
        """Append one row."""
        with self.path.open("a", newline="") as stream:
            csv.writer(stream).writerow(values)


def train_trunk(
    data: Path,
    work: Path,
    recipe: Recipe,
    minutes: float | None,
    steps: int | None,
    device: torch.device = CPU,
    start: tuple[Path, int] | None = None,
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
    device
        Where network and generator compute.
    start
        A model package and its member to begin with, instead of random weights; a trunk that is
        there already goes on as it is.

    Returns
    -------
    bool
        Whether the trunk is complete: it has all its steps or, where none are given, its time. A
        signal, or the end of the time before the last step, leave it incomplete.
    """
    work.mkdir(parents=True, exist_ok=True)
    stop = Stop(minutes)
    path = work / "trunk.pth"
    if path.exists():
        run = Run.load(path, device)
    else:
        run = Run.started(recipe, *start, device) if start else Run.new(recipe, device)
    log.info("trunk at step %d on %s, from %s", run.step, device, run.recipe.start or "nothing")
    context = multiprocessing.get_context("spawn")
    shared = context.Value("q", run.step)
    ready = context.Event()
    generator = context.Process(
        target=_generator,
        args=(data, work, run.recipe, shared, os.getpid(), ready, device),
        daemon=True,
    )
    generator.start()

    def check() -> None:
        if stop.requested:
            raise Stopped
        if not generator.is_alive():
            raise RuntimeError("the generator process has ended; see its traceback above")

    pool = Pool(work / "pool", check)
    losses = Rows(work / "loss.csv", ("step", "loss", "seconds", "waited_s"), run.step)
    scores = Rows(
        work / "validation.csv",
        ("step", "case", "dice", "recall", "precision", "f1", "false_positives", "predicted_ml"),
        run.step,
    )
    saved = mark = time.monotonic()
    try:
        while not stop.requested:
            if steps is not None and run.step >= steps:
                break
            check()
            rate = run.recipe.rate * min(1.0, (run.step + 1) / run.recipe.warm_up)
            images, labels = batch(
                pool,
                run.recipe.schedule,
                run.recipe.seed,
                run.step,
                *run.recipe.patches_at(run.step),
            )
            run.recent.append(run.advance(images, labels, rate))
            shared.value = run.step
            if run.step % run.recipe.log_every == 0:
                now = time.monotonic()
                mean = f"{np.mean(run.recent):.4f}"
                losses.add(run.step, mean, f"{now - mark:.1f}", pool.waited_s)
                run.recent, mark = [], now
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
    return not stop.signalled and (steps is None or run.step >= steps)


FORK_VOLUMES = 18
FORK_RATE = 0.5
"""Where the forks' falling rate begins, as a share of the trunk's."""
TRUNK_SHARE = 0.5
"""Of the trunk's weights in a finished member. The mean of a network and its fine-tuned self keeps
what the fine-tuning's narrower data would unlearn (Wortsman et al., Robust fine-tuning of zero-shot
models, CVPR 2022)."""
EXTRA_SHARE = 0.5
"""Of the patches of forks 1 to 4, from volumes of the real case."""


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
        Whether a part of the patches is cut from volumes of the real case.

    Returns
    -------
    Run or None
        None if a stop was requested before the end; a later call goes on.
    """
    path = work / f"fork_{fold}.pth"
    recipe = replace(trunk.recipe, average=0.985)
    if path.exists():
        run = Run.load(path, trunk.device)
    else:
        run = Run.new(recipe, trunk.device)
        run.network.load_state_dict(trunk.average.state_dict())
        run.average.load_state_dict(trunk.average.state_dict())
        # a copy: the optimiser would go on in the trunk's own tensors, and so into the next fold
        run.optimiser.load_state_dict(copy.deepcopy(trunk.optimiser.state_dict()))
    pool, extra_pool = Pool(work / "pool"), Pool(work / "fork_pool")
    window = trunk.recipe.schedule.span(trunk.step)
    extra: tuple[Volume, ...] = ()
    if seen_case:
        extra = tuple(extra_pool.volume(i) for i in range(FORK_VOLUMES) if i % 5 != fold)
    losses = Rows(work / f"fork_{fold}.csv", ("step", "loss"), run.step)
    saved = time.monotonic()
    while run.step < steps:
        if stop.requested:
            run.save(path)
            return None
        images, labels = batch(
            pool,
            trunk.recipe.schedule,
            trunk.recipe.seed + 1000 * (fold + 1),
            run.step,
            *recipe.patches_at(trunk.step + run.step),
            extra,
            EXTRA_SHARE if extra else 0.0,
            window,
            fold,
        )
        rate = FORK_RATE * recipe.rate * (1 - run.step / steps)
        run.recent.append(run.advance(images, labels, rate))
        if run.step % recipe.log_every == 0:
            losses.add(run.step, f"{np.mean(run.recent):.4f}")
            run.recent = []
        if time.monotonic() - saved > recipe.checkpoint_seconds:
            run.save(path)
            saved = time.monotonic()
    run.save(path)
    return run


def member(trunk: Run, fork: Run) -> dict[str, torch.Tensor]:
    """The weights of a member: the mean of trunk and fork, by `TRUNK_SHARE`."""
    common = trunk.average.state_dict()
    return {
        name: torch.lerp(value, common[name], TRUNK_SHARE)
        for name, value in fork.average.state_dict().items()
    }


def train_forks(
    data: Path,
    work: Path,
    folds: int,
    steps: int,
    minutes: float | None = None,
    device: torch.device = CPU,
) -> Path | None:
    """Fine-tune all members and write the nnU-Net result folder.

    Returns
    -------
    Path or None
        The result folder; None if a signal or the end of the time came first.
    """
    stop = Stop(minutes)
    trunk = Run.load(work / "trunk.pth", device)
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
                data, open_sources(data, work, trunk.recipe.studies, device), work / "fork_pool"
            )
            while make_next():
                if stop.requested:
                    return None
    for fold in range(folds):
        run = train_fork(
            work, trunk, fold, steps, stop, seen_case=fold > 0 and bool(trunk.recipe.studies)
        )
        if run is None:
            return None
        write_fold(target, fold, member(trunk, run), description, dataset(1))
        log.info("fold %d of %d is done", fold + 1, folds)
    return target

"""Runs cases × models, resumes after an interruption, and spreads over processes or a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
from dask.distributed import Client, LocalCluster, as_completed

from model_tools.evaluate.dataset import Case
from model_tools.evaluate.examination import outline, prepare, spacing
from model_tools.evaluate.metrics import scores
from operators.errors import InputError
from operators.lesion_segmentation.engine import Engine, open_engine
from operators.lesion_segmentation.model_package import file_sha256, load_model_package
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.registration.settings import RegistrationSettings

log = logging.getLogger(__name__)
SECOND_RATER = "second_rater"
GB_PER_CASE = 2.5
"""Measured: 2.1 GB for a study of the application, and the metrics."""


@dataclass(frozen=True)
class Task:
    """One case, all models: the registration is done once.

    Attributes
    ----------
    case
        The case.
    models
        Name and folder of each model.
    output
        Folder of the answers, ``OUTPUT/MODEL/CASE.json``.
    threads
        Threads of the engine.
    """

    case: Case
    models: tuple[tuple[str, Path], ...]
    output: Path
    threads: int


def fingerprint(case: Case, model: Path | None) -> str:
    """Changes with the case's files and the model, so that an old answer is not taken for new."""
    files = [*case.images.values(), case.reference]
    files += [path for path in (case.second_rater, case.brain) if path is not None]
    content: list[Any] = [case.aligned, sorted(case.images)]
    for path in files:
        parts = sorted(path.rglob("*")) if path.is_dir() else [path]
        content += [(part.name, part.stat().st_size, part.stat().st_mtime_ns) for part in parts]
    if model is not None:
        content.append(file_sha256(model / "model.json"))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def answer_path(output: Path, model: str, case: str) -> Path:
    """Where the scores of a case and model are kept."""
    return output / model / f"{case}.json"


def answered(path: Path, mark: str) -> bool:
    """Whether a valid answer for this very input is there."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["fingerprint"] == mark)
    except (OSError, ValueError, KeyError):
        return False


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


@lru_cache(maxsize=4)
def _engine(folder: Path, network: str, threads: int) -> Engine:
    """An engine, kept for the next case of this process."""
    package = load_model_package(folder)
    (chosen,) = [one for one in package.description.networks if one.file == network]
    return open_engine(package, LesionSegmentationSettings(threads=threads), network=chosen)


def run_task(task: Task) -> list[str]:
    """Score one case with every model that has no answer yet.

    A case that cannot be processed, and a model that the case has no series for, are answers too:
    their ``failure`` says why.

    Returns
    -------
    list of str
        A line for each answer that was written.
    """
    pending: list[tuple[str, Path | None, str]] = []
    everyone: list[tuple[str, Path | None]] = list(task.models)
    if task.case.second_rater is not None:
        everyone.append((SECOND_RATER, None))
    for name, folder in everyone:
        mark = fingerprint(task.case, folder)
        if not answered(answer_path(task.output, name, task.case.name), mark):
            pending.append((name, folder, mark))
    if not pending:
        return []
    lines = []
    settings = LesionSegmentationSettings(threads=task.threads)
    failure, examination = "", None
    try:
        examination = prepare(task.case, RegistrationSettings(threads=task.threads))
    except InputError as error:
        failure = str(error)
    for name, folder, mark in pending:
        begin, why, result, identity = time.monotonic(), failure, {}, ""
        if examination is not None:
            try:
                if folder is None:
                    outlined = examination.second_rater
                    assert outlined is not None
                else:
                    package = load_model_package(folder)
                    identity = package.sha256
                    missing = set(package.roles) - set(task.case.images)
                    if missing:
                        raise InputError(
                            task.case.name,
                            f"It has no {', '.join(sorted(missing))}.",
                            "This model cannot run on it.",
                        )
                    outlined = outline(
                        examination,
                        package,
                        lambda one, network: _engine(one.folder, network.file, task.threads),
                        settings,
                    )
                result = scores(examination.reference, outlined, spacing(examination))
            except InputError as error:
                why = str(error)
        _write(
            answer_path(task.output, name, task.case.name),
            {
                "fingerprint": mark,
                "case": task.case.name,
                "model": name,
                "sha256": identity,
                "scanner": task.case.scanner,
                "field_strength": task.case.field_strength,
                "failure": why,
                "seconds": round(time.monotonic() - begin, 1),
                "scores": result,
            },
        )
        line = f"Dice {result['dice']:.2f}, F1 {result['f1']:.2f}" if result else why
        lines.append(f"{task.case.name}, {name}: {line}")
    return lines


def workers_for(memory_gb: float, jobs: int | None) -> int:
    """How many cases may run at once within a memory limit."""
    processors = len(os.sched_getaffinity(0))
    return max(1, min(jobs or processors, int(memory_gb // GB_PER_CASE)))


def run(
    cases: Sequence[Case],
    models: Sequence[tuple[str, Path]],
    output: Path,
    *,
    jobs: int | None = None,
    memory_gb: float | None = None,
    scheduler: str | None = None,
    show: Callable[[str], None] = log.info,
) -> None:
    """Score every case with every model; what is there already is kept.

    Parameters
    ----------
    cases, models, output
        As `Task`.
    jobs
        At most so many cases at once; None for one for each processor.
    memory_gb
        Memory limit of all together; None for three quarters of what is free.
    scheduler
        Address of a Dask scheduler whose workers see the same folders and this program; None runs
        here.
    show
        Takes progress lines.
    """
    free = psutil.virtual_memory().available / 1e9
    count = workers_for(0.75 * free if memory_gb is None else memory_gb, jobs)
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    tasks = [Task(case, tuple(models), output, threads) for case in cases]
    if scheduler is None and count == 1:
        for number, task in enumerate(tasks, start=1):
            for line in run_task(task):
                show(f"{number}/{len(tasks)} {line}")
        return
    cluster = None
    if scheduler is None:
        # one case at a time in each process; spilling half a case to disk would help nobody
        cluster = LocalCluster(
            n_workers=count, threads_per_worker=1, memory_limit=None, dashboard_address=None
        )
    with Client(cluster if cluster is not None else scheduler) as client:
        try:
            futures = [client.submit(run_task, task, pure=False) for task in tasks]
            for number, future in enumerate(as_completed(futures), start=1):
                for line in future.result():
                    show(f"{number}/{len(tasks)} {line}")
        finally:
            if cluster is not None:
                cluster.close()


def read_answers(output: Path, models: Sequence[str]) -> list[dict[str, Any]]:
    """Every answer of the given models, by model and case."""
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for model in models
        for path in sorted((output / model).glob("*.json"))
    ]

"""Runs cases × models, resumes after an interruption, and spreads over processes or a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from dask.distributed import Client, LocalCluster, as_completed

from model_tools.evaluate.candidates import Candidate, Outline, outline
from model_tools.evaluate.dataset import ATTRIBUTES, Case
from model_tools.evaluate.examination import Examination, prepare, spacing
from model_tools.evaluate.metrics import Lesions, lesions_of, scores, threshold_scores
from model_tools.evaluate.regions import anatomy_of, region_counts, region_scores, regions_of
from model_tools.evaluate.store import (
    REFERENCE,
    SECOND_RATER,
    Store,
    fingerprint,
    prepared_mark,
)
from operators.errors import InputError
from operators.longitudinal_comparator.patient_anatomy import PatientAnatomy
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.registration.settings import RegistrationSettings

log = logging.getLogger(__name__)
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
        The models.
    output
        The evaluation's folder, see `model_tools.evaluate.store`.
    threads
        Threads of the engine.
    fill_missing
        See `model_tools.evaluate.candidates.outline`.
    """

    case: Case
    models: tuple[Candidate, ...]
    output: Path
    threads: int
    fill_missing: bool = False


@dataclass
class _Places:
    """Regions of lesions, with the patient's anatomy found on first use."""

    examination: Examination
    anatomy: PatientAnatomy | None = None
    settings: LongitudinalComparatorSettings = field(default_factory=LongitudinalComparatorSettings)

    def of(self, lesions: Lesions, mask: np.ndarray) -> list[Any]:
        """The region of each lesion; the first mask asked about tells where no tissue is."""
        if self.anatomy is None:
            known = self.examination.reference
            self.anatomy = anatomy_of(self.examination, mask if known is None else known)
        affine = self.examination.study.selected.series["flair"].volume.affine
        return list(regions_of(lesions, affine, self.anatomy, self.settings))


def measure(
    examination: Examination, outlined: np.ndarray, places: _Places
) -> tuple[dict[str, float], dict[str, float]]:
    """Accuracy of an outline, and what it shows by itself.

    Returns
    -------
    tuple of dict
        `scores` with those by region, empty without a reference; and ``lesions``, ``ml``,
        ``count_REGION`` and ``ml_REGION`` of the outline.
    """
    sizes = spacing(examination)
    voxel = float(np.prod(sizes))
    outlined = outlined & examination.valid
    nothing = np.zeros_like(outlined)
    reference = nothing if examination.reference is None else examination.reference
    reference = reference & examination.valid
    found = lesions_of(outlined, reference, voxel)
    found_places = places.of(found, outlined)
    shown = {
        "lesions": float(len(found.labels)),
        "ml": float(outlined.sum() * voxel / 1000),
        **region_counts(found, found_places),
    }
    if examination.reference is None:
        return {}, shown
    true = lesions_of(reference, outlined, voxel)
    return {
        **scores(reference, outlined, sizes),
        **region_scores(true, places.of(true, reference), found, found_places),
    }, shown


def run_task(task: Task) -> list[str]:
    """Score one case with every model that has no answer yet.

    A case that cannot be processed, and a model that the case has no series for or that has seen
    it, are answers too: their ``failure`` says why.

    Returns
    -------
    list of str
        A line for each answer that was written.
    """
    case, store = task.case, Store(task.output)
    everyone: list[tuple[str, Candidate | None]] = [(one.name, one) for one in task.models]
    if case.second_rater is not None:
        everyone.append((SECOND_RATER, None))
    pending = []
    for name, candidate in everyone:
        mark = fingerprint(
            case, "" if candidate is None else candidate.mark, fill_missing=task.fill_missing
        )
        if not store.answered(name, case.name, mark):
            pending.append((name, candidate, mark))
    if not pending:
        return []
    lines = []
    failure, examination = "", None
    if any(name not in case.seen_by for name, _, _ in pending):
        try:
            examination = _examine(case, store, task.threads)
        except InputError as error:
            failure = str(error)
    places = None if examination is None else _Places(examination)
    for name, candidate, mark in pending:
        begin, why, remark, identity = time.monotonic(), failure, "", ""
        accuracy: dict[str, float] = {}
        curve: dict[str, dict[str, float]] = {}
        shown: dict[str, float] = {}
        if candidate is not None:
            identity = candidate.sha256
        if name in case.seen_by:
            why = "The model was trained on this case."
        elif examination is not None and places is not None:
            try:
                if candidate is None:
                    assert examination.second_rater is not None
                    found = Outline(examination.second_rater)
                else:
                    found = outline(
                        examination, candidate, task.threads, fill_missing=task.fill_missing
                    )
                remark = found.remark
                accuracy, shown = measure(examination, found.mask, places)
                if found.probability is not None and examination.reference is not None:
                    curve = threshold_scores(
                        examination.reference,
                        found.probability,
                        float(np.prod(spacing(examination))),
                        examination.valid,
                    )
                volume = examination.study.brain_mask.with_array(found.mask)
                store.write_mask(name, case.name, volume)
            except InputError as error:
                why = str(error)
        store.write_answer(
            name,
            case.name,
            {
                "fingerprint": mark,
                "case": case.name,
                "model": name,
                "sha256": identity,
                **{attribute: getattr(case, attribute) for attribute in ATTRIBUTES},
                "failure": why,
                "seen": name in case.seen_by,
                "remark": remark,
                "seconds": round(time.monotonic() - begin, 1),
                "spacing_mm": [] if examination is None else list(spacing(examination)),
                "scores": accuracy,
                "shown": shown,
                "curve": curve,
            },
        )
        line = why
        if accuracy:
            line = f"Dice {accuracy['dice']:.2f}, F1 {accuracy['f1']:.2f}"
        elif shown:
            line = f"{shown['lesions']:.0f} lesions, {shown['ml']:.1f} ml, no reference"
        lines.append(f"{case.name}, {name}: {line}{f' ({remark})' if remark else ''}")
    return lines


def _examine(case: Case, store: Store, threads: int) -> Examination:
    """The case, registered now or earlier; its reference is kept for the report's pictures."""
    mark = prepared_mark(case)
    examination = prepare(
        case,
        RegistrationSettings(threads=threads),
        lambda selected: store.read_prepared(case.name, mark, selected),
    )
    store.write_prepared(case.name, mark, examination.study)
    if examination.reference is not None:
        mask = examination.study.brain_mask.with_array(examination.reference)
        store.write_mask(REFERENCE, case.name, mask)
    return examination


def workers_for(memory_gb: float, jobs: int | None) -> int:
    """How many cases may run at once within a memory limit."""
    processors = len(os.sched_getaffinity(0))
    return max(1, min(jobs or processors, int(memory_gb // GB_PER_CASE)))


def run(
    cases: Sequence[Case],
    models: Sequence[Candidate],
    output: Path,
    *,
    jobs: int | None = None,
    memory_gb: float | None = None,
    scheduler: str | None = None,
    fill_missing: bool = False,
    show: Callable[[str], None] = log.info,
) -> None:
    """Score every case with every model; what is there already is kept.

    Parameters
    ----------
    cases, models, output, fill_missing
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
    tasks = [Task(case, tuple(models), output, threads, fill_missing) for case in cases]
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

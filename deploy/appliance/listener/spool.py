"""The listener's state, as files: whatever stops the box, nothing that was accepted is lost.

::

    store/<patient>/<study>/<instance>.dcm   received images; <patient> is a hash
    arrivals/<patient>.<study>               touched by every image that a sender pushes
    jobs/{waiting,running,sending,done,failed}/<job>.json
    results/<job>/                           the application's output folder
    partial/                                 files being written

A file appears under its final name only when it is complete and on disk; a job changes its state
by a rename. On a restart, running jobs wait again and sending goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

STATES = ("waiting", "running", "sending", "done", "failed")
_UID = re.compile(r"^[0-9.]{1,64}$")


@dataclass(frozen=True)
class Job:
    """One study to be processed.

    Attributes
    ----------
    name
        Unique; also the name of the results folder.
    patient, study
        Keys of the store.
    created, not_before
        Seconds since the epoch.
    attempts
        Tries so far.
    reason
        Why the last try failed, without patient data.
    sent
        Files and destinations that are done, as "destination/file".
    used, ran
        Earlier studies that the last run had, and when it began.
    """

    name: str
    patient: str
    study: str
    created: float
    not_before: float = 0.0
    attempts: int = 0
    reason: str = ""
    sent: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    ran: float = 0.0


def patient_folder(identifier: str, issuer: str) -> str:
    """A folder name for a patient that does not show the identifier."""
    return hashlib.sha256(f"{identifier.strip()}\n{issuer.strip()}".encode()).hexdigest()[:32]


def is_uid(text: str) -> bool:
    """Whether a text is a DICOM UID, and so safe as a file name."""
    return bool(_UID.match(text)) and ".." not in text and not text.startswith(".")


def _on_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Spool:
    """The folder and the moves within it.

    Parameters
    ----------
    folder
        Made if it is not there; all of it must lie on one file system.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.arrivals = folder / "arrivals"
        self.jobs = folder / "jobs"
        self.results = folder / "results"
        self.partial = folder / "partial"
        for one in (self.store, self.arrivals, self.results, self.partial):
            one.mkdir(parents=True, exist_ok=True)
        for state in STATES:
            (self.jobs / state).mkdir(parents=True, exist_ok=True)

    def recover(self) -> int:
        """After a restart: interrupted jobs wait again. Returns how many."""
        for path in self.partial.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        interrupted = list(self.all_jobs("running"))
        for job in interrupted:
            self.move(job, "running", "waiting")
        return len(interrupted)

    def free_gb(self) -> float:
        """Free disk space in gigabytes."""
        return shutil.disk_usage(self.folder).free / 1e9

    def write(self, content: bytes, path: Path) -> None:
        """Write a file so that it is either complete and on disk, or not there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.partial / f"{time.time_ns()}.{os.getpid()}.{path.name[-80:]}"
        with partial.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
        _on_disk(path.parent)

    def receive(
        self, content: bytes, patient: str, study: str, instance: str, *, pushed: bool
    ) -> None:
        """Keep one image; a pushed one makes its study due.

        Raises
        ------
        ValueError
            If a UID is none.
        OSError
            If it cannot be written; the sender must then be told.
        """
        if not (is_uid(study) and is_uid(instance)):
            raise ValueError("a UID of the image is not valid")
        self.write(content, self.store / patient / study / f"{instance}.dcm")
        if pushed:
            mark = self.arrivals / f"{patient}.{study}"
            mark.touch()
            _on_disk(self.arrivals)

    def studies(self, patient: str) -> list[str]:
        """Studies of a patient in the store."""
        folder = self.store / patient
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def arriving(self, patient: str) -> set[str]:
        """Studies of a patient that are not complete yet."""
        marks = (mark.name.split(".", 1) for mark in self.arrivals.iterdir())
        return {study for owner, study in marks if owner == patient}

    def make_due(self, quiet_s: float, now: float) -> list[Job]:
        """Turn every study that has been quiet for long enough into a job."""
        jobs = []
        for mark in sorted(self.arrivals.iterdir()):
            arrived = mark.stat().st_mtime
            if now - arrived < quiet_s:
                continue
            patient, study = mark.name.split(".", 1)
            # the name holds the arrival, so a crash between the two steps makes no second job
            job = Job(f"{int(arrived * 1000)}-{study}", patient, study, created=arrived)
            if not any((self.jobs / state / f"{job.name}.json").exists() for state in STATES):
                self.save(job, "waiting")
                jobs.append(job)
            if mark.stat().st_mtime == arrived:
                mark.unlink()
        return jobs

    def save(self, job: Job, state: str) -> None:
        """Write a job."""
        self.write(json.dumps(asdict(job)).encode(), self.jobs / state / f"{job.name}.json")

    def all_jobs(self, state: str) -> Iterator[Job]:
        """The jobs in a state, oldest first."""
        for path in sorted((self.jobs / state).glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            yield Job(**{**content, "sent": tuple(content["sent"]), "used": tuple(content["used"])})

    def move(self, job: Job, before: str, after: str, **changes: object) -> Job:
        """Change a job and its state."""
        changed = replace(job, **changes)  # type: ignore[arg-type]
        self.save(changed, before)
        (self.jobs / before / f"{job.name}.json").replace(self.jobs / after / f"{job.name}.json")
        _on_disk(self.jobs / after)
        return changed

    def output(self, job: Job) -> Path:
        """The job's results folder."""
        return self.results / job.name

    def clean(self, keep_days: float, now: float) -> None:
        """Delete finished jobs, their results and studies that nothing has used for so long.

        A study stays as long as a job of its patient is not done, or failed and not yet seen to.
        """
        limit = now - 86400 * keep_days
        for job in list(self.all_jobs("done")):
            path = self.jobs / "done" / f"{job.name}.json"
            if path.stat().st_mtime < limit:
                shutil.rmtree(self.output(job), ignore_errors=True)
                path.unlink()
        needed = {
            job.patient for state in STATES if state != "done" for job in self.all_jobs(state)
        } | {mark.name.split(".", 1)[0] for mark in self.arrivals.iterdir()}
        for patient in self.store.iterdir():
            if patient.name in needed:
                continue
            for study in patient.iterdir():
                newest = max((file.stat().st_mtime for file in study.iterdir()), default=0.0)
                if newest < limit:
                    shutil.rmtree(study)
            if not any(patient.iterdir()):
                patient.rmdir()

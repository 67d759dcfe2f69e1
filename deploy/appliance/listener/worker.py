"""The work on one study after the other: collect, run the application, send."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydicom import Dataset, dcmread

from deploy.appliance.listener.pacs import (
    PacsError,
    choose,
    fetch_study,
    find_studies,
    send_files,
)
from deploy.appliance.listener.settings import ListenerSettings
from deploy.appliance.listener.spool import Job, Spool

logger = logging.getLogger(__name__)
LONGEST_WAIT_S = 3600.0
IDENTITY = ("PatientID", "IssuerOfPatientID", "StudyDate", "StudyTime", "Modality")
APPLICATION_ROOT = Path(__file__).resolve().parents[3]
NOT_PROCESSABLE = (2,)
"""Exit codes that no second try can change."""

RunApplication = Callable[[Path, Path], tuple[int, str]]
"""Input and output folder to exit code and the last line of its messages."""


def application_command(
    input_folder: Path, output_folder: Path, settings: ListenerSettings
) -> list[str]:
    """The command line of one run."""
    command = [sys.executable, "-m", "app", "-i", str(input_folder.resolve())]
    command += ["-o", str(output_folder.resolve())]
    if settings.models is not None:
        command += ["-m", str(settings.models.resolve())]
    return command


def run_application(
    input_folder: Path, output_folder: Path, settings: ListenerSettings
) -> tuple[int, str]:
    """Run the application as a process of its own, so that its failure stays its own.

    Returns
    -------
    tuple of int and str
        Exit code (1 also for a run that took too long) and its message, which holds no patient
        data.
    """
    environment = dict(os.environ)
    if settings.application_config is not None:
        environment["HOLOSCAN_CONFIG_PATH"] = str(settings.application_config.resolve())
    command = application_command(input_folder, output_folder, settings)
    try:
        done = subprocess.run(
            command,
            cwd=APPLICATION_ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=settings.run_timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"the run took more than {settings.run_timeout_s:g} s"
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, lines[-1] if lines else ""


def header(folder: Path) -> Dataset:
    """Identity attributes of a study, from its first image."""
    first = min(folder.iterdir())
    return dcmread(first, specific_tags=list(IDENTITY), stop_before_pixels=True)


def date_time(dataset: Dataset) -> str:
    """Study date and time as one sortable text."""
    return f"{dataset.get('StudyDate') or ''}{dataset.get('StudyTime') or ''}"


class Worker:
    """Takes jobs from the spool, one at a time.

    Parameters
    ----------
    spool, settings
        Where and how.
    run
        Runs the application; a parameter so that tests can replace it.
    """

    def __init__(
        self, spool: Spool, settings: ListenerSettings, run: RunApplication | None = None
    ) -> None:
        self.spool = spool
        self.settings = settings
        self.run = run or (lambda source, target: run_application(source, target, settings))

    def turn(self, now: float) -> bool:
        """Do whatever is due; False if nothing was."""
        for job in self.spool.make_due(self.settings.quiet_s, now):
            logger.info("job %s waits", job.name)
        for state, step in (("sending", self.send), ("waiting", self.process)):
            for job in self.spool.all_jobs(state):
                if job.not_before <= now:
                    step(job, now)
                    return True
        return False

    def serves_another(self, job: Job) -> bool:
        """Whether a later study of the patient waits, is still arriving, or has just used it."""
        for state in ("sending", "done"):
            for other in self.spool.all_jobs(state):
                if job.study in other.used and other.ran >= job.created:
                    return True
        others = {
            other.study for other in self.spool.all_jobs("waiting") if other.patient == job.patient
        }
        others |= self.spool.arriving(job.patient)
        patient = self.spool.store / job.patient
        own = (date_time(header(patient / job.study)), job.study)
        return any((date_time(header(patient / one)), one) > own for one in others - {job.study})

    def process(self, job: Job, now: float) -> None:
        """Collect the earlier studies and run the application."""
        if self.settings.only_latest and self.serves_another(job):
            self.spool.move(job, "waiting", "done", reason="serves a later study as earlier one")
            logger.info("job %s serves a later study as an earlier one", job.name)
            return
        job = self.spool.move(job, "waiting", "running", attempts=job.attempts + 1)
        logger.info("job %s runs (try %d)", job.name, job.attempts)
        try:
            self.collect(job)
            source = self.gather(job)
            used = tuple(sorted(path.name for path in source.iterdir() if path.name != job.study))
            job = self.spool.move(job, "running", "running", used=used, ran=now)
            code, reason = self.run(source, self.spool.output(job))
        except (PacsError, OSError) as error:
            self.again(job, now, f"{type(error).__name__}: {error}")
            return
        if code == 0:
            # the tries of the run are over, those of the sending begin
            job = self.spool.move(job, "running", "sending", attempts=0, not_before=0.0, reason="")
            self.send(job, now)
        elif code in NOT_PROCESSABLE:
            self.give_up(job, reason or f"exit code {code}")
        else:
            self.again(job, now, reason or f"exit code {code}")

    def collect(self, job: Job) -> None:
        """Fetch earlier studies that the store does not hold from the PACS."""
        wanted = self.settings.earlier_studies
        if wanted.query_node is None or wanted.maximum == 0:
            return
        current = header(self.spool.store / job.patient / job.study)
        found = find_studies(
            self.settings.ae_title,
            wanted.query_node,
            str(current.get("PatientID", "")),
            str(current.get("IssuerOfPatientID", "") or ""),
        )
        have = set(self.spool.studies(job.patient))
        for one in choose(found, job.study, date_time(current), wanted):
            if one.study_uid not in have:
                logger.info("job %s fetches an earlier study", job.name)
                fetch_study(self.settings.ae_title, wanted.query_node, one.study_uid)

    def gather(self, job: Job) -> Path:
        """An input folder with the study and the patient's earlier ones, as hard links."""
        target = self.spool.partial / f"input-{job.name}"
        shutil.rmtree(target, ignore_errors=True)
        patient = self.spool.store / job.patient
        present = date_time(header(patient / job.study))
        earlier = [
            (date_time(head), study)
            for study in self.spool.studies(job.patient)
            if study != job.study
            and (head := header(patient / study)).get("Modality") != "KO"
            and date_time(head) <= present
        ]
        earlier.sort(reverse=True)
        chosen = [study for _, study in earlier[: self.settings.earlier_studies.maximum]]
        for study in [job.study, *chosen]:
            (target / study).mkdir(parents=True)
            for file in (patient / study).iterdir():
                os.link(file, target / study / file.name)
        return target

    def send(self, job: Job, now: float) -> None:
        """Send what has not been confirmed yet; tried until it works, however long that takes."""
        files = sorted((self.spool.output(job) / "dicom").rglob("*.dcm"))
        sent = list(job.sent)
        try:
            for node in self.settings.destinations:
                left = [file for file in files if f"{node.ae_title}/{file.name}" not in sent]
                for file in send_files(self.settings.ae_title, node, left):
                    sent.append(f"{node.ae_title}/{file.name}")
        except (PacsError, OSError) as error:
            tries = job.attempts + 1
            self.spool.move(
                job,
                "sending",
                "sending",
                sent=tuple(sent),
                attempts=tries,
                not_before=now + self.wait(tries),
                reason=str(error),
            )
            logger.error("job %s: results not sent yet: %s", job.name, error)
            return
        self.tidy(job)
        self.spool.move(job, "sending", "done", sent=tuple(sent), reason="")
        logger.info("job %s is done: %d objects sent", job.name, len(files))

    def again(self, job: Job, now: float, reason: str) -> None:
        """Let a job wait for another try, or set it aside."""
        if job.attempts >= self.settings.attempts:
            self.give_up(job, reason)
            return
        self.spool.move(
            job,
            "running",
            "waiting",
            not_before=now + self.wait(job.attempts),
            reason=reason,
        )
        logger.error("job %s: try %d failed: %s", job.name, job.attempts, reason)

    def give_up(self, job: Job, reason: str) -> None:
        """Set a job aside for a person to look at; its images stay."""
        self.tidy(job)
        self.spool.move(job, "running", "failed", reason=reason)
        logger.error("job %s is set aside: %s", job.name, reason)

    def wait(self, tries: int) -> float:
        """Seconds until the next try."""
        return min(LONGEST_WAIT_S, self.settings.retry_s * 2.0 ** max(0, tries - 1))

    def tidy(self, job: Job) -> None:
        """Remove the job's input folder; the store keeps the images."""
        shutil.rmtree(self.spool.partial / f"input-{job.name}", ignore_errors=True)


def retry(spool: Spool, names: Sequence[str]) -> list[str]:
    """Let jobs that were set aside wait again; all of them without names.

    Returns
    -------
    list of str
        The jobs that were found.
    """
    found = []
    for job in list(spool.all_jobs("failed")):
        if not names or job.name in names:
            spool.move(job, "failed", "waiting", attempts=0, not_before=0.0)
            found.append(job.name)
    return found

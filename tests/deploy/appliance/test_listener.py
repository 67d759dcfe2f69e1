"""The listener against another DICOM implementation: nothing is lost, nothing is done twice."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from deploy.appliance.listener import __main__ as command_line
from deploy.appliance.listener.pacs import Found, choose
from deploy.appliance.listener.settings import EarlierStudies
from deploy.appliance.listener.spool import Spool
from deploy.appliance.listener.worker import Worker, retry, run_application
from operators.dicom_loader.scan import scan_folder
from tests.deploy.appliance.conftest import PACS, Box, copy_result

Series = Callable[..., list[Path]]


class Application:
    """Stands in for the application: notes its input and returns one object, or a failure."""

    def __init__(self, result: Path | None, code: int = 0, reason: str = "") -> None:
        self.result, self.code, self.reason = result, code, reason
        self.inputs: list[dict[str, int]] = []

    def __call__(self, source: Path, target: Path) -> tuple[int, str]:
        self.inputs.append({one.name: len(list(one.iterdir())) for one in source.iterdir()})
        if self.code == 0 and self.result is not None:
            copy_result(self.result, target)
        return self.code, self.reason


def names(spool: Spool, state: str) -> list[str]:
    return [job.study for job in spool.all_jobs(state)]


def uid(files: list[Path], keyword: str = "StudyInstanceUID") -> str:
    return str(dcmread(files[0], stop_before_pixels=True)[keyword].value)


def finish(worker: Worker) -> None:
    for _ in range(20):
        if not worker.turn(time.time()):
            return
    raise AssertionError("the work does not end")


def result_file(tmp_path: Path, series: Series) -> Path:
    return series("20260101", Modality="SR", PatientID="result")[0]


def test_study_is_processed_with_the_earlier_one_of_the_pacs(
    box: Box, series: Series, tmp_path: Path
) -> None:
    earlier, other = series("20240105"), series("20240106", PatientID="P-9999")
    later, current = series("20260606"), series("20250203")
    assert box.push([*earlier, *other, *later], to=box.archive) == 0
    before = box.archive.objects()
    assert box.push(current) == 0
    application = Application(result_file(tmp_path, series))
    finish(box.worker(application))
    # the patient's study before the current one, and nothing else
    assert application.inputs == [{uid(current): 7, uid(earlier): 7}]
    assert names(box.spool, "done") == [uid(current)]
    assert not any(names(box.spool, state) for state in ("waiting", "running", "sending", "failed"))
    (new,) = set(box.archive.objects()) - set(before)
    assert dcmread(new).SOPInstanceUID == dcmread(application.result).SOPInstanceUID
    # what the move brought is kept, and is no study to process
    assert set(box.spool.studies(next(box.spool.store.iterdir()).name)) == {
        uid(current),
        uid(earlier),
    }


def test_received_files_are_the_sent_images(box: Box, series: Series) -> None:
    current = series("20250203")
    assert box.push(current) == 0
    (study,) = scan_folder(box.spool.store).studies
    assert {one.sop_instance_uid for one in study.series[0].instances} == {
        str(dcmread(path).SOPInstanceUID) for path in current
    }
    stored = next(box.spool.store.rglob("*.dcm"))
    sent = next(path for path in current if dcmread(path).SOPInstanceUID == stored.stem)
    assert dcmread(stored).pixel_array.tolist() == dcmread(sent).pixel_array.tolist()
    assert not re.search(r"(?<!\d)0815(?!\d)", str(stored))


def test_earlier_study_that_is_pushed_along_serves_the_latest(
    box: Box, series: Series, tmp_path: Path
) -> None:
    earlier, current = series("20240105"), series("20250203")
    assert box.push([*current, *earlier]) == 0
    application = Application(result_file(tmp_path, series))
    finish(box.worker(application))
    assert application.inputs == [{uid(current): 7, uid(earlier): 7}]


def test_results_wait_until_the_pacs_takes_them(box: Box, series: Series, tmp_path: Path) -> None:
    box.settings = box.settings.model_copy(update={"earlier_studies": EarlierStudies()})
    assert box.push(series("20250203")) == 0
    box.archive.stop()
    application = Application(result_file(tmp_path, series))
    worker = box.worker(application)
    assert worker.turn(time.time())
    (job,) = box.spool.all_jobs("sending")
    assert PACS in job.reason
    assert not worker.turn(time.time()), "the next try comes later"
    box.archive.start()
    finish_at = job.not_before + 1
    assert worker.turn(finish_at)
    assert len(names(box.spool, "done")) == 1
    assert len(box.archive.objects()) == 1
    assert len(application.inputs) == 1, "the application is not run again to send its results"


def test_pacs_that_cannot_be_asked_is_tried_again_and_then_set_aside(
    box: Box, series: Series
) -> None:
    assert box.push(series("20250203")) == 0
    box.archive.stop()
    worker, now = box.worker(Application(None)), time.time()
    for _ in range(box.settings.attempts):
        assert worker.turn(now)
        now += 4000
    (job,) = box.spool.all_jobs("failed")
    assert "no association with PACS" in job.reason
    assert retry(box.spool, [job.name]) == [job.name]
    assert len(names(box.spool, "waiting")) == 1


def test_input_that_cannot_be_processed_is_set_aside_at_once(box: Box, series: Series) -> None:
    box.settings = box.settings.model_copy(update={"earlier_studies": EarlierStudies()})
    assert box.push(series("20250203")) == 0

    def run(source: Path, target: Path) -> tuple[int, str]:
        return run_application(source, target, box.settings)

    finish(box.worker(run))
    (job,) = box.spool.all_jobs("failed")
    assert job.reason.startswith("error: "), job.reason
    assert not re.search(r"(?<!\d)0815(?!\d)", job.reason)
    assert box.spool.studies(job.patient) == [job.study], "the images stay"
    assert not list(box.spool.partial.iterdir())


def test_run_that_takes_too_long_counts_as_a_failed_try(box: Box, series: Series) -> None:
    slow = box.settings.model_copy(update={"run_timeout_s": 0.05})
    code, reason = run_application(box.spool.store, box.spool.results / "x", slow)
    assert code == 1
    assert "0.05 s" in reason


def test_unknown_sender_is_rejected_and_a_full_disk_refuses(box: Box, series: Series) -> None:
    files = series("20250203")
    assert box.push(files, caller="STRANGER") != 0
    assert not list(box.spool.store.iterdir())
    object.__setattr__(box.settings, "reserve_gb", 1e9)
    assert box.push(files) != 0
    assert not list(box.spool.store.iterdir())
    assert not list(box.spool.arrivals.iterdir())


def test_crash_while_a_job_runs_loses_nothing(box: Box, series: Series, tmp_path: Path) -> None:
    assert box.push(series("20250203")) == 0

    class PowerCut(BaseException):
        pass

    def crash(source: Path, target: Path) -> tuple[int, str]:
        raise PowerCut

    with pytest.raises(PowerCut):
        box.worker(crash).turn(time.time())
    assert len(names(box.spool, "running")) == 1
    after = Spool(box.settings.spool)
    assert after.recover() == 1
    application = Application(result_file(tmp_path, series))
    finish(Worker(after, box.settings, application))
    assert len(names(after, "done")) == 1


def test_study_is_due_only_when_it_is_quiet(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.receive(b"x", "a" * 32, "1.2.3", "1.2.3.4", pushed=True)
    (mark,) = spool.arrivals.iterdir()
    arrived = mark.stat().st_mtime
    assert spool.make_due(90, arrived + 89) == []
    (job,) = spool.make_due(90, arrived + 90)
    assert (job.patient, job.study) == ("a" * 32, "1.2.3")
    assert spool.make_due(90, arrived + 900) == []
    # an image that comes late makes the study due again
    spool.receive(b"y", "a" * 32, "1.2.3", "1.2.3.5", pushed=True)
    (mark,) = spool.arrivals.iterdir()
    assert len(spool.make_due(90, mark.stat().st_mtime + 90)) == 1


@pytest.mark.parametrize("bad", ["../../etc", "1.2/3", "", "1..2", ".1"])
def test_uid_that_is_none_is_refused(tmp_path: Path, bad: str) -> None:
    spool = Spool(tmp_path / "spool")
    with pytest.raises(ValueError, match="UID"):
        spool.receive(b"x", "a" * 32, bad, "1.2.3", pushed=True)
    with pytest.raises(ValueError, match="UID"):
        spool.receive(b"x", "a" * 32, "1.2.3", bad, pushed=True)
    assert [path for path in spool.folder.rglob("*") if path.is_file()] == []


def test_cleaning_keeps_what_is_not_done(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for patient, study in (("a" * 32, "1.2.1"), ("b" * 32, "1.2.2")):
        spool.receive(b"x", patient, study, "1.2.3.4", pushed=True)
    later = time.time() + 86400 * 100
    done, failed = spool.make_due(0, time.time())
    spool.output(done).mkdir()
    spool.move(spool.move(done, "waiting", "sending"), "sending", "done")
    spool.move(failed, "waiting", "failed", reason="why")
    spool.clean(30, time.time())
    assert len(list(spool.store.iterdir())) == 2
    spool.clean(30, later)
    assert [path.name for path in spool.store.iterdir()] == [failed.patient]
    assert not spool.output(done).exists()
    assert names(spool, "failed") == [failed.study]


def test_choice_of_earlier_studies() -> None:
    mr = frozenset({"MR"})
    found = [
        Found("1", "20250203101500", "MR brain", mr),
        Found("2", "20240203", "MR Brain MS", mr),
        Found("3", "20230203", "MR knee", mr),
        Found("4", "20220203", "CT brain", frozenset({"CT"})),
        Found("5", "20260203", "MR brain", mr),
        Found("6", "20210203", "mr brain", frozenset()),
        Found("7", "", "MR brain", mr),
        Found("8", "20200203", "MR brain", mr),
    ]
    wanted = EarlierStudies(description="brain", maximum=2)
    assert [one.study_uid for one in choose(found, "1", "20250203101500", wanted)] == ["2", "6"]
    everything = replace(found[0], study_uid="0", description="")
    assert choose([everything], "1", "2026", EarlierStudies()) == [everything]


def test_health_and_status(box: Box, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "listener.yaml"
    text = box.settings.model_dump_json(exclude={"earlier_studies"})
    config.write_text(text)  # JSON is YAML
    (box.spool.folder / "heartbeat").touch()
    assert command_line.main(["-c", str(config), "health"]) == 0
    (box.spool.folder / "heartbeat").unlink()
    assert command_line.main(["-c", str(config), "health"]) == 1
    assert "does not run" in capsys.readouterr().err
    assert command_line.main(["-c", str(config), "status"]) == 0
    assert "waiting: 0" in capsys.readouterr().out


def test_wrong_setting_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "listener.yaml"
    config.write_text("spool: /x\ncallers: [A]\ndestinations: []\nquiet: 3\n")
    assert command_line.main(["-c", str(config), "status"]) == 3
    message = capsys.readouterr().err
    assert "quiet: Extra inputs" in message
    assert "destinations" in message

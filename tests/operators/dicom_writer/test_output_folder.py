"""The output folder is complete or holds no result, and other people's files stay."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import RawDataStorage, generate_uid

from operators import version
from operators.dicom_writer import output_folder
from operators.dicom_writer.common import save
from operators.dicom_writer.output_folder import clear_outputs, staged_output
from operators.errors import InputError, OutputError


def write_result(staging: Path, mark: str = "new") -> None:
    """Something that looks like a result: one DICOM object, a report and results.json."""
    dataset = Dataset()
    dataset.SOPClassUID = RawDataStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.ManufacturerModelName = version.NAME
    dataset.SeriesDescription = mark
    save(dataset, staging / "dicom" / f"{mark}.dcm")
    (staging / "report.pdf").write_text(f"%PDF {version.NAME} {mark}")
    (staging / "results.json").write_text(json.dumps({"software": {"name": version.NAME}}))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """An output folder with an earlier result."""
    folder = tmp_path / "out"
    with staged_output(folder) as staging:
        write_result(staging, "old")
    assert files(folder) == ["dicom/old.dcm", "report.pdf", "results.json"]
    return folder


def test_a_result_appears_as_a_whole_and_leaves_nothing_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    with staged_output(folder) as staging:
        write_result(staging)
        assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []
    assert everything(folder) == ["dicom", "dicom/new.dcm", "report.pdf", "results.json"]


def test_a_rerun_replaces_the_earlier_result_as_a_whole(earlier: Path) -> None:
    with staged_output(earlier) as staging:
        write_result(staging)
    assert files(earlier) == ["dicom/new.dcm", "report.pdf", "results.json"]


def test_clearing_removes_the_result_and_leftovers_and_nothing_else(earlier: Path) -> None:
    (earlier / "notes.txt").write_text("mine")
    leftover = earlier / f"{output_folder.HIDDEN_PREFIX}killed" / "dicom"
    leftover.mkdir(parents=True)
    (leftover / "half.dcm").write_bytes(b"half")
    clear_outputs(earlier)
    assert everything(earlier) == ["notes.txt"]
    clear_outputs(earlier)


@pytest.mark.parametrize(
    "error", [InputError("a", "b", "c"), RuntimeError("x"), KeyboardInterrupt()]
)
def test_a_failure_leaves_no_dicom_object_not_even_the_earlier_one(
    earlier: Path, error: BaseException
) -> None:
    (earlier / "notes.txt").write_text("mine")
    with pytest.raises(type(error)), staged_output(earlier) as staging:
        write_result(staging)
        raise error
    assert everything(earlier) == ["notes.txt"]


def test_an_incomplete_result_is_not_put_into_place(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must consist of"), staged_output(tmp_path) as staging:
        write_result(staging)
        (staging / "results.json").unlink()
    assert everything(tmp_path) == []


@pytest.mark.parametrize("failing", ["report.pdf", "results.json", "dicom"])
def test_a_failing_rename_takes_back_what_was_in_place(
    earlier: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def broken(path: Path, target: Path) -> Path:
        if path.name == failing and Path(target).parent == earlier:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(OutputError), staged_output(earlier) as staging:
        write_result(staging)
    assert everything(earlier) == []


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "cannot be written"),
        (errno.EACCES, "cannot be written"),
        (errno.EIO, "cannot be written"),
    ],
)
def test_a_file_system_error_while_writing_says_what_to_do(
    tmp_path: Path, number: int, words: str
) -> None:
    with pytest.raises(OutputError) as caught, staged_output(tmp_path) as staging:
        write_result(staging)
        raise OSError(number, os.strerror(number))
    assert words in str(caught.value)
    assert caught.value.remedy
    assert caught.value.exit_code == 1
    assert str(tmp_path) not in str(caught.value)
    assert everything(tmp_path) == []


def test_an_error_about_a_file_elsewhere_is_not_blamed_on_the_output_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError), staged_output(tmp_path / "out"):
        (tmp_path / "input" / "gone.dcm").read_bytes()


def test_a_disk_that_is_full_only_when_data_reach_it_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With delayed allocation a write can succeed and the space be missing at fsync."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="no space left"), staged_output(tmp_path) as staging:
        write_result(staging)
        monkeypatch.setattr(os, "fsync", full)
    assert everything(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a file system needs root; the mocked full disk stands for it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(tiny_disk: Path) -> None:
    with pytest.raises(OutputError, match="no space left"), staged_output(tiny_disk) as staging:
        (staging / "dicom").mkdir()
        (staging / "dicom" / "large.dcm").write_bytes(b"\0" * 200_000)
    assert everything(tiny_disk) == []


def test_a_mount_point_can_be_the_output_folder(tiny_disk: Path) -> None:
    for mark in ("first", "second"):
        with staged_output(tiny_disk) as staging:
            write_result(staging, mark)
    assert files(tiny_disk) == ["dicom/second.dcm", "report.pdf", "results.json"]


def test_a_read_only_file_system(tiny_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(OutputError, match="cannot be written"):
        clear_outputs(tiny_disk)
    with pytest.raises(OutputError, match="cannot be written"), staged_output(tiny_disk):
        pass


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file"):
        clear_outputs(tmp_path / "out")
    with pytest.raises(OutputError, match="is a file"):
        clear_outputs(tmp_path / "out" / "below")
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize(
    "name",
    ["report.pdf", "results.json", "dicom", "dicom/scan.dcm", "dicom/deep/notes.txt"],
)
def test_files_that_others_wrote_are_neither_removed_nor_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("somebody else's")
    for attempt in (clear_outputs, staged_output):
        with pytest.raises(OutputError, match="did not write it") as caught:
            if attempt is clear_outputs:
                clear_outputs(tmp_path)
            else:
                with staged_output(tmp_path) as staging:
                    write_result(staging)
        assert "scan" not in str(caught.value)
        assert "notes" not in str(caught.value)
    assert files(tmp_path) == [name]
    assert path.read_text() == "somebody else's"


def test_dicom_objects_of_another_source_in_the_folder_are_kept(earlier: Path) -> None:
    """As when OUT/dicom was taken for an inbox: the images of a scanner must not vanish."""
    scan = Dataset()
    scan.SOPClassUID = RawDataStorage
    scan.SOPInstanceUID = generate_uid()
    scan.ManufacturerModelName = "Skyra"
    save(scan, earlier / "dicom" / "IM0001.dcm")
    with pytest.raises(OutputError, match="did not write it"):
        clear_outputs(earlier)
    assert files(earlier) == ["dicom/IM0001.dcm", "dicom/old.dcm", "report.pdf", "results.json"]


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with staged_output(elsewhere) as staging:
        write_result(staging)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "dicom").symlink_to(elsewhere / "dicom")
    with pytest.raises(OutputError):
        clear_outputs(folder)
    assert (elsewhere / "dicom" / "new.dcm").exists()

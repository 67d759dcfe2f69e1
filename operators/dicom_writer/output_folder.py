"""The output folder: complete, or without any result of this application.

Results are written to a hidden folder inside the output folder (which may be a mount point, so that
nothing beside it lies on the same file system), forced to disk, and renamed into place when all of
them are there; ``dicom`` comes last, so that its presence means that the result is complete. An
earlier result is replaced as a whole. Other files in the output folder are never touched: when one
bears the name of a result, or lies in ``dicom``, writing is refused.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from operators import version
from operators.errors import OutputError

DICOM_FOLDER = "dicom"
REPORT_FILE = "report.pdf"
RESULTS_FILE = "results.json"
ENTRIES = (REPORT_FILE, RESULTS_FILE, DICOM_FOLDER)
"""What a result consists of, in the order in which it is put into place."""

HIDDEN_PREFIX = ".ms-lesion-follow-up-"
"""Start of the names of the folders used while writing; leftovers of a killed run are removed."""

SUBJECT = "output folder"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}

logger = logging.getLogger(__name__)


def clear_outputs(folder: Path) -> None:
    """Make the output folder and remove the earlier result and leftovers from it.

    To be called before a run, so that after a failure no earlier result can be taken for the new
    one, and that a folder that cannot be written is known at once.

    Raises
    ------
    OutputError
        If the folder cannot be made or written, or holds files that this application did not write
        under the names of its results; these are left as they are.
    """
    with _output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder)
        _remove_hidden(folder)
        trash = _hidden_folder(folder)
        _set_aside(folder, trash)
        shutil.rmtree(trash)


@contextmanager
def staged_output(folder: Path) -> Iterator[Path]:
    """Collect a result in a hidden folder and put it into place as a whole.

    Yields
    ------
    pathlib.Path
        An empty folder that takes ``dicom``, ``report.pdf`` and ``results.json``. When the block
        ends they replace the earlier result; when it raises nothing of them stays, and an earlier
        result is removed too.

    Raises
    ------
    OutputError
        If the folder cannot be written, is full, or holds foreign files under the results' names.
    RuntimeError
        If the block ends without having made all three entries, or with others.
    """
    with _output_errors(folder):
        clear_outputs(folder)
        staging = _hidden_folder(folder)
        try:
            yield staging
            made = sorted(entry.name for entry in staging.iterdir())
            if made != sorted(ENTRIES):
                raise RuntimeError(f"a result must consist of {sorted(ENTRIES)}, not of {made}")
            _flush(staging)
            _put_in_place(staging, folder)
        finally:
            # The error that ended the block matters more than what cannot be cleaned up after it.
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _output_errors(folder: Path) -> Iterator[None]:
    """Turn a failure of the folder's file system into an OutputError, without paths."""
    try:
        yield
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not (
            Path(error.filename).absolute().is_relative_to(folder.absolute())
            or folder.absolute().is_relative_to(Path(error.filename).absolute())
        )
        if elsewhere:
            raise
        raise _as_output_error(error) from error


def _number_of(error: BaseException | None) -> int | None:
    """The error's number; pydicom raises a failed write anew without it, so its cause is asked."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _as_output_error(error: OSError) -> OutputError:
    number = _number_of(error)
    if number in _FULL:
        return OutputError(
            SUBJECT,
            "There is no space left on its file system.",
            "Free space or give another folder with -o; no result was kept.",
        )
    if number in _FORBIDDEN:
        return OutputError(
            SUBJECT,
            "It cannot be written.",
            "Give a folder with -o that the application may write to.",
        )
    if number in {errno.EEXIST, errno.ENOTDIR}:
        return OutputError(
            SUBJECT, "It is a file, not a folder.", "Give a folder with -o, or remove the file."
        )
    reason = os.strerror(number) if number else type(error).__name__
    return OutputError(
        SUBJECT,
        f"It cannot be written ({reason}).",
        "Check the file system, or give another folder with -o.",
    )


def _hidden_folder(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=HIDDEN_PREFIX, dir=folder))


def _remove_hidden(folder: Path) -> None:
    for leftover in folder.glob(f"{HIDDEN_PREFIX}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)


def _set_aside(folder: Path, trash: Path) -> None:
    """Move the earlier result out of sight, DICOM first; the rest tells whose it was until then."""
    for name in reversed(ENTRIES):
        entry = folder / name
        if os.path.lexists(entry):
            entry.rename(trash / name)


def _put_in_place(staging: Path, folder: Path) -> None:
    placed: list[Path] = []
    try:
        for name in ENTRIES:
            (staging / name).rename(folder / name)
            placed.append(folder / name)
        _sync(folder)
    except BaseException:
        for entry in reversed(placed):
            entry.rename(staging / entry.name)
        raise


def _flush(folder: Path) -> None:
    """Force every file and folder to disk; a full disk may show only here."""
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent) / name)
        _sync(Path(parent))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def _refuse_foreign(folder: Path) -> None:
    """Refuse an output folder in which a result would replace or join somebody else's files."""
    foreign = _foreign_file(folder)
    if foreign is not None:
        raise OutputError(
            f"{foreign} in the output folder",
            "This application did not write it and will not replace it.",
            "Move it away, or give another folder with -o.",
        )


def _foreign_file(folder: Path) -> str | None:
    results, report, dicom = (folder / name for name in (RESULTS_FILE, REPORT_FILE, DICOM_FOLDER))
    if os.path.lexists(results) and not _is_own_results(results):
        return RESULTS_FILE
    known = os.path.lexists(results)
    if os.path.lexists(report) and not known and not _is_own_report(report):
        return REPORT_FILE
    if os.path.lexists(dicom):
        if dicom.is_symlink() or not dicom.is_dir():
            return DICOM_FOLDER
        for path in sorted(dicom.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or _is_own_dicom(path)):
                # Only the place is named: a file name given by others may hold patient data.
                return f"a file in {DICOM_FOLDER}"
    return None


def _is_own_results(path: Path) -> bool:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        name = results["software"]["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(name == version.NAME)


def _is_own_report(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        content = stream.read()
    return version.NAME.encode() in content


def _is_own_dicom(path: Path) -> bool:
    try:
        header = dcmread(path, specific_tags=["ManufacturerModelName"], stop_before_pixels=True)
    except (InvalidDicomError, OSError, ValueError):
        return False
    return str(header.get("ManufacturerModelName", "")) == version.NAME

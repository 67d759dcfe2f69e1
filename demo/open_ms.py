"""Real MS patients of open_ms_data, from a folder or downloaded with checksums.

Command line: ``python -m demo.open_ms OUT [--patient 12]`` wraps a patient into DICOM.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin

from demo.wrap import Source, TimePoint, WrappedPatient, read_demographics, wrap_patient
from operators.errors import InputError

FOLDER_VARIABLE = "OPEN_MS_DIR"
_FILE_NAMES = {"flair": "FLAIR", "t2": "T2W", "t1": "T1W"}
_CHUNK = 1 << 18
Progress = Callable[[str, int, int], None]
"""Called with file name, bytes so far and bytes in all."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of the repository."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Which files of the repository are used, at which commit."""

    base_url: str
    commit: str
    licence: str
    citation: str
    patients: Mapping[int, WrappedPatient]
    files: tuple[RemoteFile, ...]

    def of_patient(self, number: int) -> tuple[RemoteFile, ...]:
        """The files of one patient.

        Raises
        ------
        InputError
            For a patient that is not in the manifest.
        """
        found = tuple(f for f in self.files if f"/patient{number:02d}/" in f.path)
        if not found:
            known = ", ".join(str(n) for n in sorted(self.patients))
            raise InputError(
                f"patient {number}",
                f"There are checksums for patients {known} only.",
                "Choose one of them.",
            )
        return found


def load_manifest() -> Manifest:
    """The manifest that comes with the project."""
    text = resources.files("demo").joinpath("open_ms_files.json").read_text(encoding="utf-8")
    content = json.loads(text)
    return Manifest(
        content["base_url"],
        content["commit"],
        content["licence"],
        content["citation"],
        {
            int(number): WrappedPatient(f"open_ms_patient{int(number):02d}", **values)
            for number, values in content["patients"].items()
        },
        tuple(
            RemoteFile(path, item["bytes"], item["sha256"])
            for path, item in content["files"].items()
        ),
    )


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    base_url: str,
    *,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> list[Path]:
    """Download files, keeping those that are there with the right checksum.

    A file appears under its name only when it is complete and its checksum right; an interrupted
    download of several files goes on with the missing ones.

    Parameters
    ----------
    files
        What to fetch.
    folder
        Receives the files under their paths in the repository.
    base_url
        Where the repository's root is served.
    timeout_s
        Longest silence of the server, in seconds.
    progress
        Told how far each file is.

    Returns
    -------
    list of pathlib.Path
        The files, in order.

    Raises
    ------
    InputError
        When the server cannot be reached, does not have a file, stops early, or a checksum is
        wrong.
    """
    paths = []
    for file in files:
        target = folder / file.path
        if not (target.is_file() and sha256_of(target) == file.sha256):
            _fetch(file, target, base_url, timeout_s, progress)
        paths.append(target)
    return paths


def _fetch(
    file: RemoteFile, target: Path, base_url: str, timeout_s: float, progress: Progress | None
) -> None:
    url = urljoin(base_url if base_url.endswith("/") else f"{base_url}/", file.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    done = 0
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    partial = Path(name)
    try:
        with (
            os.fdopen(handle, "wb") as stream,
            urllib.request.urlopen(url, timeout=timeout_s) as response,
        ):
            while block := response.read(_CHUNK):
                stream.write(block)
                digest.update(block)
                done += len(block)
                if progress:
                    progress(target.name, done, file.size)
        if digest.hexdigest() != file.sha256:
            raise InputError(
                url,
                f"The file has {done} bytes and another checksum than the {file.size} bytes "
                "expected.",
                "Try again; if it stays so, the file was changed or the connection is tampered "
                f"with: get the data set by hand and set {FOLDER_VARIABLE}.",
            )
        partial.replace(target)
    except urllib.error.HTTPError as error:
        raise InputError(
            url,
            f"The server answered {error.code} ({error.reason}).",
            f"Get the data set by hand and set {FOLDER_VARIABLE} to its folder.",
        ) from error
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise InputError(
            url,
            f"The download failed ({reason}).",
            f"Check the network, or set {FOLDER_VARIABLE} to a folder with the data set.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def find_patient(folder: Path, number: int) -> list[TimePoint]:
    """The raw images of a patient in a copy of the data set.

    Parameters
    ----------
    folder
        The repository's root, its ``longitudinal`` folder, the ``raw`` folder in it, or any
        folder with the patients' folders.
    number
        The patient.

    Returns
    -------
    list of TimePoint
        The studies that have a FLAIR, the earlier first.

    Raises
    ------
    InputError
        When the patient or every FLAIR is missing.
    """
    name = f"patient{number:02d}"
    for inside in ("longitudinal/raw", "longitudinal", "raw", "."):
        patient = folder / inside / name
        if patient.is_dir():
            break
    else:
        raise InputError(
            str(folder),
            f"There is no folder {name} in it, in longitudinal/ or in longitudinal/raw/.",
            f"Set {FOLDER_VARIABLE} to a copy of open_ms_data.",
        )
    points = []
    for study in ("study1", "study2"):
        images = {
            role: path
            for role, name in _FILE_NAMES.items()
            if (path := patient / f"{study}_{name}.nii.gz").is_file()
        }
        if "flair" in images:
            points.append(TimePoint(images))
    if not points:
        raise InputError(
            str(patient),
            "There is no studyN_FLAIR.nii.gz in it.",
            f"Set {FOLDER_VARIABLE} to a complete copy of open_ms_data.",
        )
    return points


def real_patient(
    out: Path,
    number: int = 12,
    *,
    folder: Path | None = None,
    cache: Path | None = None,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Wrap a real patient into DICOM, downloading the images when there is no folder.

    Parameters
    ----------
    out
        Receives the DICOM studies.
    number
        The patient of open_ms_data.
    folder
        A copy of the data set.
    cache
        Where downloads are kept; needed without ``folder``.
    base_url
        Instead of the repository on GitHub.
    progress
        Told about the download.

    Returns
    -------
    list of pathlib.Path
        The DICOM files.

    Raises
    ------
    InputError
        When images are missing or cannot be downloaded or converted.
    """
    manifest = load_manifest()
    if folder is None:
        if cache is None:
            raise ValueError("without a folder a cache for the download is needed")
        url = base_url or manifest.base_url
        download(manifest.of_patient(number), cache, url, progress=progress)
        folder = cache
    points = find_patient(folder, number)
    patient = _demographics(folder).get(number) or manifest.patients.get(
        number, WrappedPatient(f"open_ms_patient{number:02d}")
    )
    source = Source("open_ms_data, CC-BY", manifest.citation)
    return wrap_patient(points, patient, out, source)


def _demographics(folder: Path) -> dict[int, WrappedPatient]:
    """The data set's own table of patients, where the folder has it."""
    for inside in ("longitudinal", ".", ".."):
        for name in ("patient_info.csv", "demographics.csv"):
            table = folder / inside / name
            if table.is_file():
                return read_demographics(table)
    return {}


def show_progress(name: str, done: int, size: int) -> None:
    """Print how far a download is: live on a terminal, once at its end otherwise."""
    if sys.stderr.isatty():
        end = "\n" if done >= size else ""
        print(f"\r  {name} {done / 1e6:5.1f} of {size / 1e6:.1f} MB", end=end, file=sys.stderr)
    elif done >= size:
        print(f"  {name} {size / 1e6:.1f} MB", file=sys.stderr)


def folder_from_environment() -> Path | None:
    """The folder that ``OPEN_MS_DIR`` names, if it is set."""
    value = os.environ.get(FOLDER_VARIABLE, "").strip()
    return Path(value).expanduser() if value else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.open_ms",
        description="Wrap a real patient of open_ms_data into DICOM, from the folder in "
        f"{FOLDER_VARIABLE} or downloaded.",
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--patient", type=int, default=12)
    parser.add_argument("--cache", type=Path, default=Path(".cache/open_ms"))
    parser.add_argument("--base-url", help="instead of the repository on GitHub")
    options = parser.parse_args(arguments)
    manifest = load_manifest()
    try:
        files = real_patient(
            options.out,
            options.patient,
            folder=folder_from_environment(),
            cache=options.cache,
            base_url=options.base_url,
            progress=show_progress,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{len(files)} files: {options.out}\nData: {manifest.licence}.\n{manifest.citation}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

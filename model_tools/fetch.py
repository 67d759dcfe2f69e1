"""The sub-command ``fetch``: download published weights, resumably, with their checksums recorded.

A file appears under its name when it is complete. What has arrived of an unfinished one is kept as
``NAME.part`` and continued with an HTTP range request (RFC 9110, sections 14 and 13.1.5), unless
the server's file has changed. ``source.json`` holds where each file came from, its size and sha256;
``import`` checks them.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from model_tools.releases import BASE_URL, RELEASES, Release
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import file_sha256
from operators.version import NAME, VERSION

log = logging.getLogger(__name__)
SOURCE_FILE = "source.json"
LICENCE = "not stated by the publisher"
NOTICE = """{title} (Zenodo record {record}).
The publisher states NO LICENCE for these weights. Without one, copying and using them needs the
permission of their authors. Do not go on unless you have it; it is your responsibility."""
ATTEMPTS = 5
"""Attempts in a row without a single new byte before giving up."""
_CHUNK = 1 << 18
Progress = Callable[[str, int, int], None]
"""Told the file's name, the bytes so far and in all."""


@dataclass(frozen=True)
class _Answer:
    """What the server says about the file that it is about to send."""

    start: int
    total: int
    validator: str | None


def _failed(name: str, rule: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"download of {name}", rule, remedy)


def _answer(response: http.client.HTTPResponse, name: str) -> _Answer:
    headers = response.headers
    validator = headers.get("ETag")
    if validator is None or validator.startswith("W/"):
        validator = headers.get("Last-Modified")
    if response.status == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if found:
            return _Answer(int(found[1]), int(found[2]), validator)
    elif response.status == 200 and headers.get("Content-Length", "").isdigit():
        return _Answer(0, int(headers["Content-Length"]), validator)
    raise _failed(
        name,
        f"the server's answer ({response.status}) does not say how long the file is.",
        "Try again later, or name another server with --base-url.",
    )


def _open(url: str, start: int, validator: str | None, timeout_s: float) -> Any:
    request = urllib.request.Request(
        url, headers={"User-Agent": f"{NAME}/{VERSION}", "Accept-Encoding": "identity"}
    )
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator is not None:
            request.add_header("If-Range", validator)
    return urllib.request.urlopen(request, timeout=timeout_s)


def _begun(part: Path) -> tuple[int, dict[str, Any]]:
    """How much of a file is there, and what the server said about it; 0 if that is not known."""
    note = _note(part)
    if not part.is_file() or not note.is_file():
        return 0, {}
    try:
        known = dict(json.loads(note.read_text(encoding="utf-8")))
        return part.stat().st_size, {"total": int(known["total"]), "validator": known["validator"]}
    except (ValueError, KeyError, TypeError):  # it was being written when the machine stopped
        return 0, {}


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write(part: Path, name: str, mode: str, chunks: Iterator[bytes]) -> None:
    """Write what arrives; a reader's errors go through, a writer's are the user's to mend."""
    try:
        stream = part.open(mode)
    except OSError as error:
        raise _unwritable(name, error) from error
    with stream:
        for chunk in chunks:
            try:
                stream.write(chunk)
            except OSError as error:
                raise _unwritable(name, error) from error


def _unwritable(name: str, error: OSError) -> ConfigurationError:
    return _failed(
        name, f"it cannot be written ({error.strerror}).", "Choose another folder with -o."
    )


def _receive(url: str, part: Path, timeout_s: float, progress: Progress | None) -> bool:
    """One attempt to continue or begin a file; whether it is complete."""
    name = part.name.removesuffix(".part")
    start, known = _begun(part)
    if known and start == known["total"]:
        return True
    with _open(url, start, known.get("validator"), timeout_s) as response:
        answer = _answer(response, name)
        if answer.start and known != {"total": answer.total, "validator": answer.validator}:
            _note(part).unlink()  # the server's file is not the one begun: from the start
            return False
        if answer.start not in (0, start):
            raise _failed(name, "the server sent another part than asked for.", "Try again later.")
        if start and not answer.start:
            log.info("%s: the server does not continue it, or it has changed: from the start", name)
        if answer.total - answer.start > shutil.disk_usage(part.parent).free:
            raise _failed(
                name,
                f"it needs {answer.total / 2**20:.0f} MiB, more than the disk has free.",
                "Free space, or choose another folder with -o.",
            )
        if not answer.start:
            part.unlink(missing_ok=True)
        _note(part).write_text(json.dumps({"total": answer.total, "validator": answer.validator}))
        done = answer.start

        def chunks() -> Iterator[bytes]:
            nonlocal done
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                yield chunk
                if progress is not None:
                    progress(name, done, answer.total)

        _write(part, name, "ab", chunks())
    if done > answer.total:
        raise _failed(name, "the server sent more than it announced.", "Try again later.")
    return done == answer.total


def fetch_part(
    url: str,
    part: Path,
    *,
    timeout_s: float = 60.0,
    pause_s: float = 2.0,
    progress: Progress | None = None,
) -> None:
    """Download a file into ``NAME.part``, going on where an earlier download stopped.

    Parameters
    ----------
    url, part
        From where, to where. ``NAME.part.json`` beside it holds the length and the validator that
        the server stated.
    timeout_s
        Longest silence of the server.
    pause_s
        Pause before the second attempt; doubled for each further one in vain.
    progress
        Told how far it is.

    Raises
    ------
    ConfigurationError
        If the server has no such file, refuses it, or cannot be reached after several attempts
        that brought nothing new.
    """
    name = part.name.removesuffix(".part")
    failures, furthest, reason = 0, _begun(part)[0], ""
    while failures < ATTEMPTS:
        try:
            if _receive(url, part, timeout_s, progress):
                return
            reason = "the connection ended early."
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there does not fit the server's file
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise _failed(
                    name,
                    f"the server answers {error.code} ({error.reason}).",
                    "Check with a browser that the record still exists, or give --base-url.",
                ) from error
            reason = f"the server answers {error.code}."
        except (OSError, http.client.HTTPException) as error:
            reason = f"the server cannot be reached ({type(error).__name__})."
        size = _begun(part)[0]
        failures = 0 if size > furthest else failures + 1
        furthest = max(furthest, size)
        if failures < ATTEMPTS:
            time.sleep(pause_s * 2 ** max(0, failures - 1))
    raise _failed(name, reason, "Run the same command again: it goes on from here.")


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / SOURCE_FILE
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigurationError(
            f"folder {folder.name}", f"{SOURCE_FILE} is damaged.", "Delete it and fetch again."
        ) from error


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    temporary = folder / f".{SOURCE_FILE}.new"
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.rename(folder / SOURCE_FILE)


def fetch_release(
    release: Release,
    folder: Path,
    *,
    base_url: str = BASE_URL,
    timeout_s: float = 60.0,
    pause_s: float = 2.0,
    progress: Progress | None = None,
) -> None:
    """Download the files of a release that are not there yet.

    Parameters
    ----------
    release
        What to fetch.
    folder
        Receives the files and ``source.json``.
    base_url
        Where the publisher's records are served.

    Raises
    ------
    ConfigurationError
        See `fetch_part`; also if a file in the folder is not the one that was downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = _read_record(folder)
    if record and record.get("name") != release.name:
        raise ConfigurationError(
            f"folder {folder.name}",
            f"it holds {record.get('name')}, not {release.name}.",
            "Choose another folder with -o.",
        )
    record = {
        "name": release.name,
        "source": f"{release.title}; Zenodo record {release.record}",
        "url": f"{base_url.rstrip('/')}/{release.record}",
        "licence": LICENCE,
        "roles": list(release.roles),
        "files": record.get("files", {}),
    }
    for name in release.files:
        target, known = folder / name, record["files"].get(name)
        if target.is_file():
            if known is not None and file_sha256(target) == known["sha256"]:
                continue
            raise ConfigurationError(
                f"file {name}",
                f"it is not the one recorded in {SOURCE_FILE}: it was changed, or came from "
                "elsewhere.",
                "Delete it and fetch again.",
            )
        part = folder / f"{name}.part"
        url = release.url(base_url, name)
        fetch_part(url, part, timeout_s=timeout_s, pause_s=pause_s, progress=progress)
        # recorded first, then renamed: a file under its name is always in the record
        record["files"][name] = {
            "url": url,
            "bytes": part.stat().st_size,
            "sha256": file_sha256(part),
            "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_record(folder, record)
        part.rename(target)
        _note(part).unlink()
        log.info("%s: sha256 %s", name, record["files"][name]["sha256"])


class _Bars:
    """One progress bar per file, on a terminal only."""

    def __init__(self) -> None:
        self._name, self._bar = "", None

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self.close()
            self._bar = tqdm(
                desc=name, total=total, unit="B", unit_scale=True, disable=None, file=sys.stderr
            )
            self._name = name
        if self._bar is not None:
            self._bar.n = done
            self._bar.refresh()

    def close(self) -> None:
        """End the last bar."""
        if self._bar is not None:
            self._bar.close()


def confirm(release: Release, permitted: bool, ask: Callable[[str], str] | None) -> None:
    """Tell that no licence is stated; go on only with the user's word that they have permission.

    Parameters
    ----------
    permitted
        Whether the user said so on the command line.
    ask
        Asks on the terminal; None where there is none.

    Raises
    ------
    ConfigurationError
        Without the user's word.
    """
    print(NOTICE.format(title=release.title, record=release.record), file=sys.stderr)
    if permitted:
        return
    if ask is not None and ask("Do you have the authors' permission? Type yes: ") == "yes":
        return
    raise ConfigurationError(
        f"release {release.name}",
        "the publisher states no licence, and you have not said that you have permission.",
        "Ask the authors; then add --i-have-permission.",
    )


def _run(arguments: argparse.Namespace) -> None:
    release = RELEASES[arguments.release]
    confirm(release, arguments.i_have_permission, input if sys.stdin.isatty() else None)
    bars = _Bars()
    try:
        fetch_release(release, arguments.output, base_url=arguments.base_url, progress=bars)
    finally:
        bars.close()
    print(
        f"{arguments.output}: complete; checksums in {SOURCE_FILE}. Next:\n"
        f"python -m model_tools import {arguments.output} -o models/{release.name}"
    )


def add_fetch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to the parser of ``python -m model_tools``."""
    command = commands.add_parser("fetch", help="download published weights (resumable)")
    command.add_argument("release", choices=tuple(RELEASES))
    command.add_argument("-o", "--output", type=Path, required=True, help="folder for the files")
    command.add_argument("--base-url", default=BASE_URL, help="where the records are served")
    command.add_argument(
        "--i-have-permission",
        action="store_true",
        help="you have the authors' permission (no licence is stated)",
    )
    command.set_defaults(run=_run)

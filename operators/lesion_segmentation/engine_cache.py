"""Compiled engines on disk, found by the content they were made from and checked before use.

An entry is two files: a manifest ``<engine>-<precision>-<digest>.json``, which states everything
that the engine depends on and the hash of the engine file, and the engine file itself. The name
follows from the content (network, precision, engine and its version, device, options), so that a
replaced model or an updated engine never meets an old entry.

Engines are programs: whoever can write to the folder decides what runs. The folder must belong to
the user that runs the application.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when this application compiles networks differently, so that old entries are not used."""


@dataclass(frozen=True)
class EngineKey:
    """Everything that a compiled engine depends on."""

    network_sha256: str
    engine: str
    """"tensorrt", "tensorrt_rtx" or "openvino"."""
    version: str
    """Of the engine's library."""
    precision: str
    device: str
    """As "sm89", or a processor with its features."""
    options: Mapping[str, int | str]

    def content(self) -> dict[str, Any]:
        """The key as plain JSON values."""
        return {"format": FORMAT, **asdict(self), "options": dict(sorted(self.options.items()))}

    @property
    def name(self) -> str:
        """File name of the entry, without its ending."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.engine}-{self.precision}-{digest[:32]}"


class _UnusableEntryError(Exception):
    """A cache entry that must not be used; the text says why."""


class EngineCache:
    """A writable folder of engines, and folders with engines that were built beforehand.

    Parameters
    ----------
    folder
        Where engines are looked up and written; made if it is missing. None: nothing is written.
    prebuilt
        Folders that are only read, such as those of an image (``model_tools build --output``).
    """

    def __init__(self, folder: Path | None, prebuilt: Sequence[Path] = ()) -> None:
        self.folder = folder
        self.prebuilt = tuple(prebuilt)

    def get(self, key: EngineKey) -> bytes | None:
        """The engine for a key, or None.

        A damaged, truncated or foreign entry is reported in the log and not used.
        """
        for folder in (*([self.folder] if self.folder else []), *self.prebuilt):
            manifest = folder / f"{key.name}.json"
            try:
                if not manifest.is_file():
                    continue
                blob = _read_entry(manifest, key)
            except (OSError, _UnusableEntryError) as problem:
                reason = problem.strerror if isinstance(problem, OSError) else problem
                logger.warning("engine cache: %s is not used: %s", manifest.name, reason)
                continue
            logger.info("engine cache: %s found (%.0f MB)", key.name, len(blob) / 1e6)
            return blob
        return None

    def put(self, key: EngineKey, blob: bytes | memoryview) -> bool:
        """Write an engine; False, with a warning, where the folder cannot be written.

        Several processes may write the same entry: each file appears complete or not at all, and a
        manifest always belongs to the engine file that it names.
        """
        if self.folder is None:
            return False
        manifest = self.folder / f"{key.name}.json"
        digest = hashlib.sha256(blob).hexdigest()
        file = self.folder / f"{key.name}-{digest[:16]}.engine"
        content = {
            "key": key.content(),
            "file": file.name,
            "bytes": len(blob),
            "sha256": digest,
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder):
                replaced = _file_of(manifest)
                _write(file, blob)
                _write(manifest, (json.dumps(content, indent=2) + "\n").encode())
                if replaced is not None and replaced != file.name:
                    (self.folder / replaced).unlink(missing_ok=True)
        except OSError as error:
            logger.warning(
                "engine cache: cannot write to the cache folder (%s); the engine is compiled again "
                "at every start. Give a writable folder with -w or lesion_segmentation."
                "engine_cache.",
                error.strerror,
            )
            return False
        logger.info("engine cache: %s written (%.0f MB)", key.name, len(blob) / 1e6)
        return True

    def discard(self, key: EngineKey) -> None:
        """Remove an entry from the writable folder, because its engine did not load."""
        if self.folder is None:
            return
        try:
            (self.folder / f"{key.name}.json").unlink(missing_ok=True)
        except OSError as error:
            logger.warning("engine cache: cannot remove %s (%s)", key.name, error.strerror)


def cache_folder(work_folder: Path | None = None) -> Path | None:
    """The folder for engines where the settings name none.

    Parameters
    ----------
    work_folder
        The application's work folder (-w), if there is one.

    Returns
    -------
    pathlib.Path or None
        "engines" in the work folder, else a folder in the user's cache folder; None for a user
        without a home folder.
    """
    if work_folder is not None:
        return work_folder / "engines"
    try:
        return Path.home() / ".cache" / "ms-lesion-followup" / "engines"
    except RuntimeError:
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one writer at a time, so that none removes what another wrote."""
    with (folder / ".lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _file_of(manifest: Path) -> str | None:
    """The engine file that a manifest names, if it is one of the manifest's own."""
    try:
        name = json.loads(manifest.read_bytes())["file"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    own = isinstance(name, str) and name.startswith(f"{manifest.stem}-") and "/" not in name
    return name if own else None


def _read_entry(manifest: Path, key: EngineKey) -> bytes:
    try:
        content = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise _UnusableEntryError("its manifest is damaged") from error
    if not isinstance(content, dict) or set(content) != {"key", "file", "bytes", "sha256"}:
        raise _UnusableEntryError("its manifest is damaged")
    if content["key"] != key.content():
        raise _UnusableEntryError("it belongs to another network, engine or device")
    name = content["file"]
    if not isinstance(name, str) or not name.startswith(f"{key.name}-") or "/" in name:
        raise _UnusableEntryError("its manifest names a file that is not its own")
    file = manifest.parent / name
    if not file.is_file():
        raise _UnusableEntryError("its engine file is missing")
    blob = file.read_bytes()
    if len(blob) != content["bytes"]:
        raise _UnusableEntryError("its engine file is truncated")
    if hashlib.sha256(blob).hexdigest() != content["sha256"]:
        raise _UnusableEntryError("its engine file is damaged")
    return blob


def _write(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:
            stream.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise

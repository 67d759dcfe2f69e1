"""Where the trained model lies: a result folder, a folder above several, or an exported zip."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from model_tools.importing import v1, v2
from operators.errors import ConfigurationError

MOST_MEMBERS = 100_000
LARGEST_TOTAL = 40 * 2**30
"""Bytes that a zip may unpack to: five folds of nnU-Net's largest presets in all configurations."""
LARGEST_RATIO = 200
"""Compression of a whole zip; weights hardly shrink, and text less than this."""
_NEEDED = re.compile(
    r"plans\.json|dataset\.json|plans\.pkl|source\.json|checkpoint_\w+\.pth|[\w.]+\.model(\.pkl)?"
)
_DEPTH = 4


def _unsafe(source: Path, rule: str) -> ConfigurationError:
    return ConfigurationError(
        f"archive {source.name}",
        rule,
        "Take the zip that nnUNetv2_export_model_to_zip or nnUNet v1's export wrote.",
    )


def _check_member(source: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or set(name) & set("\\:\0"):
        raise _unsafe(source, "it holds a path that leaves the folder it is unpacked to.")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _unsafe(source, "it holds a symbolic link.")
    if member.flag_bits & 1:
        raise _unsafe(source, "it is encrypted.")


def unpack(source: Path, target: Path) -> None:
    """Unpack what the import needs of a zip into an empty folder.

    Raises
    ------
    ConfigurationError
        If the archive is damaged, encrypted, holds links or paths that leave the folder, or
        would become too large.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            for member in members:
                _check_member(source, member)
            needed = [m for m in members if _NEEDED.fullmatch(PurePosixPath(m.filename).name)]
            total = sum(m.file_size for m in needed)
            packed = sum(m.compress_size for m in needed)
            if len(members) > MOST_MEMBERS or total > LARGEST_TOTAL:
                raise _unsafe(
                    source, f"it has too many files, or unpacks to {total / 2**30:.0f} GiB."
                )
            if total > LARGEST_RATIO * max(packed, 1):
                raise _unsafe(source, "it unpacks to far more than weights would.")
            if total > shutil.disk_usage(target).free:
                raise ConfigurationError(
                    f"archive {source.name}",
                    f"it unpacks to {total / 2**30:.1f} GiB, more than the disk has free.",
                    "Free space beside the output folder.",
                )
            for member in needed:
                path = target / PurePosixPath(member.filename)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as stream, path.open("xb") as file:
                    shutil.copyfileobj(stream, file, 2**20)
    except (
        *(zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, FileExistsError),
    ) as error:
        raise _unsafe(source, f"it is damaged ({error}).") from error


def result_folders(root: Path) -> list[Path]:
    """Every folder with nnU-Net plans at or a few levels below a folder; itself comes alone."""
    if (root / v2.PLANS).is_file() or (root / v1.PLANS).is_file():
        return [root]
    found = []
    for current, folders, files in os.walk(root):
        depth = len(Path(current).relative_to(root).parts)
        if v2.PLANS in files or v1.PLANS in files:
            found.append(Path(current))
        if depth >= _DEPTH or found[-1:] == [Path(current)]:
            folders.clear()
    return sorted(found)


def choose_folder(root: Path, source: Path, configuration: str | None) -> Path:
    """The one result folder that is meant.

    Raises
    ------
    ConfigurationError
        If there is none, or if several fit.
    """
    found = result_folders(root)
    if not found:
        raise ConfigurationError(
            f"result folder {source.name}",
            f"it holds neither {v2.PLANS} (nnU-Net v2) nor {v1.PLANS} (v1).",
            "Give the folder that nnU-Net's training left, or a zip exported by nnU-Net.",
        )
    if len(found) > 1 and configuration is not None:
        found = [
            path
            for path in found
            if path.name.endswith(f"__{configuration}")
            or configuration in path.relative_to(root).parts
        ]
    if len(found) == 1:
        return found[0]
    names = ", ".join(str(path.relative_to(root)) for path in result_folders(root))
    raise ConfigurationError(
        f"result folder {source.name}",
        f"it holds several trained models ({names})."
        if found
        else f"none of its trained models ({names}) is a {configuration}.",
        "Name one with --configuration, or give its folder.",
    )


@contextmanager
def opened(source: Path, configuration: str | None, workplace: Path) -> Iterator[Path]:
    """The result folder in a folder or zip; a zip is unpacked below ``workplace``.

    Raises
    ------
    ConfigurationError
        See `unpack` and `choose_folder`.
    """
    if source.is_dir():
        yield choose_folder(source, source, configuration)
    elif source.is_file() and zipfile.is_zipfile(source):
        target = workplace / "unpacked"
        target.mkdir()
        unpack(source, target)
        yield choose_folder(target, source, configuration)
        shutil.rmtree(target)
    else:
        raise ConfigurationError(
            f"result folder {source.name}",
            "it is neither a folder nor a zip archive.",
            "Give the folder that nnU-Net's training left, or a zip exported by nnU-Net.",
        )

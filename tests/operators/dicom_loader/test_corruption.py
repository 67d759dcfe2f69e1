"""Randomly damaged files: the loader ends with a result or with an InputError, nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import InputError
from tests.operators.dicom_loader.builders import (
    Grid,
    make_classic_series,
    make_enhanced,
    write_files,
)

GRID = Grid(shape=(4, 20, 16))
ROUNDS = 40


def originals(kind: str, folder: Path) -> list[bytes]:
    if kind == "classic":
        datasets = make_classic_series(GRID, slope=2.0)
    elif kind == "compressed":
        datasets = make_classic_series(GRID)
        for dataset in datasets:
            dataset.compress(RLELossless, generate_instance_uid=False)
    else:
        datasets = [make_enhanced(GRID, legacy=kind == "legacy")]
    return [path.read_bytes() for path in write_files(datasets, folder)]


def cut(data: bytearray, rng: random.Random) -> None:
    """Within the dataset: shorter files are not recognised as DICOM."""
    del data[rng.randrange(400, len(data) - 10) :]


def overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(132, len(data))] = rng.randrange(256)


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(132, len(data))
    del data[at : at + rng.randrange(1, 30)]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(132, len(data))
    data[at:at] = rng.randbytes(rng.randrange(1, 30))


@pytest.mark.parametrize("kind", ["classic", "compressed", "enhanced", "legacy"])
@pytest.mark.parametrize("damage", [cut, overwrite, remove, insert])
def test_damage_never_escapes(
    tmp_path: Path, kind: str, damage: Callable[[bytearray, random.Random], None]
) -> None:
    files = originals(kind, tmp_path / "original")
    folder = tmp_path / "damaged"
    folder.mkdir()
    rng = random.Random(f"{kind} {damage.__name__}")
    refused = 0
    for _ in range(ROUNDS):
        victim = rng.randrange(len(files))
        for index, content in enumerate(files):
            data = bytearray(content)
            if index == victim:
                damage(data, rng)
            (folder / f"file{index}").write_bytes(data)
        try:
            for study in scan_folder(folder).studies:
                for series in study.series:
                    volume, headers = read_volume(series)
                    assert np.isfinite(volume.array).all()
                    assert len(headers) in (1, volume.array.shape[0])
        except InputError as error:
            refused += 1
            assert error.rule
            assert error.remedy
    if damage is cut:
        assert refused == ROUNDS

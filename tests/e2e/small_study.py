"""Small MR studies for tests of what the application refuses: quick to write, quick to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

from tests.operators.dicom_loader.builders import Grid, make_classic_series, write_files

BRAIN = Grid(shape=(44, 108, 96), spacing_mm=(3.3, 1.9, 1.7), position_mm=(-80.0, -100.0, -60.0))
"""A head with as few voxels as the rules allow; oblique, anisotropic, non-cubic."""

T2 = {
    "SeriesNumber": 5,
    "SeriesDescription": "t2_tse_tra",
    "ProtocolName": "t2_tse_tra",
    "SequenceName": "*tse2d1_15",
    "ScanningSequence": "SE",
    "EchoTime": "100",
    "RepetitionTime": "5000",
    "InversionTime": None,
}
T1 = {
    "SeriesNumber": 6,
    "SeriesDescription": "t1_mprage_sag",
    "ProtocolName": "t1_mprage_sag",
    "SequenceName": "*tfl3d1_16ns",
    "ScanningSequence": ["GR", "IR"],
    "MRAcquisitionType": "3D",
    "EchoTime": "2.3",
    "RepetitionTime": "2000",
    "InversionTime": "900",
    "FlipAngle": "8",
    "EchoTrainLength": 1,
}


def head_pixels(grid: Grid = BRAIN, seed: int = 1) -> np.ndarray:
    """uint16 (slices, rows, columns): a noisy ellipsoid, enough for headers to matter first."""
    axes = [np.linspace(-1, 1, n) for n in grid.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    inside = (z**2 + y**2 + x**2) < 0.8
    noise = np.random.default_rng(seed).integers(0, 20, grid.shape)
    return (inside * 400 + noise).astype(np.uint16)


def series(role: str = "flair", grid: Grid = BRAIN, **attributes: Any) -> list[Dataset]:
    """A series of one role, with any attribute changed."""
    values = {"flair": {}, "t2": T2, "t1": T1}[role] | attributes
    values.setdefault("pixels", head_pixels(grid))
    return make_classic_series(grid, **values)


def study(**attributes: Any) -> list[Dataset]:
    """FLAIR and T2 of one study in one frame of reference, with attributes changed on both."""
    shared = {"study_uid": generate_uid(), "frame_of_reference_uid": generate_uid()} | attributes
    return series("flair", **shared) + series("t2", **shared)


def write(datasets: list[Dataset], folder: Path) -> Path:
    """Write data sets and return the folder."""
    write_files(datasets, folder)
    return folder

"""The synthetic patient, made once for all tests of the demonstration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from demo.anatomy import Anatomy, build_anatomy
from demo.patient import SyntheticPatient, make_patient
from demo.synthetic import write_patient
from demo.vendors import VENDORS


@pytest.fixture(scope="session")
def patient() -> SyntheticPatient:
    """The patient that the demonstration shows."""
    return make_patient()


@pytest.fixture(scope="session")
def anatomy() -> Anatomy:
    """The same patient's head, made a second time."""
    return build_anatomy(1)


@pytest.fixture(scope="session")
def written(
    patient: SyntheticPatient, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A function that gives the patient's DICOM folder in one vendor's style."""
    folders: dict[str, Path] = {}

    def write(vendor: str) -> Path:
        if vendor not in folders:
            folders[vendor] = tmp_path_factory.mktemp(vendor)
            write_patient(patient, folders[vendor], next(v for v in VENDORS if v == vendor))
        return folders[vendor]

    return write

"""Whole runs, each made once for all tests that look at it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.patient import SyntheticPatient, make_patient
from demo.synthetic import write_patient
from tests.e2e.running import Run, run_app

VENDORS = ("siemens", "ge", "philips", "enhanced")


@pytest.fixture(scope="session")
def patient() -> SyntheticPatient:
    """The synthetic patient that the demonstration shows."""
    return make_patient()


@pytest.fixture(scope="session")
def synthetic_run(
    patient: SyntheticPatient, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """A function that gives the run on the synthetic patient in one vendor's style."""
    runs: dict[str, Run] = {}

    def run(vendor: str) -> Run:
        if vendor not in runs:
            folder = tmp_path_factory.mktemp(vendor)
            write_patient(patient, folder / "in", vendor)
            runs[vendor] = run_app(folder / "in", folder / "out")
            assert runs[vendor].code == 0, runs[vendor].log
        return runs[vendor]

    return run

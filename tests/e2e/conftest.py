"""Whole runs, each made once for all tests that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid

from demo.patient import SyntheticPatient, make_patient
from demo.synthetic import write_patient
from demo.truth import Truth, truth_of
from tests.e2e.running import Run, run_app

VENDORS = ("siemens", "ge", "philips", "enhanced")


@pytest.fixture(scope="session")
def patient() -> SyntheticPatient:
    """The synthetic patient that the demonstration shows."""
    return make_patient()


@pytest.fixture(scope="session")
def truth(patient: SyntheticPatient) -> Truth:
    """What was planted into that patient."""
    return truth_of(patient)


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


@dataclass(frozen=True)
class SecondVisit:
    """A patient who was examined, and a second time with the first result in the archive."""

    baseline: dict[str, Any]
    """results.json of the first visit, with the names that its objects give the lesions."""
    objects: tuple[Path, ...]
    """SEG and SR that the application wrote at the first visit, among the second one's input. Their
    lesions have other names than the images alone would give, so that it shows who read them."""
    run: Run
    """The second visit's, into the same output folder."""
    without: Run
    """The same two studies without the first visit's objects."""


def _renamed(path: Path, names: dict[str, str], target: Path) -> Path:
    """Write a DICOM object with other tracking UIDs and IDs."""
    dataset = pydicom.dcmread(path)

    def rename(_: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.VR in {"UI", "UT", "LO"} and str(element.value) in names:
            element.value = names[str(element.value)]

    dataset.walk(rename)
    dataset.save_as(target)
    return target


@pytest.fixture(scope="session")
def second_visit(
    synthetic_run: Callable[[str], Run], tmp_path_factory: pytest.TempPathFactory
) -> SecondVisit:
    """The prior study alone, then both studies with what the first run wrote."""
    without = synthetic_run("siemens")
    folder = tmp_path_factory.mktemp("second_visit")
    first, both, out = folder / "first", folder / "both", folder / "out"
    for path in without.source.rglob("*"):
        if not path.is_file():
            continue
        targets = [both]
        try:
            header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"])
        except pydicom.errors.InvalidDicomError:
            header = pydicom.Dataset()
        if header.get("StudyInstanceUID") == without.results["prior"]["study_uid"]:
            targets.append(first)
        for target in targets:
            link = target / path.relative_to(without.source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    baseline = run_app(first, out)
    assert baseline.code == 0, baseline.log
    results = baseline.results
    names = {}
    for number, lesion in enumerate(results["lesions"], start=501):
        for key, name in (
            ("tracking_uid", str(generate_uid(entropy_srcs=[lesion["tracking_uid"]]))),
            ("tracking_id", f"Lesion {number}"),
        ):
            names[lesion[key]] = name
            lesion[key] = name
    objects = []
    for modality in ("SEG", "SR"):
        (path,) = baseline.of_modality(modality)
        objects.append(_renamed(path, names, both / f"first_visit_{modality}.dcm"))
    run = run_app(both, out)
    assert run.code == 0, run.log
    return SecondVisit(results, tuple(objects), run, without)

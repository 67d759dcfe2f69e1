"""Write the synthetic patient as DICOM with its truth: ``python -m demo.synthetic OUT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset

from demo.acquisition import Acquisition
from demo.dicom_series import SeriesHeader, StudyHeader, classic_series, save
from demo.distractors import distractor_series, old_ct, screenshot, write_stray_files
from demo.enhanced_mr import enhanced_series
from demo.lesions import DEFAULT_PLAN
from demo.patient import (
    ROLES,
    ScannedStudy,
    SyntheticPatient,
    make_patient,
    make_uid,
)
from demo.time_line import make_time_line, save_time_line, time_line_truth
from demo.truth import save_truth, truth_of
from demo.vendors import VENDORS, Vendor, VendorName

_NUMBERS = {"flair": 3, "t2": 4, "t1": 5}
_PHILIPS_SLOPE = 0.25


def write_patient(
    patient: SyntheticPatient,
    folder: Path,
    vendor: VendorName = "siemens",
    *,
    distractors: bool = True,
) -> list[Path]:
    """Write all studies of a patient as DICOM files.

    Parameters
    ----------
    patient
        From ``demo.patient.make_patient``.
    folder
        Receives the files; created when absent.
    vendor
        The header style: "siemens", "ge", "philips" or "enhanced".
    distractors
        Adds localizer, contrast-enhanced T1, dual echo, diffusion, ADC, a screenshot, an old CT
        slice and files that are not DICOM.

    Returns
    -------
    list of pathlib.Path
        Every file written.
    """
    style = VENDORS[vendor]
    paths: list[Path] = []
    for study in patient.studies:
        header = study_header(patient, study, style)
        base = folder / f"study{len(patient.studies) - study.index}"
        counter = 0
        for series, files in _all_series(patient, study, header, style, distractors):
            for file in files:
                counter += 1
                paths.append(save(file, base / _name(style, series, file, counter)))
        if distractors:
            paths.append(save(screenshot(header, style), base / f"SC0001{style.extension}"))
    if distractors:
        paths += write_stray_files(folder)
        paths.append(_write_ct(patient, folder, style))
    return paths


def study_header(patient: SyntheticPatient, study: ScannedStudy, vendor: Vendor) -> StudyHeader:
    """Patient and study attributes in a vendor's character set."""
    return StudyHeader(
        patient.person,
        study.acquired,
        study.study_uid,
        study.frame_of_reference_uid,
        vendor.character_set,
        study_id=str(max(2, len(patient.studies)) - study.index),
        accession_number=f"DEMO{study.acquired.year}{study.index}",
    )


def series_header(
    patient: SyntheticPatient, study: ScannedStudy, acquisition: Acquisition, vendor: Vendor
) -> SeriesHeader:
    """The header of one of the three sequences."""
    role = acquisition.role
    return SeriesHeader(
        make_uid(patient.seed, "series", study.index, vendor.name, role),
        _NUMBERS[role],
        {**vendor.equipment, **vendor.sequences[role]},
        three_d=acquisition.prescription.three_d,
        minute=5 * (_NUMBERS[role] - 2),
    )


def _all_series(
    patient: SyntheticPatient,
    study: ScannedStudy,
    header: StudyHeader,
    vendor: Vendor,
    distractors: bool,
) -> Iterator[tuple[SeriesHeader, list[FileDataset]]]:
    for acquisition in study.acquisitions.values():
        series = series_header(patient, study, acquisition, vendor)
        if vendor.name == "enhanced":
            image = enhanced_series(acquisition.volume, header, series, acquisition.contrast)
            yield series, [image]
            continue
        yield (
            series,
            list(
                classic_series(
                    acquisition.volume,
                    header,
                    series,
                    numbering=vendor.numbering,
                    transfer_syntax=vendor.transfer_syntax,
                    slopes=_slopes(acquisition, study) if vendor.rescaled else None,
                )
            ),
        )
    if distractors:
        yield from distractor_series(patient, study, header, vendor)


def _slopes(acquisition: Acquisition, study: ScannedStudy) -> np.ndarray:
    """A rescale slope per slice, as Philips scanners choose it from each slice's maximum."""
    rng = np.random.default_rng([study.index, _NUMBERS[acquisition.role], 7])
    return _PHILIPS_SLOPE * (1.0 + rng.uniform(-0.2, 0.2, acquisition.prescription.slices))


def _name(vendor: Vendor, series: SeriesHeader, file: FileDataset, counter: int) -> Path:
    number = int(file.InstanceNumber)
    if vendor.name == "ge":
        return Path(f"s{series.number:03d}") / f"i{number:06d}.MRDC.{number}"
    if not vendor.folders:
        return Path("DICOM") / f"IM_{counter:04d}"
    return Path(f"series{series.number:02d}") / f"MR{number:04d}{vendor.extension}"


def _write_ct(patient: SyntheticPatient, folder: Path, vendor: Vendor) -> Path:
    header = StudyHeader(
        patient.person,
        date(2016, 9, 1),
        make_uid(patient.seed, "study", "ct"),
        make_uid(patient.seed, "frame", "ct"),
        vendor.character_set,
        study_description="CT Head",
        study_id="7",
        accession_number="DEMO2016",
    )
    corner = np.eye(4)
    corner[:3, 3] = (-118.5, -118.5, 20.0)
    image = old_ct(header, header.frame_of_reference_uid, corner)
    return save(image, folder / "old" / f"CT0001{vendor.extension}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.synthetic",
        description="Make a synthetic MS patient with known truth as DICOM "
        "(OUT/dicom) and its truth (OUT/truth).",
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--vendor", choices=sorted(VENDORS), default="siemens")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--studies",
        type=int,
        choices=(1, 2, 5),
        default=2,
        help="5: over years, with lesions that merge, split, resolve and come back",
    )
    parser.add_argument("--no-t1", action="store_true", help="leave out the T1")
    parser.add_argument("--no-lesions", action="store_true", help="a healthy brain")
    parser.add_argument("--no-distractors", action="store_true", help="only FLAIR, T2 and T1")
    options = parser.parse_args(arguments)
    if (options.out / "dicom").exists():
        parser.error(f"{options.out / 'dicom'} exists already; remove it or choose another OUT")
    if options.studies == 5:
        return _write_time_line(options)
    patient = make_patient(
        options.seed,
        plan=() if options.no_lesions else DEFAULT_PLAN,
        studies=options.studies,
        roles=[r for r in ROLES if r != "t1" or not options.no_t1],
    )
    files = write_patient(
        patient, options.out / "dicom", options.vendor, distractors=not options.no_distractors
    )
    truth = save_truth(truth_of(patient), options.out / "truth")
    print(
        f"{len(files)} files, {len(patient.studies)} studies, {len(patient.lesions)} lesions: "
        f"{options.out / 'dicom'}; truth: {truth}"
    )
    return 0


def _write_time_line(options: argparse.Namespace) -> int:
    roles = [role for role in ROLES if role != "t1" or not options.no_t1]
    line = make_time_line(options.seed, roles=roles)
    files = write_patient(
        line.patient, options.out / "dicom", options.vendor, distractors=not options.no_distractors
    )
    truth = save_time_line(time_line_truth(line), options.out / "truth")
    print(
        f"{len(files)} files, {len(line.patient.studies)} studies, {len(line.courses)} bodies: "
        f"{options.out / 'dicom'}; truth: {truth}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""NIfTI images as DICOM studies with their true geometry: ``python -m demo.wrap``.

The voxel values and their positions in patient millimetres are those of the NIfTI file. What a
NIfTI file does not know (echo times and the like, dates) is filled with typical values, and every
image says that it was converted.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from pydicom.uid import generate_uid

from demo.dicom_series import SeriesHeader, StudyHeader, classic_series, save
from demo.patient import Person
from operators.errors import InputError

ROLES = ("flair", "t2", "t1")
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SHEAR_LIMIT = 1e-3
"""Largest cosine between two axes that is taken for rounding and straightened."""
_FIRST_DATE = date(2015, 1, 5)
_TYPICAL = "typical values of the sequence, not those of the acquisition"
_SEQUENCES: Mapping[str, Mapping[str, Any]] = {
    "flair": {
        "ProtocolName": "FLAIR",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK", "MP"],
        "RepetitionTime": 9000,
        "EchoTime": 120,
        "InversionTime": 2500,
        "FlipAngle": 90,
        "EchoTrainLength": 16,
    },
    "t2": {
        "ProtocolName": "T2W",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "RepetitionTime": 5000,
        "EchoTime": 100,
        "FlipAngle": 90,
        "EchoTrainLength": 14,
    },
    "t1": {
        "ProtocolName": "T1W",
        "ScanningSequence": "SE",
        "SequenceVariant": "NONE",
        "RepetitionTime": 600,
        "EchoTime": 10,
        "FlipAngle": 90,
        "EchoTrainLength": 1,
    },
}


@dataclass(frozen=True)
class Source:
    """Where the images come from, for the headers."""

    name: str = "NIfTI"
    citation: str = ""


@dataclass(frozen=True)
class WrappedPatient:
    """The little that is known about the patient."""

    identifier: str = "converted"
    sex: str = ""
    age_years: int | None = None
    """At the first study."""
    interval_days: int = 365


@dataclass(frozen=True)
class TimePoint:
    """The files of one study, by role ("flair", "t2", "t1")."""

    images: Mapping[str, Path] = field(default_factory=dict)


def volume_from_nifti(path: Path) -> hd.Volume:
    """Read a NIfTI image as slices, rows and columns of a DICOM series.

    The axis with the largest spacing becomes the slice axis (the last one, if all are alike);
    in the slices, columns run towards the patient's left (sagittal: posterior) and rows towards
    posterior (sagittal and coronal: towards the feet). Axes are only permuted and flipped.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file.

    Returns
    -------
    highdicom.Volume
        float64 or whole numbers over (slices, rows, columns), right-handed, LPS affine.

    Raises
    ------
    InputError
        For a file that is no NIfTI image, has no position, is not three-dimensional, has values
        that are not finite, or is sheared.
    """
    try:
        image: Any = nib.load(path)
        values = np.asanyarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(
            path.name, "The file cannot be read as a NIfTI image.", "Check or replace the file."
        ) from error
    header = image.header
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise InputError(
            path.name,
            "The image has neither an sform nor a qform, so its position is unknown.",
            "Convert the original DICOM files again.",
        )
    if values.ndim > 3 and values.size == np.prod(values.shape[:3]):
        values = values.reshape(values.shape[:3])
    if values.ndim != 3:
        raise InputError(
            path.name,
            f"The image has {values.ndim} dimensions instead of three.",
            "Split it into single volumes first.",
        )
    if not np.isfinite(values).all():
        raise InputError(
            path.name,
            "The image has voxels that are not finite numbers.",
            "Replace them before converting.",
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    affine = _straightened(_RAS_TO_LPS @ affine, path.name, values.shape)
    return _as_slices(values, affine)


def _straightened(
    affine: npt.NDArray[np.float64], name: str, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """The affine with exactly perpendicular axes, about the image's centre."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or spacing.min() < 1e-3:
        raise InputError(
            name, "The image's affine has an axis without extent.", "Repair the NIfTI header."
        )
    direction = affine[:3, :3] / spacing
    shear = float(np.abs(direction.T @ direction - np.eye(3)).max())
    if shear > _SHEAR_LIMIT:
        raise InputError(
            name,
            f"The image's axes are not perpendicular (cosine {shear:.4f}), which a DICOM series "
            "cannot express.",
            "Resample the image onto a regular grid first.",
        )
    left, _, right = np.linalg.svd(direction)
    straight = affine.copy()
    straight[:3, :3] = (left @ right) * spacing
    middle = (np.asarray(shape) - 1) / 2.0
    straight[:3, 3] += (affine[:3, :3] - straight[:3, :3]) @ middle
    return straight


def _as_slices(values: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> hd.Volume:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    largest = float(spacing.max())
    alike = largest - float(spacing.min()) < 0.01 * largest
    slice_axis = 2 if alike else int(np.argmax(spacing))
    in_plane = [axis for axis in range(3) if axis != slice_axis]
    direction = affine[:3, :3] / spacing
    normal_is = int(np.argmax(np.abs(direction[:, slice_axis])))
    # Columns run along L, in sagittal slices along P; rows along P, otherwise towards the feet.
    wanted = {0: ((0, 0, -1), (0, 1, 0)), 1: ((0, 0, -1), (1, 0, 0)), 2: ((0, 1, 0), (1, 0, 0))}
    down, across = (np.asarray(w, float) for w in wanted[normal_is])
    first, second = in_plane
    if abs(direction[:, first] @ across) > abs(direction[:, second] @ across):
        first, second = second, first
    order = (slice_axis, first, second)
    array = values.transpose(order)
    result = np.eye(4)
    result[:3, :3] = affine[:3, order]
    result[:3, 3] = affine[:3, 3]
    for axis, towards in ((1, down), (2, across)):
        if result[:3, axis] @ towards < 0.0:
            array, result = _flipped(array, result, axis)
    if np.linalg.det(result[:3, :3]) < 0.0:
        array, result = _flipped(array, result, 0)
    return hd.Volume(np.ascontiguousarray(array), affine=result, coordinate_system="PATIENT")


def _flipped(
    array: npt.NDArray[Any], affine: npt.NDArray[np.float64], axis: int
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    changed = affine.copy()
    changed[:3, 3] += changed[:3, axis] * (array.shape[axis] - 1)
    changed[:3, axis] *= -1.0
    return np.flip(array, axis), changed


def wrap_series(
    path: Path,
    role: str,
    study: StudyHeader,
    number: int,
    folder: Path,
    source: Source = Source(),
) -> list[Path]:
    """Write one NIfTI image as one MR series.

    Parameters
    ----------
    path
        The image.
    role
        "flair", "t2" or "t1"; decides the typical sequence parameters.
    study
        Patient and study attributes.
    number
        Series Number.
    folder
        Receives one file per slice.
    source
        What the headers say about the origin.

    Returns
    -------
    list of pathlib.Path
        The files, in slice order.

    Raises
    ------
    InputError
        For an image that cannot be expressed as a DICOM series (see ``volume_from_nifti``).
    """
    volume = volume_from_nifti(path)
    whole = np.array_equal(volume.array, np.rint(volume.array)) and volume.array.min() >= 0
    sequence = _SEQUENCES[role]
    note = f"converted from NIfTI ({source.name}); sequence parameters are {_TYPICAL}"
    attributes = {
        **sequence,
        "ImageType": ["ORIGINAL" if whole else "DERIVED", "PRIMARY", "OTHER"],
        "SeriesDescription": f"{sequence['ProtocolName']} (converted from NIfTI)",
        "DerivationDescription": f"Converted from NIfTI ({source.name})"[:1024],
        "ImageComments": f"{note[0].upper()}{note[1:]}. {source.citation}".strip(),
        "Manufacturer": "unknown",
        "InstitutionName": "",
    }
    series = SeriesHeader(
        generate_uid(entropy_srcs=["wrapped", study.study_uid, role]),
        number,
        attributes,
        minute=5 * number,
    )
    return [
        save(dataset, folder / f"{role}_{int(dataset.InstanceNumber):04d}.dcm")
        for dataset in classic_series(volume, study, series)
    ]


def wrap_patient(
    time_points: Sequence[TimePoint],
    patient: WrappedPatient,
    folder: Path,
    source: Source = Source(),
) -> list[Path]:
    """Write one DICOM study per time point.

    Parameters
    ----------
    time_points
        One or two, the earlier first.
    patient
        For the headers.
    folder
        Receives ``study1`` and ``study2``.
    source
        What the headers say about the origin.

    Returns
    -------
    list of pathlib.Path
        All files.
    """
    files: list[Path] = []
    for index, point in enumerate(time_points, start=1):
        acquired = _FIRST_DATE + timedelta(days=patient.interval_days * (index - 1))
        age = patient.age_years
        if age is not None:
            age += (patient.interval_days * (index - 1)) // 365
        entropy = ["wrapped", source.name, patient.identifier, str(index)]
        study = StudyHeader(
            replace(
                Person(),
                family_name="Converted",
                given_name=patient.identifier,
                patient_id=patient.identifier,
                sex=patient.sex,
                born=None,
                weight_kg=None,
                height_m=None,
            ),
            acquired,
            generate_uid(entropy_srcs=[*entropy, "study"]),
            generate_uid(entropy_srcs=[*entropy, "frame"]),
            "ISO_IR 192",
            study_description=f"Brain MRI converted from NIfTI ({source.name})"[:64],
            study_id=str(index),
            accession_number="",
            age_years=age,
            extra={
                "PatientIdentityRemoved": "YES",
                "DeidentificationMethod": "Published de-identified; dates are invented",
            },
        )
        for number, role in enumerate((r for r in ROLES if r in point.images), start=1):
            files += wrap_series(
                point.images[role], role, study, number, folder / f"study{index}", source
            )
    return files


def read_demographics(path: Path) -> dict[int, WrappedPatient]:
    """Patients of open_ms_data's table (``patient_info.csv`` or ``demographics.csv``).

    Raises
    ------
    InputError
        When a column or value is missing.
    """
    patients = {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        for row in csv.DictReader(stream):
            try:
                number = int(row["patient_id"])
                age = row.get("age") or row["patient_age_at_first_study"]
                patients[number] = WrappedPatient(
                    f"open_ms_patient{number:02d}",
                    row["sex"],
                    int(age),
                    int(row["days_between_studies"]),
                )
            except (KeyError, ValueError) as error:
                raise InputError(
                    path.name,
                    "The table lacks a column or value (patient_id, sex, "
                    "days_between_studies, age).",
                    "Download the table again.",
                ) from error
    return patients


def _image_argument(text: str) -> tuple[str, Path]:
    match = re.fullmatch(r"(flair|t2|t1)=(.+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like flair=FILE, t2=FILE or t1=FILE")
    return match[1], Path(match[2])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.wrap",
        description="Wrap NIfTI images into DICOM studies with their true geometry.",
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--current", nargs="+", type=_image_argument, required=True, metavar="ROLE=FILE"
    )
    parser.add_argument("--prior", nargs="+", type=_image_argument, metavar="ROLE=FILE")
    parser.add_argument("--interval-days", type=int, default=365)
    parser.add_argument("--sex", choices=("F", "M", "O", ""), default="")
    parser.add_argument("--age", type=int, help="years at the first study")
    parser.add_argument("--identifier", default="converted")
    parser.add_argument("--source", default="NIfTI", help="data set and licence for the headers")
    options = parser.parse_args(arguments)
    points = [TimePoint(dict(options.prior))] if options.prior else []
    points.append(TimePoint(dict(options.current)))
    patient = WrappedPatient(options.identifier, options.sex, options.age, options.interval_days)
    try:
        files = wrap_patient(points, patient, options.out, Source(options.source))
    except InputError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"{len(files)} files: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

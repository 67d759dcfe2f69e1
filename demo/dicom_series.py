"""Volumes as classic MR Image series (PS3.3 A.4), one file per slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from demo.patient import Person
from demo.vendors import Numbering

IMPLEMENTATION_CLASS_UID = UID("1.2.826.0.1.3680043.8.498.47110471104711")


@dataclass(frozen=True)
class StudyHeader:
    """Patient and study attributes that all objects of a study share."""

    person: Person
    acquired: date
    study_uid: str
    frame_of_reference_uid: str
    character_set: str
    study_description: str = "MR Brain MS follow-up"
    study_id: str = "1"
    accession_number: str = "DEMO0001"
    age_years: int | None = None
    """Overrides the age that follows from the date of birth."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, dataset: Dataset) -> None:
        """Write patient and study attributes into a dataset."""
        person = self.person
        dataset.SpecificCharacterSet = self.character_set
        dataset.PatientName = f"{person.family_name}^{person.given_name}"
        dataset.PatientID = person.patient_id
        dataset.PatientBirthDate = person.born.strftime("%Y%m%d") if person.born else ""
        dataset.PatientSex = person.sex
        years = self.age_years if self.age_years is not None else self._age()
        if years is not None:
            dataset.PatientAge = f"{years:03d}Y"
        if person.weight_kg:
            dataset.PatientWeight = person.weight_kg
        if person.height_m:
            dataset.PatientSize = person.height_m
        dataset.StudyInstanceUID = self.study_uid
        dataset.StudyDate = self.acquired.strftime("%Y%m%d")
        dataset.StudyTime = "093000"
        dataset.StudyID = self.study_id
        dataset.AccessionNumber = self.accession_number
        dataset.ReferringPhysicianName = ""
        dataset.StudyDescription = self.study_description
        for keyword, value in self.extra.items():
            setattr(dataset, keyword, value)

    def _age(self) -> int | None:
        born = self.person.born
        if born is None:
            return None
        had_birthday = (self.acquired.month, self.acquired.day) >= (born.month, born.day)
        return self.acquired.year - born.year - (not had_birthday)


@dataclass(frozen=True)
class SeriesHeader:
    """What one series adds."""

    series_uid: str
    number: int
    attributes: Mapping[str, Any]
    """Equipment and sequence attributes by DICOM keyword."""
    three_d: bool = False
    minute: int = 0
    """Minutes after the start of the study."""

    @property
    def time(self) -> str:
        """DICOM TM of the series."""
        total = 9 * 60 + 30 + self.minute
        return f"{total // 60:02d}{total % 60:02d}00"


def encode_pixels(
    values: npt.NDArray[Any], slope: float | None = None
) -> tuple[npt.NDArray[np.uint16], float, float]:
    """Stored values and the rescale that gives the values back.

    Parameters
    ----------
    values
        Array of any shape, finite.
    slope
        A slope to use with intercept 0; None keeps whole numbers in 0–65535 as they are and
        otherwise spreads the range over 16 bits.

    Returns
    -------
    tuple
        uint16 stored values, slope and intercept; slope and intercept fit a DICOM DS.

    Raises
    ------
    ValueError
        For values that are not finite or do not fit the slope.
    """
    if not np.isfinite(values).all():
        raise ValueError("voxel values must be finite")
    low, high = float(values.min()), float(values.max())
    if slope is None:
        if low >= 0.0 and high <= 65535.0 and np.array_equal(values, np.rint(values)):
            return values.astype(np.uint16), 1.0, 0.0
        intercept = _as_ds(low)
        step = (high - intercept) / 65534.0
        slope = _as_ds(step) if step > 0.0 else 1.0
    else:
        intercept, slope = 0.0, _as_ds(slope)
    stored = np.rint((values.astype(np.float64) - intercept) / slope)
    if stored.min() < -0.5 or stored.max() > 65535.0:
        raise ValueError("voxel values do not fit 16 bits with this slope")
    return np.clip(stored, 0, 65535).astype(np.uint16), slope, intercept


def _as_ds(value: float) -> float:
    """The nearest number that fits the 16 characters of a DICOM decimal string."""
    return float(decimal_string(value))


def decimal_string(value: float) -> str:
    """A number as a DICOM DS, with as many digits as its 16 characters hold."""
    for digits in range(14, 5, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{value:.6g}"


def instance_numbers(count: int, numbering: Numbering) -> npt.NDArray[np.int64]:
    """Instance Number of each slice, counted from the feet to the head."""
    order = np.arange(count)
    if numbering == "descending":
        return count - order
    if numbering == "interleaved":
        return np.where(order % 2 == 0, order // 2, (count + 1) // 2 + order // 2) + 1
    return order + 1


def classic_series(
    volume: hd.Volume,
    study: StudyHeader,
    series: SeriesHeader,
    *,
    numbering: Numbering = "ascending",
    transfer_syntax: UID = ExplicitVRLittleEndian,
    slopes: npt.NDArray[np.float64] | None = None,
    first_number: int = 1,
    rescale_always: bool = False,
) -> Iterator[FileDataset]:
    """Datasets of one series, slice by slice in the volume's order.

    Parameters
    ----------
    volume
        Axes slices, rows, columns.
    study, series
        The headers.
    numbering
        Order of the instance numbers.
    transfer_syntax
        Uncompressed explicit little endian, RLE or JPEG-LS lossless.
    slopes
        One rescale slope per slice; None writes the values as they are where that is possible.
    first_number
        Instance number of the first slice.
    rescale_always
        Write the rescale even where it is the identity.

    Yields
    ------
    pydicom.dataset.FileDataset
        Ready to be saved.
    """
    array = np.asarray(volume.array)
    affine = np.asarray(volume.affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    column_cosine = affine[:3, 1] / spacing[1]
    row_cosine = affine[:3, 2] / spacing[2]
    normal = np.cross(row_cosine, column_cosine)
    template = _template(study, series, array.shape)
    template.PixelSpacing = [decimal_string(spacing[1]), decimal_string(spacing[2])]
    template.SpacingBetweenSlices = decimal_string(spacing[0])
    template.SliceThickness = template.SpacingBetweenSlices
    template.ImageOrientationPatient = [decimal_string(v) for v in (*row_cosine, *column_cosine)]
    toward_head = affine[2, 0] + 1e-3 * (affine[1, 0] + affine[0, 0]) > 0.0
    numbers = instance_numbers(len(array), numbering)
    if slopes is None:
        stored, slope, intercept = encode_pixels(array)
    for k in range(len(array)):
        if slopes is not None:
            pixels, slope, intercept = encode_pixels(array[k], float(slopes[k]))
        else:
            pixels = stored[k]
        dataset = Dataset()
        dataset.update(template)
        position = (affine @ np.array([k, 0.0, 0.0, 1.0]))[:3]
        dataset.InstanceNumber = int(
            first_number - 1 + numbers[k if toward_head else len(array) - 1 - k]
        )
        dataset.SOPInstanceUID = generate_uid(
            entropy_srcs=[series.series_uid, str(dataset.InstanceNumber)]
        )
        dataset.ImagePositionPatient = [decimal_string(v) for v in position]
        dataset.SliceLocation = decimal_string(float(position @ normal))
        if rescale_always or slope != 1.0 or intercept != 0.0:
            dataset.RescaleIntercept = decimal_string(intercept)
            dataset.RescaleSlope = decimal_string(slope)
            dataset.RescaleType = "US"
        low, high = np.percentile(pixels, [1.0, 99.8]) * slope + intercept
        dataset.WindowCenter = decimal_string(round((low + high) / 2.0))
        dataset.WindowWidth = decimal_string(max(round(high - low), 1))
        dataset.SmallestImagePixelValue = int(pixels.min())
        dataset.LargestImagePixelValue = int(pixels.max())
        yield _with_pixels(dataset, pixels, transfer_syntax)


def _template(study: StudyHeader, series: SeriesHeader, shape: tuple[int, ...]) -> Dataset:
    """Everything that is equal in all slices."""
    dataset = Dataset()
    study.apply(dataset)
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = series.series_uid
    dataset.SeriesNumber = series.number
    dataset.AcquisitionNumber = 1
    for prefix in ("Series", "Acquisition", "Content"):
        setattr(dataset, f"{prefix}Date", study.acquired.strftime("%Y%m%d"))
        setattr(dataset, f"{prefix}Time", series.time)
    dataset.InstitutionName = "Demo Hospital"
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientPosition = "HFS"
    dataset.FrameOfReferenceUID = study.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.MRAcquisitionType = "3D" if series.three_d else "2D"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.NumberOfAverages = 1
    dataset.ImagedNucleus = "1H"
    dataset.EchoNumbers = 1
    for keyword, value in series.attributes.items():
        setattr(dataset, keyword, value)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = shape[1], shape[2]
    return dataset


def _with_pixels(
    dataset: Dataset, pixels: npt.NDArray[np.uint16], transfer_syntax: UID
) -> FileDataset:
    bits = 12 if pixels.max() < 4096 else 16
    dataset.BitsAllocated = 16
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    finished = as_file(dataset)
    if transfer_syntax != ExplicitVRLittleEndian:
        finished.compress(transfer_syntax, pixels, generate_instance_uid=False)
    return finished


def as_file(dataset: Dataset) -> FileDataset:
    """A dataset with its file meta information, explicit little endian."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "MSLF_DEMO"
    finished = FileDataset("", dataset, preamble=b"\0" * 128, file_meta=meta)
    return finished


def save(dataset: FileDataset, path: Path) -> Path:
    """Write one file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path

"""What else lies in a clinical study: series that must not be chosen, and files that are no MR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset
from pydicom.uid import CTImageStorage, SecondaryCaptureImageStorage, generate_uid

from demo.acquisition import Matrix, Prescription, scan
from demo.dicom_series import SeriesHeader, StudyHeader, as_file, classic_series
from demo.patient import CONTRASTS, ScannedStudy, SyntheticPatient, make_uid
from demo.vendors import Vendor

_CENTRE = (0.0, 14.0, 6.0)
_THICK = Prescription("axial", 192, 160, 24, 1.2, 1.2, 6.0, (-8.0, 1.0, 2.0), _CENTRE)
_DIFFUSION = Prescription("axial", 128, 128, 24, 1.8, 1.8, 6.0, (-8.0, 1.0, 2.0), _CENTRE)
_LOCALIZER = tuple(
    Prescription(plane, 128, 128, 3, 2.0, 2.0, 15.0, (0.0, 0.0, 0.0), _CENTRE)
    for plane in ("sagittal", "coronal", "axial")
)


def distractor_series(
    patient: SyntheticPatient, study: ScannedStudy, header: StudyHeader, vendor: Vendor
) -> Iterator[tuple[SeriesHeader, list[FileDataset]]]:
    """Localizer, contrast-enhanced T1, dual echo, diffusion and ADC series of one study.

    Parameters
    ----------
    patient, study
        Who and when.
    header
        Patient and study attributes.
    vendor
        Whose header style.

    Yields
    ------
    tuple
        The series' header and its files.
    """
    rng = np.random.default_rng([patient.seed, study.index, 99])
    pose = next(iter(study.acquisitions.values())).pose

    def image(role: str, prescription: Prescription, gain: float, noise: float) -> hd.Volume:
        return scan(
            patient.heads[role],
            study.lesions,
            CONTRASTS[role],
            prescription,
            pose,
            noise=noise,
            gain=gain,
            rng=rng,
            frame_of_reference_uid=study.frame_of_reference_uid,
        )

    def series(name: str, number: int, minute: int) -> SeriesHeader:
        return SeriesHeader(
            make_uid(patient.seed, "series", study.index, vendor.name, name),
            number,
            {**vendor.equipment, **vendor.sequences[name]},
            minute=minute,
        )

    localizer = series("localizer", 1, 0)
    files: list[FileDataset] = []
    for prescription in _LOCALIZER:
        view = image("t1", prescription, 1.0, 20.0)
        files += _stack(view, header, localizer, vendor, first=len(files) + 1)
    yield localizer, files

    dual = series("dual_echo", 6, 22)
    density = image("t2", _THICK, 0.9, 15.0)
    late = image("t2", _THICK, 1.0, 15.0)
    proton = density.with_array((400 + density.array // 4).astype(np.uint16))
    second = replace(dual, attributes={**dual.attributes, "EchoTime": 98, "EchoNumbers": 2})
    yield (
        dual,
        [
            *_stack(proton, header, dual, vendor),
            *_stack(late, header, second, vendor, first=_THICK.slices + 1),
        ],
    )

    diffusion = series("diffusion", 7, 26)
    files = []
    for b_value, gain in ((0.0, 1.0), (1000.0, 0.3)):
        weighted = replace(
            diffusion, attributes={**diffusion.attributes, "DiffusionBValue": b_value}
        )
        view = image("t2", _DIFFUSION, gain, 25.0)
        files += _stack(view, header, weighted, vendor, first=len(files) + 1)
    yield diffusion, files

    adc = series("adc", 8, 27)
    coefficients = image("t2", _DIFFUSION, 1.6, 30.0)
    yield adc, _stack(coefficients, header, adc, vendor)

    enhanced = series("t1_contrast", 9, 35)
    yield enhanced, _stack(image("t1", _THICK, 1.1, 15.0), header, enhanced, vendor)


def _stack(
    volume: hd.Volume, header: StudyHeader, series: SeriesHeader, vendor: Vendor, first: int = 1
) -> list[FileDataset]:
    return list(
        classic_series(volume, header, series, numbering=vendor.numbering, first_number=first)
    )


def screenshot(header: StudyHeader, vendor: Vendor) -> FileDataset:
    """A Secondary Capture, as consoles store them beside the images."""
    dataset = Dataset()
    header.apply(dataset)
    series_uid = generate_uid(entropy_srcs=[header.study_uid, "screenshot"])
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, "1"])
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = 99
    dataset.SeriesDescription = "Protocol"
    dataset.BodyPartExamined = "BRAIN"
    dataset.Manufacturer = vendor.equipment["Manufacturer"]
    dataset.InstanceNumber = 1
    dataset.PatientOrientation = ""
    y, x = np.mgrid[:64, :96]
    _grey_pixels(dataset, ((x + y) % 256).astype(np.uint8))
    return as_file(dataset)


def old_ct(header: StudyHeader, frame_of_reference_uid: str, affine: Matrix) -> FileDataset:
    """A single CT slice of the same patient in a study of its own."""
    dataset = Dataset()
    header.apply(dataset)
    series_uid = generate_uid(entropy_srcs=[header.study_uid, "ct"])
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, "1"])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = series_uid
    dataset.SeriesNumber = 2
    dataset.SeriesDescription = "Head 5.0"
    dataset.BodyPartExamined = "HEAD"
    dataset.PatientPosition = "HFS"
    dataset.Manufacturer = "Demo CT"
    dataset.FrameOfReferenceUID = frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = 1
    dataset.KVP = 120
    dataset.RescaleIntercept = -1024
    dataset.RescaleSlope = 1
    dataset.RescaleType = "HU"
    dataset.PixelSpacing = [3.0, 3.0]
    dataset.SliceThickness = 5.0
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [round(float(v), 3) for v in affine[:3, 3]]
    y, x = np.mgrid[-1:1:80j, -1:1:80j]
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1.0
    _grey_pixels(dataset, np.where(inside, 1060, 24).astype(np.uint16))
    return as_file(dataset)


def _grey_pixels(dataset: Dataset, pixels: np.ndarray) -> None:
    bits = pixels.dtype.itemsize * 8
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def write_stray_files(folder: Path) -> list[Path]:
    """Files that are not DICOM: a note, a spreadsheet and a DICOMDIR that is none."""
    contents = {
        "README.txt": "Exported from the demo archive.\n",
        "worklist.csv": "room;time\nMR1;09:30\n",
        "DICOMDIR": "This file only pretends to be a DICOMDIR.\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in contents.items():
        path = folder / name
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths

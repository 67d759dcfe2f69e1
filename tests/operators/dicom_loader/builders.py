"""Synthetic MR datasets whose geometry is known: classic series and Enhanced MR images.

Every default is anisotropic, oblique and non-cubic, so that a swapped axis or spacing shows. The
geometry is computed here from the definition in DICOM PS3.3 C.7.6.2.1.1, not with the library
under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat

MR = UID("1.2.840.10008.5.1.4.1.1.4")
ENHANCED_MR = UID("1.2.840.10008.5.1.4.1.1.4.1")
LEGACY_CONVERTED_MR = UID("1.2.840.10008.5.1.4.1.1.4.4")

VENDORS: dict[str, dict[str, Any]] = {
    "siemens": {
        "Manufacturer": "Siemens Healthineers",
        "ManufacturerModelName": "MAGNETOM Vida",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "NORM"],
        "SequenceName": "*tir2d1_16",
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK", "SP", "MP"],
    },
    "ge": {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "ManufacturerModelName": "SIGNA Premier",
        "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"],
        "ScanningSequence": ["SE", "IR"],
        "SequenceVariant": ["SK"],
    },
    "philips": {
        "Manufacturer": "Philips Medical Systems",
        "ManufacturerModelName": "Ingenia",
        "ImageType": ["ORIGINAL", "PRIMARY", "M_IR", "M", "IR"],
        "ScanningSequence": "IR",
        "SequenceVariant": "SK",
        "TemporalPositionIdentifier": 1,
        "NumberOfTemporalPositions": 1,
    },
}
"""Header attributes in which the vendors' classic images differ."""

ORIENTATIONS: dict[str, tuple[float, ...]] = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
}
"""Unrotated ImageOrientationPatient by plane."""


def rotation(degrees: Sequence[float]) -> np.ndarray:
    """The 3×3 rotation about x, then y, then z by angles in degrees."""
    x, y, z = np.deg2rad(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a synthetic series are.

    Attributes
    ----------
    plane
        "axial", "sagittal" or "coronal": the plane before the rotation.
    shape
        Slices, rows, columns.
    spacing_mm
        Between slices, between rows, between columns.
    tilt_deg
        Rotation about the patient's x, y and z axis; oblique by default.
    position_mm
        Centre of the first voxel of the first slice, LPS.
    shear_mm
        Shift along the rows from one slice to the next, as a tilted gantry makes.
    """

    plane: str = "axial"
    shape: tuple[int, int, int] = (7, 12, 10)
    spacing_mm: tuple[float, float, float] = (3.3, 0.9, 0.7)
    tilt_deg: tuple[float, float, float] = (11.0, -5.0, 3.0)
    position_mm: tuple[float, float, float] = (-40.5, -61.2, -33.7)
    shear_mm: float = 0.0

    @property
    def along_row(self) -> np.ndarray:
        """Unit vector of increasing column index."""
        return rotation(self.tilt_deg) @ np.array(ORIENTATIONS[self.plane][:3], dtype=float)

    @property
    def along_column(self) -> np.ndarray:
        """Unit vector of increasing row index."""
        return rotation(self.tilt_deg) @ np.array(ORIENTATIONS[self.plane][3:], dtype=float)

    @property
    def normal(self) -> np.ndarray:
        """Unit vector in which the slices follow each other: row direction × column direction."""
        return np.cross(self.along_row, self.along_column)

    def position(self, slice_index: float) -> np.ndarray:
        """ImagePositionPatient of a slice."""
        step = self.spacing_mm[0] * self.normal + self.shear_mm * self.along_row
        return np.array(self.position_mm) + slice_index * step

    def point(self, slice_index: float, row: float, column: float) -> np.ndarray:
        """The LPS point (mm) of a voxel given by slice, row and column."""
        return (
            self.position(slice_index)
            + row * self.spacing_mm[1] * self.along_column
            + column * self.spacing_mm[2] * self.along_row
        )

    def pixels(self, seed: int = 1) -> np.ndarray:
        """uint16 (slices, rows, columns): reproducible noise on a ramp, no symmetry."""
        noise = np.random.default_rng(seed).integers(1, 200, self.shape)
        ramp = np.arange(np.prod(self.shape)).reshape(self.shape) % 1000
        return (noise + ramp).astype(np.uint16)


def _ds(values: Any) -> Any:
    if np.ndim(values) == 0:
        return DSfloat(float(values), auto_format=True)
    return [DSfloat(float(v), auto_format=True) for v in values]


def _assign(dataset: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def _file(sop_class: UID, instance_uid: str) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance_uid
    return dataset


def _general(dataset: Dataset, uids: dict[str, str], grid: Grid) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.Modality = "MR"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20240312"
    dataset.AcquisitionDate = "20240312"
    dataset.StudyTime = "101500"
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "102030.5"
    dataset.AccessionNumber = "A1"
    dataset.ReferringPhysicianName = ""
    dataset.PatientName = "Sørensen^Åse"
    dataset.PatientID = "P-0815"
    dataset.PatientBirthDate = "19800101"
    dataset.PatientSex = "F"
    dataset.PatientAge = "044Y"
    dataset.PatientWeight = "70"
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientPosition = "HFS"
    dataset.MagneticFieldStrength = "3"
    dataset.MRAcquisitionType = "2D"
    dataset.DeviceSerialNumber = "4711"
    dataset.SoftwareVersions = "1"
    dataset.StudyInstanceUID = uids["study"]
    dataset.SeriesInstanceUID = uids["series"]
    dataset.FrameOfReferenceUID = uids["frame"]
    dataset.StudyID = "1"
    dataset.SeriesNumber = 4
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesDescription = "t2_flair_tra"
    dataset.ProtocolName = "t2_flair_tra"
    dataset.Rows, dataset.Columns = grid.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0


def make_classic_series(
    grid: Grid | None = None,
    *,
    pixels: np.ndarray | None = None,
    vendor: str = "siemens",
    slope: float | Sequence[float] | None = None,
    intercept: float | Sequence[float] = 0.0,
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    first_instance_number: int = 1,
    **attributes: Any,
) -> list[Dataset]:
    """One classic MR series, a dataset per slice, in the order of ``grid``'s slices.

    Parameters
    ----------
    grid
        Geometry; oblique and anisotropic by default.
    pixels
        Stored values, uint16 or int16 (slices, rows, columns); ``grid.pixels()`` by default.
    vendor
        "siemens", "ge" or "philips".
    slope, intercept
        RescaleSlope and RescaleIntercept, one or one for each slice; absent when ``slope`` is None.
    study_uid, series_uid, frame_of_reference_uid
        Made up when None.
    first_instance_number
        InstanceNumber of the first slice.
    attributes
        Any DICOM keyword, set on every slice; None removes the attribute.

    Returns
    -------
    list of Dataset
        With file meta information, ready for :func:`write_files`.
    """
    grid = grid or Grid()
    pixels = grid.pixels() if pixels is None else pixels
    uids = {
        "study": study_uid or generate_uid(),
        "series": series_uid or generate_uid(),
        "frame": frame_of_reference_uid or generate_uid(),
    }
    slopes = None if slope is None else np.broadcast_to(slope, grid.shape[0])
    intercepts = np.broadcast_to(intercept, grid.shape[0])
    datasets = []
    for index in range(grid.shape[0]):
        dataset = _file(MR, generate_uid())
        _general(dataset, uids, grid)
        dataset.ImagePositionPatient = _ds(grid.position(index))
        dataset.ImageOrientationPatient = _ds([*grid.along_row, *grid.along_column])
        dataset.PixelSpacing = _ds(grid.spacing_mm[1:])
        dataset.SliceThickness = _ds(grid.spacing_mm[0] * 0.9)
        dataset.SpacingBetweenSlices = _ds(grid.spacing_mm[0])
        dataset.InstanceNumber = first_instance_number + index
        dataset.AcquisitionNumber = 1
        dataset.EchoTime = "96"
        dataset.EchoNumbers = 1
        dataset.RepetitionTime = "9000"
        dataset.InversionTime = "2500"
        dataset.FlipAngle = "150"
        dataset.EchoTrainLength = 16
        dataset.ScanOptions = ""
        if slopes is not None:
            dataset.RescaleSlope = _ds(slopes[index])
            dataset.RescaleIntercept = _ds(intercepts[index])
            dataset.RescaleType = "US"
        dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
        dataset.PixelData = np.ascontiguousarray(pixels[index]).tobytes()
        dataset["PixelData"].VR = "OW"
        _assign(dataset, VENDORS[vendor])
        _assign(dataset, attributes)
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        datasets.append(dataset)
    return datasets


@dataclass(frozen=True)
class FrameSpec:
    """One frame of an Enhanced MR image: a slice of the grid with what may differ by frame."""

    slice_index: int
    echo_time_ms: float = 96.0
    temporal_index: int = 1
    b_value: float | None = None
    stack_id: str = "1"
    component: str = "MAGNITUDE"
    frame_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "T2", "NONE")
    slope: float = 1.0
    intercept: float = 0.0


def _item(**attributes: Any) -> Dataset:
    item = Dataset()
    _assign(item, attributes)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def make_enhanced(
    grid: Grid | None = None,
    *,
    frames: Sequence[FrameSpec] | None = None,
    pixels: np.ndarray | None = None,
    legacy: bool = False,
    study_uid: str | None = None,
    series_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    contrast_agent: str | None = None,
    **attributes: Any,
) -> Dataset:
    """One Enhanced MR image (or a legacy converted one) with functional groups for each frame.

    Parameters
    ----------
    grid
        Geometry of the slices that the frames show.
    frames
        The frames in file order; by default one for each slice, in the grid's order. Any order
        and any repetition is allowed, so shuffled, multi-echo and 4D images can be made.
    pixels
        Stored values, uint16 (frames, rows, columns) in file order; by default the grid's pixels
        of each frame's slice.
    legacy
        Legacy Converted Enhanced MR: the sequence parameters stand in the unassigned converted
        attributes, as PS3.3 C.7.6.16.2.25 has it.
    study_uid, series_uid, frame_of_reference_uid
        Made up when None.
    contrast_agent
        Meaning of the one item of ContrastBolusAgentSequence; absent when None.
    attributes
        Any DICOM keyword of the top level; None removes the attribute.
    """
    grid = grid or Grid()
    frames = frames or [FrameSpec(index) for index in range(grid.shape[0])]
    if pixels is None:
        volume = grid.pixels()
        pixels = np.stack([volume[frame.slice_index] for frame in frames])
    uids = {
        "study": study_uid or generate_uid(),
        "series": series_uid or generate_uid(),
        "frame": frame_of_reference_uid or generate_uid(),
    }
    dataset = _file(LEGACY_CONVERTED_MR if legacy else ENHANCED_MR, generate_uid())
    _general(dataset, uids, grid)
    del dataset.AcquisitionDate, dataset.AcquisitionTime
    dataset.AcquisitionDateTime = "20240312102030.5"
    dataset.AcquisitionNumber = 1
    dataset.InstanceNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "T2", "NONE"]
    dataset.Manufacturer = "Siemens Healthineers"
    dataset.ManufacturerModelName = "MAGNETOM Vida"
    dataset.ContentQualification = "PRODUCT"
    dataset.NumberOfFrames = len(frames)
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "T2"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    if not legacy:
        dataset.PulseSequenceName = "tir2d1_16"
        dataset.EchoPulseSequence = "SPIN"
        dataset.EchoPlanarPulseSequence = "NO"
        dataset.SteadyStatePulseSequence = "NONE"
    if contrast_agent is not None:
        dataset.ContrastBolusAgentSequence = [_code("C-B0323", "SRT", contrast_agent)]
    shared = Dataset()
    shared.PlaneOrientationSequence = [
        _item(ImageOrientationPatient=_ds([*grid.along_row, *grid.along_column]))
    ]
    shared.PixelMeasuresSequence = [
        _item(
            PixelSpacing=_ds(grid.spacing_mm[1:]),
            SliceThickness=_ds(grid.spacing_mm[0] * 0.9),
            SpacingBetweenSlices=_ds(grid.spacing_mm[0]),
        )
    ]
    if legacy:
        shared.UnassignedSharedConvertedAttributesSequence = [
            _item(
                RepetitionTime="9000",
                InversionTime="2500",
                FlipAngle="150",
                EchoTrainLength=16,
                ScanningSequence=["SE", "IR"],
                SequenceVariant=["SK", "SP", "MP"],
                SequenceName="*tir2d1_16",
            )
        ]
    else:
        shared.MRTimingAndRelatedParametersSequence = [
            _item(
                RepetitionTime="9000",
                FlipAngle="150",
                EchoTrainLength=16,
                RFEchoTrainLength=16,
                GradientEchoTrainLength=0,
            )
        ]
        shared.MRModifierSequence = [
            _item(InversionRecovery="YES", InversionTimes=[2500.0], Spoiling="NONE")
        ]
    dataset.SharedFunctionalGroupsSequence = [shared]
    organization = generate_uid()
    dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=organization)]
    dataset.DimensionIndexSequence = [
        _item(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=pointer,
            FunctionalGroupPointer=0x00209111,
            DimensionDescriptionLabel=label,
        )
        for pointer, label in (
            (0x00209056, "Stack ID"),
            (0x00209057, "In-Stack Position Number"),
            (0x00209128, "Temporal Position Index"),
        )
    ]
    groups = []
    for frame in frames:
        group = Dataset()
        group.FrameContentSequence = [
            _item(
                FrameAcquisitionNumber=1,
                FrameAcquisitionDateTime="20240312102030.5",
                StackID=frame.stack_id,
                InStackPositionNumber=frame.slice_index + 1,
                TemporalPositionIndex=frame.temporal_index,
                DimensionIndexValues=[1, frame.slice_index + 1, frame.temporal_index],
            )
        ]
        group.PlanePositionSequence = [
            _item(ImagePositionPatient=_ds(grid.position(frame.slice_index)))
        ]
        group.PixelValueTransformationSequence = [
            _item(
                RescaleSlope=_ds(frame.slope),
                RescaleIntercept=_ds(frame.intercept),
                RescaleType="US",
            )
        ]
        group.MRImageFrameTypeSequence = [
            _item(
                FrameType=list(frame.frame_type),
                PixelPresentation="MONOCHROME",
                VolumetricProperties="VOLUME",
                VolumeBasedCalculationTechnique="NONE",
                ComplexImageComponent=frame.component,
                AcquisitionContrast="T2",
            )
        ]
        if legacy:
            group.UnassignedPerFrameConvertedAttributesSequence = [
                _item(EchoTime=_ds(frame.echo_time_ms), EchoNumbers=1)
            ]
        else:
            group.MREchoSequence = [_item(EffectiveEchoTime=frame.echo_time_ms)]
            if frame.b_value is not None:
                group.MRDiffusionSequence = [_item(DiffusionBValue=float(frame.b_value))]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.ascontiguousarray(pixels.astype(np.uint16)).tobytes()
    dataset["PixelData"].VR = "OW"
    _assign(dataset, attributes)
    return dataset


def write_files(datasets: Sequence[Dataset], folder: Path, stem: str = "im") -> list[Path]:
    """Write each dataset as ``<stem>_NNNN`` (no extension) below ``folder``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        path = folder / f"{stem}_{number:04d}"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths

"""A small but complete follow-up message: two studies of one patient and their lesions.

The head is an analytic function of patient millimetres, sampled on oblique, anisotropic, non-cubic
grids and written as MR images, so that every header, volume and label belongs together. Lesions are
balls of known radius in the current FLAIR's patient coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    Change,
    EarlierStudy,
    FollowUp,
    InstanceRef,
    Lesion,
    LesionProbabilities,
    LesionProbability,
    ModelIdentity,
    QualityNote,
    Region,
    Registration,
    RejectedSeries,
    SelectedSeries,
    SelectedStudies,
    SelectedStudy,
    Series,
    SeriesAttributes,
    Study,
    TimePoint,
    Totals,
)

CURRENT_DATE = date(2024, 6, 12)
PRIOR_DATE = date(2023, 5, 30)
EARLIER_DATES = (date(2022, 4, 21), date(2020, 11, 3))
"""Of the studies before the prior one, newest first."""
MODEL = ModelIdentity(
    name="example-ensemble",
    version="1.2.0",
    sha256="5b" * 32,
    engine="openvino",
    precision="bf16",
)

Ball = tuple[tuple[float, float, float], float]


@dataclass(frozen=True)
class PlantedLesion:
    """A lesion now and then, as balls: centre in LPS mm from the brain's centre, and radius."""

    change: Change
    region: Region
    now: tuple[Ball, ...]
    before: tuple[Ball, ...] = ()
    confidence: float = 0.9
    lineage: tuple[int, ...] = ()
    """Positions of the lesions that it came from."""


LESIONS: tuple[PlantedLesion, ...] = (
    PlantedLesion("stable", "periventricular", (((14, 8, 10), 6.0),), (((14, 8, 10), 6.0),), 0.96),
    PlantedLesion("enlarging", "periventricular", (((-15, 22, 12), 8.0),), (((-15, 22, 12), 6.0),)),
    PlantedLesion("new", "juxtacortical", (((38, -14, 16), 6.5),), (), 0.71),
    PlantedLesion(
        "shrinking", "deep_white_matter", (((-30, -20, 14), 5.5),), (((-30, -20, 14), 8.5),)
    ),
    PlantedLesion("new", "infratentorial", (((-9, 24, -30), 5.5),), (), 0.62),
    PlantedLesion(
        "merged",
        "deep_white_matter",
        (((26, 34, 12), 7.5), ((35, 30, 12), 5.0)),
        (((23, 36, 12), 5.0), ((37, 29, 12), 4.5)),
        lineage=(3, 7),
    ),
    PlantedLesion(
        "split",
        "unspecified",
        (((-33, 26, -4), 5.0), ((-33, 12, -4), 5.0)),
        (((-33, 19, -4), 9.0),),
        0.55,
        lineage=(0,),
    ),
    PlantedLesion("resolved", "juxtacortical", (), (((0, -52, 18), 6.0),), 0.81),
)
"""Every kind of change a follow-up can have; the last one has gone."""


@dataclass(frozen=True)
class _Grid:
    """Where a series' images lie: spacing between rows, columns and slices, in millimetres."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    spacing: tuple[float, float, float]
    """Between slices, rows, columns."""
    row: tuple[float, float, float]
    """Direction in which the column index grows."""
    column: tuple[float, float, float]
    """Direction in which the row index grows."""


def _rotation(degrees_xyz: Sequence[float]) -> np.ndarray:
    x, y, z = np.deg2rad(degrees_xyz)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    tilt_deg: tuple[float, float, float],
    *,
    sagittal: bool = False,
) -> _Grid:
    rotation = _rotation(tilt_deg)
    row, column = ((0, 1, 0), (0, 0, -1)) if sagittal else ((1, 0, 0), (0, 1, 0))
    return _Grid(shape, spacing, tuple(rotation @ row), tuple(rotation @ column))


FLAIR_GRID = _grid((24, 80, 72), (4.4, 2.1, 1.8), (9.0, -5.0, 4.0))
PRIOR_FLAIR_GRID = _grid((26, 64, 88), (4.0, 2.4, 1.6), (4.0, 3.0, -2.0))
T2_GRID = _grid((20, 72, 72), (5.2, 2.2, 1.9), (9.0, -5.0, 4.0))
T1_GRID = _grid((44, 56, 64), (3.1, 2.2, 2.5), (0.0, 3.0, 2.0), sagittal=True)

CENTRE = np.array([4.0, -12.0, 21.0])
"""Centre of the current brain, LPS millimetres."""
PRIOR_MOTION = np.eye(4)
"""Current FLAIR points to prior FLAIR points."""
PRIOR_MOTION[:3, :3] = _rotation((3.0, -2.0, 4.0))
PRIOR_MOTION[:3, 3] = (3.5, -6.0, 5.0)
SEMI_AXES = np.array([58.0, 72.0, 48.0])


def _inside(points: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return (((points - centre) / axes) ** 2).sum(axis=-1) <= 1.0


def _balls(points: np.ndarray, balls: Sequence[Ball]) -> np.ndarray:
    inside = np.zeros(points.shape[:-1], dtype=bool)
    for centre, radius in balls:
        inside |= _inside(points, CENTRE + np.asarray(centre, dtype=float), np.full(3, radius))
    return inside


def _head(points: np.ndarray, lesions: Sequence[Ball], role: str) -> np.ndarray:
    """Intensities at LPS points (…, 3) of the current patient space."""
    scalp, bone, brain, fluid, lesion = {
        "flair": (300, 40, 420, 90, 830),
        "t2": (350, 40, 400, 900, 760),
        "t1": (800, 60, 600, 150, 380),
    }[role]
    image = np.full(points.shape[:-1], 8.0)
    image[_inside(points, CENTRE, SEMI_AXES + 14.0)] = scalp
    image[_inside(points, CENTRE, SEMI_AXES + 7.0)] = bone
    image[_inside(points, CENTRE, SEMI_AXES)] = brain
    for side in (-1.0, 1.0):
        ventricle = CENTRE + np.array([side * 8.0, 4.0, 8.0])
        image[_inside(points, ventricle, np.array([5.0, 24.0, 9.0]))] = fluid
    image[_balls(points, lesions)] = lesion
    return image


def _affine(grid: _Grid, centre: np.ndarray) -> np.ndarray:
    """Indices (slice, row, column) to LPS millimetres, with the grid's middle at ``centre``."""
    row, column = np.asarray(grid.row), np.asarray(grid.column)
    affine = np.eye(4)
    affine[:3, 0] = np.cross(row, column) * grid.spacing[0]
    affine[:3, 1] = column * grid.spacing[1]
    affine[:3, 2] = row * grid.spacing[2]
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(grid.shape) - 1) / 2.0)
    return affine


def _points(affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    indices = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


def _uid(*words: object) -> str:
    return str(generate_uid(entropy_srcs=[str(word) for word in words]))


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _patient_and_study(when: str, day: date) -> Dataset:
    """The patient and study attributes of one time point, as a Danish hospital sends them."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Sørensen^Åse"
    dataset.PatientID = "EXAMPLE-0107"
    dataset.IssuerOfPatientID = "REGION ØST"
    dataset.PatientBirthDate = "19810314"
    dataset.PatientSex = "F"
    dataset.PatientAge = "043Y" if when == "current" else "042Y"
    dataset.PatientSize = "1.68"
    dataset.PatientWeight = "66" if when == "current" else "64"
    dataset.StudyInstanceUID = _uid("study", when)
    dataset.StudyDate = day.strftime("%Y%m%d")
    dataset.StudyTime = "101500"
    dataset.StudyID = "MR4711" if when == "current" else "MR3604"
    dataset.AccessionNumber = "A24-0612" if when == "current" else "A23-0530"
    dataset.ReferringPhysicianName = "Ærø^Søren"
    dataset.StudyDescription = "MR cerebrum, MS-kontrol"
    dataset.ProcedureCodeSequence = DicomSequence([_code("24590-2", "LN", "Brain MRI")])
    return dataset


_SEQUENCES: Mapping[str, dict[str, object]] = {
    "flair": {
        "SeriesNumber": 4,
        "SeriesDescription": "t2_tirm_tra_dark-fluid",
        "ScanningSequence": ["SE", "IR"],
        "EchoTime": "92",
        "RepetitionTime": "9000",
        "InversionTime": "2500",
        "MRAcquisitionType": "2D",
    },
    "t2": {
        "SeriesNumber": 5,
        "SeriesDescription": "t2_tse_tra",
        "ScanningSequence": "SE",
        "EchoTime": "96",
        "RepetitionTime": "5200",
        "InversionTime": None,
        "MRAcquisitionType": "2D",
    },
    "t1": {
        "SeriesNumber": 3,
        "SeriesDescription": "t1_mprage_sag",
        "ScanningSequence": ["GR", "IR"],
        "EchoTime": "2.9",
        "RepetitionTime": "2300",
        "InversionTime": "900",
        "MRAcquisitionType": "3D",
    },
}


def _write(dataset: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    path.parent.mkdir(parents=True, exist_ok=True)
    FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128).save_as(
        path, enforce_file_format=True
    )
    return path


def _common_image(when: str, role: str, day: date, frame_of_reference: str) -> Dataset:
    facts = _SEQUENCES[role]
    dataset = _patient_and_study(when, day)
    dataset.Modality = "MR"
    dataset.SeriesInstanceUID = _uid("series", when, role)
    dataset.SeriesNumber = facts["SeriesNumber"]
    dataset.SeriesDescription = facts["SeriesDescription"]
    dataset.ProtocolName = facts["SeriesDescription"]
    dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = day.strftime("%Y%m%d")
    dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "102030"
    dataset.FrameOfReferenceUID = frame_of_reference
    dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer = "SIEMENS"
    dataset.ManufacturerModelName = "Skyra"
    dataset.DeviceSerialNumber = "45123"
    dataset.SoftwareVersions = "syngo MR E11"
    dataset.InstitutionName = "Sygehus Østby"
    dataset.BodyPartExamined = "BRAIN"
    dataset.PatientPosition = "HFS"
    dataset.MagneticFieldStrength = "3"
    return dataset


def _pixels(dataset: Dataset, frames: np.ndarray) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = frames.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "450", "900"
    dataset.PixelData = np.ascontiguousarray(frames).astype("<u2").tobytes()


def _decimal(values: Sequence[float]) -> list[str]:
    return [f"{value:.10f}"[:16] for value in values]


def _classic(
    folder: Path, when: str, role: str, day: date, for_uid: str, grid: _Grid, array, affine
) -> list[Path]:
    paths = []
    for index in range(grid.shape[0]):
        dataset = _common_image(when, role, day, for_uid)
        facts = _SEQUENCES[role]
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = _uid("instance", when, role, index)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        dataset.InstanceNumber = index + 1
        dataset.AcquisitionNumber = 1
        for name in ("ScanningSequence", "EchoTime", "RepetitionTime", "MRAcquisitionType"):
            setattr(dataset, name, facts[name])
        if facts["InversionTime"] is not None:
            dataset.InversionTime = facts["InversionTime"]
        dataset.SequenceVariant = "SK"
        dataset.ScanOptions = ""
        dataset.EchoTrainLength = "16"
        dataset.FlipAngle = "150"
        dataset.SliceThickness = f"{grid.spacing[0]:g}"
        dataset.SpacingBetweenSlices = f"{grid.spacing[0]:g}"
        dataset.PixelSpacing = [f"{grid.spacing[1]:g}", f"{grid.spacing[2]:g}"]
        dataset.ImageOrientationPatient = _decimal([*grid.row, *grid.column])
        dataset.ImagePositionPatient = _decimal(affine[:3, 3] + index * affine[:3, 0])
        _pixels(dataset, array[index])
        paths.append(_write(dataset, folder / when / role / f"{index + 1:03d}.dcm"))
    return paths


def _enhanced(
    folder: Path, when: str, role: str, day: date, for_uid: str, grid: _Grid, array, affine
) -> list[Path]:
    """An Enhanced MR image with two stacks of frames: this sequence, and another contrast of the
    same slices that must be left alone. Frames alternate between the two."""
    facts = _SEQUENCES[role]
    stamp = f"{day:%Y%m%d}102030"
    dataset = _common_image(when, role, day, for_uid)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SOPInstanceUID = _uid("instance", when, role, "enhanced")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "NONE"]
    dataset.InstanceNumber = 1
    dataset.AcquisitionDateTime = stamp
    dataset.AcquisitionDuration = 240.0
    dataset.NumberOfFrames = 2 * grid.shape[0]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "FLUID_ATTENUATED"
    dataset.ResonantNucleus = "1H"
    dataset.KSpaceFiltering = "NONE"
    dataset.ApplicableSafetyStandardAgency = "IEC"
    dataset.ContentQualification = "RESEARCH"
    dataset.AcquisitionContextSequence = DicomSequence([])
    dimension_uid = _uid("dimension", when, role)
    organization = Dataset()
    organization.DimensionOrganizationUID = dimension_uid
    dataset.DimensionOrganizationSequence = DicomSequence([organization])
    pointers = []
    for pointer, group in ((0x00209056, 0x00209111), (0x00209057, 0x00209111)):
        index_item = Dataset()
        index_item.DimensionIndexPointer = pointer
        index_item.FunctionalGroupPointer = group
        index_item.DimensionOrganizationUID = dimension_uid
        pointers.append(index_item)
    dataset.DimensionIndexSequence = DicomSequence(pointers)

    shared = Dataset()
    measures = Dataset()
    measures.SliceThickness = f"{grid.spacing[0]:g}"
    measures.SpacingBetweenSlices = f"{grid.spacing[0]:g}"
    measures.PixelSpacing = [f"{grid.spacing[1]:g}", f"{grid.spacing[2]:g}"]
    shared.PixelMeasuresSequence = DicomSequence([measures])
    orientation = Dataset()
    orientation.ImageOrientationPatient = _decimal([*grid.row, *grid.column])
    shared.PlaneOrientationSequence = DicomSequence([orientation])
    timing = Dataset()
    timing.RepetitionTime = facts["RepetitionTime"]
    timing.FlipAngle = "150"
    timing.EchoTrainLength = 16
    timing.RFEchoTrainLength = 16
    timing.GradientEchoTrainLength = 0
    shared.MRTimingAndRelatedParametersSequence = DicomSequence([timing])
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = DicomSequence([_code("12738006", "SCT", "Brain")])
    anatomy.FrameLaterality = "U"
    shared.FrameAnatomySequence = DicomSequence([anatomy])
    dataset.SharedFunctionalGroupsSequence = DicomSequence([shared])

    frames, groups = [], []
    for index in range(grid.shape[0]):
        for stack in (1, 2):
            frame = Dataset()
            content = Dataset()
            content.StackID = str(stack)
            content.InStackPositionNumber = index + 1
            content.DimensionIndexValues = [stack, index + 1]
            content.FrameAcquisitionDateTime = content.FrameReferenceDateTime = stamp
            content.FrameAcquisitionDuration = 240.0
            frame.FrameContentSequence = DicomSequence([content])
            position = Dataset()
            position.ImagePositionPatient = _decimal(affine[:3, 3] + index * affine[:3, 0])
            frame.PlanePositionSequence = DicomSequence([position])
            echo = Dataset()
            echo.EffectiveEchoTime = float(str(facts["EchoTime"])) if stack == 1 else 12.0
            frame.MREchoSequence = DicomSequence([echo])
            groups.append(frame)
            frames.append(array[index] if stack == 1 else 1000 - array[index])
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    _pixels(dataset, np.stack(frames))
    del dataset.WindowCenter, dataset.WindowWidth
    return [_write(dataset, folder / when / role / "enhanced.dcm")]


def _selected_series(
    folder: Path,
    when: str,
    role: str,
    day: date,
    for_uid: str,
    grid: _Grid,
    lesions: Sequence[Ball],
    enhanced: bool,
) -> SelectedSeries:
    motion = np.eye(4) if when == "current" else PRIOR_MOTION
    affine = _affine(grid, motion[:3, :3] @ CENTRE + motion[:3, 3])
    back = np.linalg.inv(motion)
    points = _points(affine, grid.shape) @ back[:3, :3].T + back[:3, 3]
    noise = np.random.default_rng(sum(map(ord, when + role))).normal(0, 12, grid.shape)
    array = np.clip(_head(points, lesions, role) + noise, 0, 4095).round()
    write = _enhanced if enhanced else _classic
    paths = write(folder, when, role, day, for_uid, grid, array, affine)
    # highdicom's volumes are right-handed: their slices run against the plane's normal.
    paths = paths[::-1]
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    volume = hd.Volume(
        array.astype(np.float32),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=for_uid,
    ).flip_spatial(0)
    frame_numbers = tuple(range(2 * grid.shape[0] - 1, 0, -2)) if enhanced else None
    facts = _SEQUENCES[role]
    inversion = facts["InversionTime"]
    series = Series(
        series_uid=headers[0].SeriesInstanceUID,
        stack="stack 1" if enhanced else "",
        study_uid=headers[0].StudyInstanceUID,
        frame_of_reference_uid=for_uid,
        attributes=SeriesAttributes(
            modality="MR",
            manufacturer="SIEMENS",
            manufacturer_model_name="Skyra",
            magnetic_field_strength_t=3.0,
            image_type=tuple(headers[0].ImageType),
            series_number=int(headers[0].SeriesNumber),
            series_description=headers[0].SeriesDescription,
            echo_time_ms=float(str(facts["EchoTime"])),
            repetition_time_ms=float(str(facts["RepetitionTime"])),
            inversion_time_ms=None if inversion is None else float(str(inversion)),
            enhanced=enhanced,
            rows=grid.shape[1],
            columns=grid.shape[2],
            slice_count=grid.shape[0],
            spacing_mm=(grid.spacing[1], grid.spacing[2], grid.spacing[0]),
            orientation="sagittal" if role == "t1" else "axial",
            coverage_mm=grid.shape[0] * grid.spacing[0],
        ),
        instances=tuple(
            InstanceRef(path, header.SOPInstanceUID, header.SOPClassUID)
            for path, header in zip(paths, headers, strict=True)
        ),
        frame_numbers=frame_numbers,
    )
    reason = {
        "flair": "long TR, TE and TI",
        "t2": "long TR and TE, no inversion",
        "t1": "3D gradient echo with inversion",
    }[role]
    return SelectedSeries(role, reason, series, volume, tuple(headers))


def _selected_study(
    folder: Path, when: str, day: date, lesions: Sequence[Ball], enhanced: bool
) -> SelectedStudy:
    for_uid = _uid("frame of reference", when)
    grids = {
        "flair": FLAIR_GRID if when == "current" else PRIOR_FLAIR_GRID,
        "t2": T2_GRID,
        "t1": T1_GRID,
    }
    series = {
        role: _selected_series(folder, when, role, day, for_uid, grid, lesions, enhanced)
        for role, grid in grids.items()
    }
    scout = Series(
        series_uid=_uid("series", when, "localizer"),
        stack="",
        study_uid=_uid("study", when),
        frame_of_reference_uid=for_uid,
        attributes=SeriesAttributes(
            modality="MR", series_number=1, series_description="localizer", slice_count=3
        ),
        instances=(),
        frame_numbers=None,
    )
    return SelectedStudy(
        study=Study(
            study_uid=_uid("study", when),
            patient_key="0f" * 16,
            acquired=day,
            acquired_time="101500",
            series=(*(item.series for item in series.values()), scout),
        ),
        series=series,
        rejected=(RejectedSeries(scout, "flair", "localizer: 3 slices"),),
        interval_days=(CURRENT_DATE - day).days,
    )


def _aligned(selected: SelectedStudy, when: str) -> AlignedStudy:
    flair = selected.series["flair"].volume
    motion = np.eye(4) if when == "current" else PRIOR_MOTION
    points = _points(flair.affine, flair.spatial_shape)
    back = np.linalg.inv(motion)
    brain = _inside(points @ back[:3, :3].T + back[:3, 3], CENTRE, SEMI_AXES)
    template = np.eye(4)
    template[:3, 3] = -CENTRE
    return AlignedStudy(
        selected=selected,
        to_flair={
            role: Registration(np.eye(4), 0.3, 0.1, 1.3, True)
            for role in selected.series
            if role != "flair"
        },
        brain_mask=flair.with_array(brain),
        template_to_flair=template @ back,
    )


def _probability(flair: hd.Volume, mask: np.ndarray) -> LesionProbability:
    values = np.where(mask, 0.9, 0.02).astype(np.float32)
    return LesionProbability(flair.with_array(values), 0.5, MODEL)


def _diameter(points: np.ndarray) -> float:
    """Largest distance between two of the points (n, 3), in millimetres."""
    if len(points) < 2:
        return 0.0
    return float(np.linalg.norm(points[:, None] - points[None], axis=-1).max())


def _interval(volume_ml: float) -> tuple[float, float]:
    """A made-up 95 % interval around a volume."""
    return (0.88 * volume_ml, 1.13 * volume_ml)


def make_follow_up(
    tmp_path: Path,
    *,
    prior: bool = True,
    lesions: Sequence[PlantedLesion] = LESIONS,
    enhanced: bool = False,
    empty: bool = False,
    earlier: int = 0,
) -> FollowUp:
    """A complete result whose source images lie, with pixels, under ``tmp_path/"source"``.

    Parameters
    ----------
    tmp_path
        A folder for the source images.
    prior
        With an earlier study; without one every lesion that is present is "baseline".
    lesions
        What to plant; those that are gone are put last.
    enhanced
        Enhanced MR with two stacks of which the first is selected, instead of classic MR.
    empty
        No lesion at all, now or before.
    earlier
        How many studies there are before the prior one, at most two; their lesions are those of
        the prior study, a tenth smaller from study to study.
    """
    planted = [] if empty else sorted(lesions, key=lambda lesion: not lesion.now)
    if not prior:
        planted = [lesion for lesion in planted if lesion.now]
    folder = tmp_path / "source"
    now_balls = [ball for lesion in planted for ball in lesion.now]
    then_balls = [ball for lesion in planted for ball in lesion.before]
    current = _selected_study(folder, "current", CURRENT_DATE, now_balls, enhanced)
    before = _selected_study(folder, "prior", PRIOR_DATE, then_balls, enhanced) if prior else None

    further = [
        _selected_study(folder, f"earlier{number}", day, then_balls, enhanced)
        for number, day in enumerate(EARLIER_DATES[:earlier], start=1)
    ]
    flair = current.series["flair"].volume
    points = _points(flair.affine, flair.spatial_shape)
    voxel_ml = float(np.prod(flair.spacing)) / 1000.0
    labels = np.zeros(flair.spatial_shape, dtype=np.uint16)
    prior_labels = np.zeros(flair.spatial_shape, dtype=np.uint16)
    found = []
    for index, lesion in enumerate(planted):
        now, then = _balls(points, lesion.now), _balls(points, lesion.before)
        labels[now] = index + 1
        if prior:
            prior_labels[then] = index + 1
        shown = points[now if now.any() else then]
        now_ml, then_ml = float(now.sum()) * voxel_ml, float(then.sum()) * voxel_ml
        volumes = [then_ml * 0.9**step for step in range(earlier, 0, -1)]
        volumes += [then_ml, now_ml] if prior else [now_ml]
        found.append(
            Lesion(
                tracking_uid=_uid("lesion", index),
                tracking_id=f"MS lesion {index + 1}",
                segment_number=index + 1 if now.any() else None,
                volume_ml=now_ml,
                prior_volume_ml=then_ml if prior else None,
                diameter_mm=_diameter(shown),
                centroid_lps_mm=tuple(float(value) for value in shown.mean(axis=0)),
                region=lesion.region,
                change=lesion.change if prior else "baseline",
                confidence=lesion.confidence,
                change_confidence=round(0.97 - 0.03 * index, 2) if prior else None,
                volume_interval_ml=_interval(now_ml),
                prior_volume_interval_ml=_interval(then_ml) if prior else None,
                change_since_first=lesion.change if earlier else None,
                lineage=tuple(_uid("lesion", source) for source in lesion.lineage) if prior else (),
                volumes_ml=tuple(volumes),
                distance_to_ventricle_mm=3.5 * index,
                distance_to_cortex_mm=None if lesion.region == "unspecified" else 1.5 * index,
            )
        )
    kinds = [lesion.change for lesion in found]
    totals = Totals(
        lesion_count=sum(lesion.segment_number is not None for lesion in found),
        lesion_volume_ml=float(sum(lesion.volume_ml for lesion in found)),
        prior_lesion_volume_ml=(
            float(sum(lesion.prior_volume_ml or 0.0 for lesion in found)) if prior else None
        ),
        new_count=kinds.count("new"),
        enlarging_count=kinds.count("enlarging"),
        shrinking_count=kinds.count("shrinking"),
        resolved_count=kinds.count("resolved"),
        lesion_volume_interval_ml=_interval(sum(lesion.volume_ml for lesion in found)),
        prior_lesion_volume_interval_ml=(
            _interval(sum(lesion.prior_volume_ml or 0.0 for lesion in found)) if prior else None
        ),
    )
    studies = [*reversed(further), *([] if before is None else [before]), current]
    time_points = []
    for position, study in enumerate(studies):
        volumes = [lesion.volumes_ml[position] or 0.0 for lesion in found]
        time_points.append(
            TimePoint(
                study_uid=study.study.study_uid,
                interval_days=study.interval_days,
                lesion_count=sum(volume > 0 for volume in volumes),
                lesion_volume_ml=float(sum(volumes)),
                lesion_volume_interval_ml=_interval(sum(volumes)),
            )
        )
    quality = (
        QualityNote("spacing", "info", "The FLAIR has thick slices (4.4 mm)."),
        QualityNote(
            "protocol_changed", "warning", "The prior FLAIR was made with another voxel size."
        ),
    )
    timing = {
        "dicom_loader": 0.412,
        "series_selector": 0.033,
        "registration": 31.207,
        "lesion_segmentation": 42.9,
        "longitudinal_comparator": 1.8,
    }
    selected = SelectedStudies(current, before, (), earlier=tuple(further))
    aligned = AlignedStudies(
        selected=selected,
        current=_aligned(current, "current"),
        prior=_aligned(before, "prior") if before is not None else None,
        prior_to_current=(
            Registration(PRIOR_MOTION, 7.4, 5.4, 1.21, True) if before is not None else None
        ),
        earlier=tuple(
            EarlierStudy(
                _aligned(study, "earlier"), Registration(PRIOR_MOTION, 7.4, 5.4, 1.19, True)
            )
            for study in further
        ),
        quality=quality[:1],
    )
    then_mask = None
    if before is not None:
        prior_flair = before.series["flair"].volume
        back = np.linalg.inv(PRIOR_MOTION)
        prior_points = _points(prior_flair.affine, prior_flair.spatial_shape)
        then_mask = _balls(prior_points @ back[:3, :3].T + back[:3, 3], then_balls)
    probabilities = LesionProbabilities(
        aligned=aligned,
        current=_probability(flair, labels > 0),
        prior=_probability(prior_flair, then_mask) if then_mask is not None else None,
        earlier=tuple(
            _probability(study.series["flair"].volume, then_mask)
            for study in further
            if then_mask is not None
        ),
        quality=quality[:1],
    )
    return FollowUp(
        probabilities=probabilities,
        lesions=tuple(found),
        totals=totals,
        labels=flair.with_array(labels),
        prior_labels=flair.with_array(prior_labels) if prior else None,
        time_points=tuple(time_points),
        quality=quality,
        timing_s=timing,
    )

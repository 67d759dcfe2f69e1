"""The messages that flow between the stages, in the order in which they flow.

Conventions: patient coordinates are LPS millimetres (DICOM PS3.3 C.7.6.2); a ``highdicom.Volume``
has array axes ``(i, j, k)`` and an affine that maps voxel indices to LPS millimetres; volumes of
lesions are millilitres; a registration's ``matrix_lps`` maps points of the fixed image (the FLAIR;
for the prior, the current FLAIR) to points of the moving image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from highdicom import Volume
from pydicom import Dataset

Severity = Literal["info", "warning", "error"]
Change = Literal[
    "baseline", "new", "enlarging", "stable", "shrinking", "resolved", "merged", "split"
]
Region = Literal[
    "periventricular", "juxtacortical", "infratentorial", "deep_white_matter", "unspecified"
]
FoundBy = Literal["network", "comparison"]
FOUND_BY_COMPARISON = "found by comparison"
"""Stands in the description of the segment of such a lesion; a later run reads it back."""


@dataclass(frozen=True)
class QualityNote:
    """A doubt or remark that is shown to the reader in the report, the SR and results.json."""

    code: str
    severity: Severity
    message: str


# --- dicom_loader -----------------------------------------------------------------------------


@dataclass(frozen=True)
class InstanceRef:
    """One DICOM file, known by its header only."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str


@dataclass(frozen=True)
class SeriesProblem:
    """A defect found in a series' headers; a fatal one forbids the use of the series."""

    code: str
    message: str
    fatal: bool


@dataclass(frozen=True)
class SeriesAttributes:
    """The header facts of one stack that the selection rules may use (None or () when absent)."""

    modality: str
    manufacturer: str | None = None
    manufacturer_model_name: str | None = None
    magnetic_field_strength_t: float | None = None
    image_type: tuple[str, ...] = ()
    series_number: int | None = None
    series_description: str | None = None
    protocol_name: str | None = None
    sequence_name: str | None = None
    scanning_sequence: tuple[str, ...] = ()
    sequence_variant: tuple[str, ...] = ()
    mr_acquisition_type: str | None = None
    echo_time_ms: float | None = None
    repetition_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    echo_train_length: int | None = None
    b_value: float | None = None
    contrast_agent: str | None = None
    body_part_examined: str | None = None
    enhanced: bool = False
    rows: int | None = None
    columns: int | None = None
    slice_count: int = 0
    temporal_positions: int = 1
    spacing_mm: tuple[float, float, float] | None = None
    """Between rows, between columns, between slices."""
    orientation: Literal["axial", "sagittal", "coronal"] | None = None
    coverage_mm: float | None = None
    """Extent perpendicular to the slices."""


@dataclass(frozen=True)
class Series:
    """One stack of images: a DICOM series, or the part of it with one orientation, echo, b-value
    and temporal position."""

    series_uid: str
    stack: str
    """Empty when the series is one stack; otherwise what sets this stack apart, as "echo 2"."""
    study_uid: str
    frame_of_reference_uid: str | None
    attributes: SeriesAttributes
    instances: tuple[InstanceRef, ...]
    """In slice order for classic images; one element for multi-frame images."""
    frame_numbers: tuple[int, ...] | None
    """The 1-based frames of this stack in a multi-frame image; None means all."""
    problems: tuple[SeriesProblem, ...] = ()

    @property
    def label(self) -> str:
        """A name for messages that carries no patient data, such as ``series 4 (echo 2)``."""
        number = self.attributes.series_number
        name = f"series {number}" if number is not None else f"series {self.series_uid}"
        return f"{name} ({self.stack})" if self.stack else name


@dataclass(frozen=True)
class Study:
    """One study of one patient: its image series and the objects derived from it."""

    study_uid: str
    patient_key: str
    """A hash that is equal for studies of the same patient; never the identifier itself."""
    acquired: date | None
    acquired_time: str | None
    """DICOM TM of the study, to order two studies of one day."""
    series: tuple[Series, ...]
    segmentations: tuple[InstanceRef, ...] = ()
    """Segmentation objects found in the input."""
    structured_reports: tuple[InstanceRef, ...] = ()


@dataclass(frozen=True)
class StudyCollection:
    """What the loader found, pixels unread."""

    studies: tuple[Study, ...]
    skipped: Mapping[str, int]
    """Reason to number of files that were left aside, such as ``{"not DICOM": 3}``."""
    quality: tuple[QualityNote, ...] = ()
    timing_s: Mapping[str, float] = field(default_factory=dict)


# --- series_selector --------------------------------------------------------------------------


@dataclass(frozen=True)
class SelectedSeries:
    """A series with a role, its pixels and the headers that outputs refer to."""

    role: str
    reason: str
    series: Series
    volume: Volume
    """float32, rescaled stored values, on the acquired grid."""
    headers: tuple[Dataset, ...]
    """Headers without pixel data, in the volume's slice order (one element for multi-frame)."""


@dataclass(frozen=True)
class RejectedSeries:
    """A candidate that was not chosen, and why."""

    series: Series
    role: str | None
    reason: str


@dataclass(frozen=True)
class SelectedStudy:
    """One time point: its series by role ("flair" always, "t2" and "t1" as found)."""

    study: Study
    series: Mapping[str, SelectedSeries]
    rejected: tuple[RejectedSeries, ...]
    interval_days: int | None
    """Days from this study to the current one: 0 for the current one, None when undated."""
    lesion_objects: tuple[InstanceRef, ...] = ()
    """SEG and SR objects of this application (any version) in this study, newest first."""


@dataclass(frozen=True)
class SelectedStudies:
    """The current study and, for a follow-up, the earlier ones."""

    current: SelectedStudy
    prior: SelectedStudy | None
    """The latest earlier study."""
    prior_segmentations: tuple[InstanceRef, ...]
    """SEG objects of this application in the prior study, newest first."""
    earlier: tuple[SelectedStudy, ...] = ()
    """The studies before ``prior``, newest first."""
    quality: tuple[QualityNote, ...] = ()
    timing_s: Mapping[str, float] = field(default_factory=dict)


# --- registration -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """A rigid transform between two images, but for a slight stretch, and how well it fits."""

    matrix_lps: np.ndarray
    """float64 (4, 4); maps points of the fixed image to points of the moving one."""
    translation_mm: float
    """Length of the displacement of the centre of the fixed image's brain."""
    rotation_deg: float
    similarity: float
    """Normalised mutual information of the locally normalised images over the brain: 1 for none."""
    accepted: bool


@dataclass(frozen=True)
class AlignedStudy:
    """A time point with its sequences related to its FLAIR."""

    selected: SelectedStudy
    to_flair: Mapping[str, Registration]
    """By role, for every role but "flair": FLAIR points to points of that image."""
    brain_mask: Volume
    """bool on the FLAIR's grid."""
    template_to_flair: np.ndarray
    """float64 (4, 4) affine: FLAIR points to points of the ICBM template, LPS."""


@dataclass(frozen=True)
class EarlierStudy:
    """A further earlier study, related to the current one."""

    aligned: AlignedStudy
    to_current: Registration
    """Current FLAIR points to this study's FLAIR points."""


@dataclass(frozen=True)
class AlignedStudies:
    """All images related to the current FLAIR."""

    selected: SelectedStudies
    current: AlignedStudy
    prior: AlignedStudy | None
    """The study that change is reported against: the latest one whose registration to the current
    FLAIR is accepted; the latest one if there is none."""
    prior_to_current: Registration | None
    """Current FLAIR points to prior FLAIR points; None without a prior."""
    earlier: tuple[EarlierStudy, ...] = ()
    """Every other study before the current one, newest first."""
    quality: tuple[QualityNote, ...] = ()
    timing_s: Mapping[str, float] = field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether the longitudinal part may run."""
        return self.prior_to_current is not None and self.prior_to_current.accepted


# --- lesion_segmentation ----------------------------------------------------------------------


@dataclass(frozen=True)
class ModelIdentity:
    """Which model, in which engine, made a result."""

    name: str
    version: str
    sha256: str
    engine: str
    precision: str


@dataclass(frozen=True)
class LesionProbability:
    """The network's answer for one time point."""

    probability: Volume
    """float32 in [0, 1] on the FLAIR's grid, 0 outside the brain."""
    threshold: float
    model: ModelIdentity


@dataclass(frozen=True)
class LesionProbabilities:
    """The network's answer for every time point."""

    aligned: AlignedStudies
    current: LesionProbability
    prior: LesionProbability | None
    earlier: tuple[LesionProbability | None, ...] = ()
    """In the order of ``aligned.earlier``; None where the registration was not accepted."""
    quality: tuple[QualityNote, ...] = ()
    timing_s: Mapping[str, float] = field(default_factory=dict)


# --- longitudinal_comparator ------------------------------------------------------------------


@dataclass(frozen=True)
class TimePoint:
    """One compared study on the time line."""

    study_uid: str
    interval_days: int | None
    """Days from this study to the current one; None when undated."""
    lesion_count: int
    lesion_volume_ml: float
    lesion_volume_interval_ml: tuple[float, float]
    """95 % interval of the total volume."""


@dataclass(frozen=True)
class Lesion:
    """One lesion followed over time."""

    tracking_uid: str
    tracking_id: str
    segment_number: int | None
    """Its segment in the current SEG, from 1; None for a resolved lesion."""
    volume_ml: float
    """0 for a resolved lesion."""
    prior_volume_ml: float | None
    """None for a baseline study; 0 for a new lesion."""
    diameter_mm: float
    """Maximum 3D diameter, now; of the prior for a resolved lesion."""
    centroid_lps_mm: tuple[float, float, float]
    """In the current FLAIR's frame of reference, also for a resolved lesion."""
    region: Region
    change: Change
    """Against the prior study."""
    confidence: float
    """In [0, 1]: mean lesion probability inside the lesion."""
    change_confidence: float | None = None
    """In [0, 1]: how surely ``change`` is what the images show; None for a baseline study."""
    volume_interval_ml: tuple[float, float] | None = None
    """95 % interval of ``volume_ml``."""
    prior_volume_interval_ml: tuple[float, float] | None = None
    change_since_first: Change | None = None
    """Against the first study of the time line; None where that is the prior or there is none, and
    for a resolved lesion that the first study does not have."""
    lineage: tuple[str, ...] = ()
    """Tracking UIDs of the earlier lesions that it came from, other than its own."""
    volumes_ml: tuple[float | None, ...] = ()
    """In the order of ``FollowUp.time_points``; None where that study does not show the place."""
    distance_to_ventricle_mm: float | None = None
    """From the lesion's nearest edge to the patient's lateral ventricles; 0 for contact."""
    distance_to_cortex_mm: float | None = None
    """From the lesion's nearest edge to the patient's cortex; 0 for contact."""
    found_by: FoundBy = "network"
    """"comparison" if the network did not outline it in its study (the current one; the prior for a
    resolved lesion): the images of two studies together show it."""


@dataclass(frozen=True)
class Totals:
    """Sums over all lesions."""

    lesion_count: int
    lesion_volume_ml: float
    prior_lesion_volume_ml: float | None
    new_count: int
    enlarging_count: int
    shrinking_count: int
    resolved_count: int
    lesion_volume_interval_ml: tuple[float, float] | None = None
    """95 % interval of ``lesion_volume_ml``."""
    prior_lesion_volume_interval_ml: tuple[float, float] | None = None


@dataclass(frozen=True)
class FollowUp:
    """The result: lesions as objects, with their change."""

    probabilities: LesionProbabilities
    lesions: tuple[Lesion, ...]
    """Present lesions in the order of their segment numbers, then resolved ones."""
    totals: Totals
    labels: Volume
    """uint16 on the current FLAIR's grid: the segment number of each lesion, 0 elsewhere."""
    prior_labels: Volume | None
    """uint16 on the current FLAIR's grid: the prior lesions as seen from now; the value is 1 + the
    index in ``lesions`` of the lesion that the voxel belonged to."""
    time_points: tuple[TimePoint, ...] = ()
    """Every compared study, oldest first; the current one is the last."""
    quality: tuple[QualityNote, ...] = ()
    """Every note of every stage, in order."""
    timing_s: Mapping[str, float] = field(default_factory=dict)
    change_ratio: float | None = None
    """From which relative growth on a lesion is called enlarging; None where nobody says."""

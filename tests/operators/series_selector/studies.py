"""Hand-made series and studies, without files."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import Volume
from pydicom import Dataset

from operators.messages import InstanceRef, Series, SeriesAttributes, Study

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"

FLAIR_2D = SeriesAttributes(
    modality="MR",
    manufacturer="SIEMENS",
    manufacturer_model_name="Skyra",
    magnetic_field_strength_t=3.0,
    image_type=("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D"),
    series_number=4,
    series_description="t2_tirm_tra_dark-fluid_3mm",
    scanning_sequence=("SE", "IR"),
    sequence_variant=("SK", "SP", "MP"),
    mr_acquisition_type="2D",
    echo_time_ms=87.0,
    repetition_time_ms=9000.0,
    inversion_time_ms=2500.0,
    rows=320,
    columns=260,
    slice_count=50,
    spacing_mm=(0.72, 0.81, 3.3),
    orientation="axial",
    coverage_mm=165.0,
)
FLAIR_3D = replace(
    FLAIR_2D,
    series_number=6,
    series_description="t2_space_dark-fluid_sag_p2_iso",
    mr_acquisition_type="3D",
    echo_time_ms=388.0,
    repetition_time_ms=5000.0,
    inversion_time_ms=1800.0,
    slice_count=176,
    spacing_mm=(1.0, 1.0, 1.05),
    orientation="sagittal",
    coverage_mm=184.8,
)
T2_2D = replace(
    FLAIR_2D,
    series_number=5,
    series_description="t2_tse_tra_3mm",
    scanning_sequence=("SE",),
    echo_time_ms=96.0,
    repetition_time_ms=5200.0,
    inversion_time_ms=None,
)
T1_3D = replace(
    FLAIR_3D,
    series_number=7,
    series_description="t1_mprage_sag_p2_iso",
    scanning_sequence=("GR", "IR"),
    echo_time_ms=2.98,
    repetition_time_ms=2300.0,
    inversion_time_ms=900.0,
    flip_angle_deg=9.0,
)


def make_series(
    attributes: SeriesAttributes, study: str = "1.2.3", frame: str = "1.2.3.9", **changes: Any
) -> Series:
    """A series with the given attributes; keyword arguments change attributes or the series."""
    of_series = {k: changes.pop(k) for k in ("stack", "problems", "series_uid") if k in changes}
    attributes = replace(attributes, **changes)
    uid = of_series.pop("series_uid", f"{study}.{attributes.series_number}")
    return Series(
        series_uid=uid,
        stack=of_series.pop("stack", ""),
        study_uid=study,
        frame_of_reference_uid=frame,
        attributes=attributes,
        instances=(InstanceRef(Path(f"{uid}.dcm"), f"{uid}.1", MR_IMAGE),),
        frame_numbers=None,
        **of_series,
    )


def make_study(
    uid: str,
    *attributes: SeriesAttributes,
    day: date | None = date(2024, 5, 6),
    time: str | None = "101500",
    patient: str = "patient-hash",
    series: tuple[Series, ...] | None = None,
    segmentations: tuple[InstanceRef, ...] = (),
) -> Study:
    """A study whose series have the given attributes."""
    if series is None:
        series = tuple(make_series(a, study=uid, frame=f"{uid}.9") for a in attributes)
    return Study(uid, patient, day, time, series, segmentations)


def read_nothing(series: Series) -> tuple[Volume, tuple[Dataset, ...]]:
    """A small oblique anisotropic volume in place of the series' pixels."""
    angle = np.deg2rad(12.0)
    affine = np.array(
        [
            [3.3 * np.sin(angle), 0.0, 0.8 * np.cos(angle), -40.0],
            [0.0, 0.9, 0.0, -50.0],
            [3.3 * np.cos(angle), 0.0, -0.8 * np.sin(angle), -20.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    volume = Volume(
        np.full((4, 5, 6), float(series.attributes.series_number or 0), np.float32),
        affine=affine,
        coordinate_system="PATIENT",
    )
    header = Dataset()
    header.SeriesInstanceUID = series.series_uid
    return volume, (header,)

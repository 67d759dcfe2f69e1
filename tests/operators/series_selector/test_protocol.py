"""Differences of protocol are told with their effect, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from operators.messages import QualityNote, SelectedSeries, SelectedStudy, SeriesAttributes
from operators.series_selector.protocol import compare_protocols, slice_thickness_mm
from operators.series_selector.settings import ProtocolTolerances
from tests.operators.series_selector.studies import (
    FLAIR_2D,
    FLAIR_3D,
    T2_2D,
    make_series,
    make_study,
    read_nothing,
)

TOLERANCES = ProtocolTolerances()


def study(*attributes: SeriesAttributes, days: int = 0, **header: Any) -> SelectedStudy:
    """A study whose first series is the FLAIR, the second the T2; keywords are header elements."""
    series = {}
    for role, one in zip(("flair", "t2"), attributes, strict=False):
        chosen = make_series(one)
        volume, headers = read_nothing(chosen)
        for keyword, value in header.items():
            setattr(headers[0], keyword, value)
        series[role] = SelectedSeries(role, "test", chosen, volume, headers)
    return SelectedStudy(make_study("1.1", *attributes), series, (), days)


def notes(before: SelectedStudy, now: SelectedStudy) -> list[QualityNote]:
    return compare_protocols(now, [("prior", before)], TOLERANCES)


def test_the_same_protocol_needs_no_note() -> None:
    assert notes(study(FLAIR_2D, T2_2D), study(FLAIR_2D, T2_2D)) == []
    nearly = replace(FLAIR_2D, echo_time_ms=95.0, spacing_mm=(0.75, 0.75, 3.0), flip_angle_deg=150)
    assert notes(study(nearly, T2_2D), study(FLAIR_2D, T2_2D)) == []


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"manufacturer": "GE"}, "protocol_scanner", "GE Skyra in the prior study"),
        ({"magnetic_field_strength_t": 1.5}, "protocol_field_strength", "growth may be overstated"),
        ({"mr_acquisition_type": "3D"}, "protocol_dimension", "resolved lesions may be overstated"),
        ({"spacing_mm": (0.72, 0.81, 6.6)}, "protocol_slice_spacing", "volumes below 0.15 ml"),
        ({"spacing_mm": (1.4, 1.4, 3.3)}, "protocol_pixel_size", "0.76 mm in the current"),
        ({"orientation": "coronal"}, "protocol_orientation", "coronal in the prior"),
        ({"echo_time_ms": 140.0}, "protocol_parameters", "FLAIR echo time: 140 ms"),
        ({"inversion_time_ms": 2000.0}, "protocol_parameters", "inversion time: 2000 ms"),
        ({"repetition_time_ms": 12000.0}, "protocol_parameters", "repetition time: 12000 ms"),
        ({"magnetic_field_strength_t": None}, "protocol_unknown", "field strength in the prior"),
    ],
)
def test_each_difference_is_one_sentence_with_its_effect(
    change: dict[str, Any], code: str, said: str
) -> None:
    (note,) = notes(study(replace(FLAIR_2D, **change)), study(FLAIR_2D))
    assert note.code == code
    assert said in note.message
    assert note.message.count(".") >= 1
    assert note.message.endswith(".")


def test_the_effect_follows_the_direction_of_the_difference() -> None:
    weak = replace(FLAIR_2D, magnetic_field_strength_t=1.5)
    (now_strong,) = notes(study(weak), study(FLAIR_2D))
    (now_weak,) = notes(study(FLAIR_2D), study(weak))
    assert "more and larger lesions" in now_strong.message
    assert "fewer and smaller lesions" in now_weak.message


def test_2d_and_3d_differ_in_several_respects_each_told_once() -> None:
    found = notes(study(FLAIR_2D, T2_2D), study(FLAIR_3D, T2_2D))
    assert [note.code for note in found] == [
        "protocol_dimension",
        "protocol_slice_spacing",
        "protocol_orientation",
        "protocol_parameters",
    ]
    assert (
        "echo time, repetition time, inversion time: 87 ms, 9000 ms, 2500 ms" in found[-1].message
    )


def test_slice_thickness_is_read_from_classic_and_multi_frame_headers() -> None:
    thin, thick = study(FLAIR_2D, SliceThickness=3.0), study(FLAIR_2D, SliceThickness=5.0)
    (note,) = notes(thick, thin)
    assert note.code == "protocol_slice_thickness"
    assert "5 mm in the prior study, 3 mm in the current one" in note.message
    measures, shared, header = Dataset(), Dataset(), Dataset()
    measures.SliceThickness = 1.1
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    series = replace(thin.series["flair"], headers=(header,))
    assert slice_thickness_mm(series) == 1.1
    assert slice_thickness_mm(replace(series, headers=())) is None


def test_another_scanner_of_the_same_model_is_a_remark() -> None:
    one, other = study(FLAIR_2D, DeviceSerialNumber="1"), study(FLAIR_2D, DeviceSerialNumber="2")
    (note,) = notes(one, other)
    assert (note.code, note.severity) == ("protocol_scanner", "info")
    assert "1" not in note.message.replace("one", "")


def test_studies_that_differ_in_the_same_way_share_a_note() -> None:
    weak = study(replace(FLAIR_2D, magnetic_field_strength_t=1.5))
    found = compare_protocols(
        study(FLAIR_2D),
        [("prior", study(FLAIR_2D)), ("earlier (400 days before)", weak), ("oldest", weak)],
        TOLERANCES,
    )
    assert len(found) == 1
    assert "1.5 T in the earlier (400 days before) and oldest studies" in found[0].message


def test_a_tolerance_may_be_changed() -> None:
    weak = study(replace(FLAIR_2D, magnetic_field_strength_t=1.5))
    lenient = TOLERANCES.model_copy(update={"field_strength_t": 2.0})
    assert compare_protocols(study(FLAIR_2D), [("prior", weak)], lenient) == []


def test_real_headers_of_different_scanners(shared_data: Path) -> None:
    """Each real series against itself says nothing; one of another maker says so."""
    from operators.dicom_loader.scan import scan_folder
    from operators.dicom_loader.settings import DICOMLoaderSettings

    known = {}
    for folder in sorted((shared_data / "dicom_headers").iterdir()):
        if not folder.is_dir():
            continue
        collection = scan_folder(folder, DICOMLoaderSettings())
        for one in collection.studies:
            for series in one.series:
                attributes = series.attributes
                if attributes.manufacturer and attributes.echo_time_ms:
                    known.setdefault(attributes.manufacturer.split()[0].upper(), attributes)
    assert len(known) >= 3, known.keys()
    for maker, attributes in known.items():
        codes = {note.code for note in notes(study(attributes), study(attributes))}
        assert codes <= {"protocol_unknown"}, maker
    makers = list(known)
    found = notes(study(known[makers[0]]), study(known[makers[1]]))
    assert "protocol_scanner" in {note.code for note in found}

"""Patient, study and equipment attributes, character sets, identifiers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread
from pydicom.charset import encode_string
from pydicom.dataelem import DataElement
from pydicom.uid import EncapsulatedPDFStorage

from operators.dicom_writer.common import (
    REQUIRED_OR_EMPTY,
    OutputContext,
    apply_common,
    encodable,
    patient_and_study,
    save,
)
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.messages import FollowUp
from tests.operators.followup_example import make_follow_up


@pytest.fixture(scope="module")
def follow_up(tmp_path_factory: pytest.TempPathFactory) -> FollowUp:
    return make_follow_up(tmp_path_factory.mktemp("common"))


def changed(follow_up: FollowUp, **values: object) -> FollowUp:
    """The same result whose current FLAIR has other header values; None removes one."""
    probabilities = follow_up.probabilities
    selected = probabilities.aligned.selected
    flair = selected.current.series["flair"]
    headers = []
    for header in flair.headers:
        copied = Dataset()
        copied.update(header)
        for keyword, value in values.items():
            if keyword in copied:
                del copied[keyword]  # the element is shared with the original
            if value is not None:
                setattr(copied, keyword, value)
        headers.append(copied)
    series = {**selected.current.series, "flair": replace(flair, headers=tuple(headers))}
    current = replace(selected.current, series=series)
    aligned = replace(probabilities.aligned, selected=replace(selected, current=current))
    return replace(follow_up, probabilities=replace(probabilities, aligned=aligned))


def written(context: OutputContext, path: Path) -> Dataset:
    """A dataset with nothing but the common attributes, as read back from a file."""
    dataset = Dataset()
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.Modality = "DOC"
    return dcmread(save(apply_common(dataset, context, "pdf"), path))


@pytest.mark.parametrize(
    ("character_set", "name", "description"),
    [
        ("ISO_IR 100", "Sørensen^Åse", "MR cerebrum, MS-kontrol, blå"),
        ("ISO_IR 101", "Łukasiewicz^Żaneta", "MR głowy"),
        ("ISO_IR 144", "Достоевский^Фёдор", "МРТ головного мозга"),
        ("ISO_IR 192", "Sørensen^Åse=金^喜善", "МРТ / MR głowy / blå"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "MR brain"),
    ],
)
def test_names_survive_in_the_sources_own_character_set(
    follow_up: FollowUp, tmp_path: Path, character_set: str, name: str, description: str
) -> None:
    source = changed(
        follow_up,
        SpecificCharacterSet=character_set,
        PatientName=name,
        StudyDescription=description,
        IssuerOfPatientID="X",
        ReferringPhysicianName=name,
    )
    read = written(OutputContext(source), tmp_path / "x.dcm")
    expected = [character_set] if isinstance(character_set, str) else character_set
    found = read.SpecificCharacterSet
    assert ([found] if isinstance(found, str) else list(found)) == expected
    assert read.PatientName == name
    assert read.ReferringPhysicianName == name
    assert read.StudyDescription == description


def test_a_source_without_a_character_set_gives_an_output_without_one(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    source = changed(
        follow_up,
        SpecificCharacterSet=None,
        PatientName="Doe^Jane",
        IssuerOfPatientID="X",
        ReferringPhysicianName="",
    )
    read = written(OutputContext(source), tmp_path / "x.dcm")
    assert "SpecificCharacterSet" not in read
    assert read.PatientName == "Doe^Jane"


def test_missing_attributes_that_must_be_present_become_empty(follow_up: FollowUp) -> None:
    source = changed(follow_up, **dict.fromkeys(REQUIRED_OR_EMPTY))
    copied = patient_and_study(
        source.probabilities.aligned.selected.current.series["flair"].headers
    )
    for keyword in REQUIRED_OR_EMPTY:
        assert keyword in copied
        assert not copied[keyword].value


@pytest.mark.parametrize(("age", "expected"), [("0Y", "000Y"), ("43Y", "043Y"), ("043Y", "043Y")])
def test_an_age_gets_its_missing_zeros(tmp_path: Path, age: str, expected: str) -> None:
    header = Dataset()
    header.add(DataElement(0x00101010, "AS", age, validation_mode=config.IGNORE))
    assert patient_and_study([header]).PatientAge == expected


def test_values_that_dicom_forbids_are_left_out(tmp_path: Path) -> None:
    """A scanner's weight "66 kg", an age "43" and a sex "W" must not stop the result."""
    header = Dataset()
    header.PatientName = "Doe^Jane"
    header.StudyInstanceUID = "1.2.3"
    header.SOPClassUID = EncapsulatedPDFStorage
    header.SOPInstanceUID = "1.2.3.4"
    header.PatientSex = "W"
    path = save(header, tmp_path / "bad.dcm")
    raw = path.read_bytes()
    for tag, vr, value in (
        (b"\x10\x00\x10\x10", b"AS", b"43  "),
        (b"\x10\x00\x30\x10", b"DS", b"66 kg "),
    ):
        raw += tag + vr + len(value).to_bytes(2, "little") + value
    path.write_bytes(raw)
    read = dcmread(path)
    copied = patient_and_study([read])
    assert copied.PatientName == "Doe^Jane"
    assert "PatientWeight" not in copied
    assert "PatientAge" not in copied
    assert copied.PatientSex == ""
    save_target = Dataset()
    save_target.update(copied)
    save_target.SOPClassUID, save_target.SOPInstanceUID = EncapsulatedPDFStorage, "1.2.3.5"
    again = dcmread(save(save_target, tmp_path / "good.dcm"))
    assert "PatientWeight" not in again


@pytest.mark.parametrize(
    ("text", "character_set", "expected"),
    [
        ("5 mm³ ≥ 30 % – œdème", None, "5 mm3 ? 30 % - ?deme"),
        ("5 mm³ – blå", "ISO_IR 100", "5 mm³ - blå"),
        ("5 mm³ ≥ – blå", "ISO_IR 192", "5 mm³ ≥ – blå"),
        ("Łódź, æ", "ISO_IR 101", "Łódź, ?"),
        ("plain", ["", "ISO 2022 IR 87"], "plain"),
    ],
)
def test_text_is_fitted_to_the_character_set(
    text: str, character_set: str | list[str] | None, expected: str
) -> None:
    fitted = encodable(text, character_set)
    assert fitted == expected
    names = character_set if isinstance(character_set, str) else "ISO_IR 100"
    encode_string(fitted, [{"ISO_IR 192": "utf8", "ISO_IR 101": "iso8859_2"}.get(names, "latin1")])


def test_uids_differ_between_runs_and_repeat_within_one(follow_up: FollowUp) -> None:
    first, second = OutputContext(follow_up), OutputContext(follow_up)
    fixed, again = OutputContext(follow_up, seed="a"), OutputContext(follow_up, seed="a")
    assert first.instance_uid("preview", 2) == first.instance_uid("preview", 2)
    assert first.instance_uid("preview", 2) != first.instance_uid("preview", 3)
    assert first.instance_uid("pdf") != first.series_uid("pdf")
    assert first.series_uid("pdf") != second.series_uid("pdf")
    assert fixed.series_uid("pdf") == again.series_uid("pdf")
    uid = first.uid("anything")
    assert uid.startswith("2.25.")
    assert len(uid) <= 64


def test_series_numbers_avoid_those_of_the_study(follow_up: FollowUp) -> None:
    assert OutputContext(follow_up).series_number("segmentation") == 9001
    assert OutputContext(follow_up).series_number("pdf") == 9004
    # The FLAIR is series 4 and the T2 series 5.
    settings = DICOMWriterSettings(first_series_number=2)
    assert OutputContext(follow_up, settings).series_number("report") == 103


def test_times_are_in_the_time_zone_that_the_source_states(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    created = datetime(2024, 6, 12, 23, 30, tzinfo=UTC)
    source = changed(follow_up, TimezoneOffsetFromUTC="+0200")
    read = written(OutputContext(source, created=created), tmp_path / "x.dcm")
    assert (read.ContentDate, read.ContentTime) == ("20240613", "013000")
    assert read.TimezoneOffsetFromUTC == "+0200"


def test_the_sources_institution_is_not_claimed_for_the_application(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    assert "InstitutionName" not in written(OutputContext(follow_up), tmp_path / "a.dcm")
    settings = DICOMWriterSettings(institution_name="Klinik Ærø")
    read = written(OutputContext(follow_up, settings), tmp_path / "b.dcm")
    assert read.InstitutionName == "Klinik Ærø"


def test_the_scanner_is_named_as_contributing_equipment(
    follow_up: FollowUp, tmp_path: Path
) -> None:
    scanner, application = written(
        OutputContext(follow_up), tmp_path / "a.dcm"
    ).ContributingEquipmentSequence
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("SIEMENS", "Skyra")
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert application.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"


def test_an_empty_element_of_the_source_stays_empty(follow_up: FollowUp, tmp_path: Path) -> None:
    source = changed(follow_up, AccessionNumber="", StudyID="")
    flair = source.probabilities.aligned.selected.current.series["flair"]
    assert isinstance(flair.headers[0]["AccessionNumber"], DataElement)
    read = written(OutputContext(source), tmp_path / "x.dcm")
    assert (read.AccessionNumber, read.StudyID) == ("", "")

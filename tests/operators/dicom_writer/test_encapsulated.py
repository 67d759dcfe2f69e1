"""The report inside DICOM: byte for byte, with the study, and valid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.encapsulated import CONCEPT_NAME, write_encapsulated_pdf
from operators.dicom_writer.preview import write_preview
from operators.dicom_writer.report import write_report
from tests.operators.dicom_writer.validators import entity_errors, object_errors
from tests.operators.followup_example import make_follow_up

CREATED = datetime(2024, 6, 13, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module", params=["classic", "enhanced", "baseline"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OutputContext, Path, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    follow_up = make_follow_up(
        folder, enhanced=request.param == "enhanced", prior=request.param != "baseline"
    )
    context = OutputContext(follow_up, created=CREATED, seed="test")
    pdf = folder / "report.pdf"
    write_report(pdf, context)
    path = write_encapsulated_pdf(folder / "dicom" / "report.dcm", pdf, context)
    return context, pdf, path


def test_the_pdf_comes_back_byte_for_byte(written: tuple[OutputContext, Path, Path]) -> None:
    _, pdf, path = written
    dataset = dcmread(path)
    assert dataset.SOPClassUID == EncapsulatedPDFStorage
    assert dataset.MIMETypeOfEncapsulatedDocument == "application/pdf"
    content = dataset.EncapsulatedDocument[: int(dataset.EncapsulatedDocumentLength)]
    assert content == pdf.read_bytes()


@pytest.mark.parametrize("length", [1000, 1001])
def test_an_odd_length_is_padded(tmp_path: Path, length: int) -> None:
    context = OutputContext(make_follow_up(tmp_path, empty=True), created=CREATED, seed="test")
    pdf = tmp_path / "any.pdf"
    pdf.write_bytes(b"%PDF-1.4" + b"x" * (length - 8))
    dataset = dcmread(write_encapsulated_pdf(tmp_path / "any.dcm", pdf, context))
    assert dataset.EncapsulatedDocumentLength == length
    assert len(dataset.EncapsulatedDocument) % 2 == 0


def test_it_belongs_to_the_current_patient_and_study(
    written: tuple[OutputContext, Path, Path],
) -> None:
    context, _, path = written
    dataset = dcmread(path)
    source = context.flair.headers[0]
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "PatientAge",
                    "PatientWeight", "AccessionNumber", "SpecificCharacterSet"):  # fmt: skip
        assert dataset[keyword].value == source[keyword].value
    assert dataset.BurnedInAnnotation == "YES", "the pages name the patient"
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID


def test_the_images_it_was_made_from_are_named(written: tuple[OutputContext, Path, Path]) -> None:
    context, _, path = written
    found = [
        (item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for item in dcmread(path).SourceInstanceSequence
    ]
    studies = [context.current] + ([context.prior] if context.prior is not None else [])
    expected = [
        (header.SOPClassUID, header.SOPInstanceUID)
        for study in studies
        for series in study.series.values()
        for header in series.headers
    ]
    assert sorted(found) == sorted(expected)


def test_the_title_is_a_report_title_of_the_standard() -> None:
    assert codes.CID7000.DiagnosticImagingReport == CONCEPT_NAME


def test_validators_find_no_error(
    written: tuple[OutputContext, Path, Path], need_tool: Callable[[str], str]
) -> None:
    context, pdf, path = written
    assert not object_errors(need_tool("dciodvfy"), path)
    preview = write_preview(path.parent, context)
    source = sorted((pdf.parent / "source" / "current").rglob("*.dcm"))
    assert not entity_errors(need_tool("dcentvfy"), [path, *preview, *source])

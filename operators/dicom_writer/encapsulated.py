"""The report as an Encapsulated PDF (PS3.3 A.45.1), so that it lies with the study."""

from __future__ import annotations

from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from operators.dicom_writer.common import OutputContext, apply_common, save
from operators.dicom_writer.texts import texts
from operators.messages import SelectedStudy

CONCEPT_NAME = codes.LN.DiagnosticImagingReport
"""LOINC 18748-4, one of CID 7000 Diagnostic Imaging Report Document Titles."""


def write_encapsulated_pdf(path: Path, pdf_path: Path, context: OutputContext) -> Path:
    """Wrap a PDF into a DICOM object of the current study.

    Parameters
    ----------
    path
        The DICOM file to write.
    pdf_path
        The PDF.
    context
        The run that it belongs to.

    Returns
    -------
    pathlib.Path
        ``path``.
    """
    content = pdf_path.read_bytes()
    words = texts(context.settings.language)["report"]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = EncapsulatedPDFStorage
    dataset.Modality = "DOC"
    dataset.ConversionType = "WSD"
    # The pages name the patient and the study (PS3.3 C.24.2).
    dataset.BurnedInAnnotation = "YES"
    now = context.created_in_study_zone
    dataset.AcquisitionDateTime = now.strftime("%Y%m%d%H%M%S")
    title = words["title" if context.prior is not None else "title_baseline"]
    dataset.DocumentTitle = context.text(str(title))
    concept = Dataset()
    concept.CodeValue = CONCEPT_NAME.value
    concept.CodingSchemeDesignator = CONCEPT_NAME.scheme_designator
    concept.CodeMeaning = CONCEPT_NAME.meaning
    dataset.ConceptNameCodeSequence = [concept]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.SourceInstanceSequence = [
        instance for study in context.studies for instance in _source_instances(study)
    ]
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return save(apply_common(dataset, context, "pdf"), path)


def _source_instances(study: SelectedStudy) -> list[Dataset]:
    """References to the images that a time point's result was made from."""
    items = []
    for selected in study.series.values():
        for header in selected.headers:
            item = Dataset()
            item.ReferencedSOPClassUID = header.SOPClassUID
            item.ReferencedSOPInstanceUID = header.SOPInstanceUID
            items.append(item)
    return items

"""What every DICOM output has in common: patient, study, series, equipment and the statement.

The identifiers of outputs follow one rule. A lesion's tracking UID is the same in every run and
every study (it comes with the lesion). Series and instance UIDs are new in every run: two runs
differ at least in their date and time, and an archive that meets a known instance UID keeps the old
object or refuses the new one, so that a rerun with another model could go unseen. Within one run
the UIDs are derived from one seed, so that objects can refer to one another before they are
written.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import re
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from highdicom import ContributingEquipment
from pydicom import DataElement, Dataset, config
from pydicom.charset import convert_encodings
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from operators import version
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.messages import FollowUp, ModelIdentity, SelectedSeries, SelectedStudy

OutputKind = Literal["segmentation", "report", "preview", "pdf"]
"""The four series of an output; each value is also a word of its UIDs."""

SERIES_DESCRIPTIONS: Mapping[OutputKind, str] = {
    "segmentation": "MS lesions: segmentation (research use only)",
    "report": "MS lesions: measurements (research use only)",
    "preview": "MS lesions: preview (research use only)",
    "pdf": "MS lesions: report (research use only)",
}
_ORDER: tuple[OutputKind, ...] = ("segmentation", "report", "preview", "pdf")

PATIENT_KEYWORDS = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientBirthDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
    "PatientSex",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "QualityControlSubject",
    "ReferencedPatientSequence",
    "ReferencedPatientPhotoSequence",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "ClinicalTrialProtocolEthicsCommitteeName",
    "ClinicalTrialProtocolEthicsCommitteeApprovalNumber",
)
"""Patient and Clinical Trial Subject modules (PS3.3 C.7.1.1 and C.7.1.3)."""

STUDY_KEYWORDS = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "ConsultingPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "PhysiciansOfRecordIdentificationSequence",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansReadingStudyIdentificationSequence",
    "RequestingService",
    "RequestingServiceCodeSequence",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "ReasonForPerformedProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSizeCodeSequence",
    "PatientBodyMassIndex",
    "MedicalAlerts",
    "Allergies",
    "Occupation",
    "SmokingStatus",
    "AdditionalPatientHistory",
    "PregnancyStatus",
    "LastMenstrualDate",
    "PatientSexNeutered",
    "PatientState",
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "ServiceEpisodeID",
    "ServiceEpisodeDescription",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)
"""General Study, Patient Study and Clinical Trial Study modules (PS3.3 C.7.2.1 to C.7.2.3)."""

logger = logging.getLogger(__name__)

_SHORT_AGE = re.compile(r"(\d{1,2})([DWMY])")
_CHECKED_VRS = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "TM"})

REQUIRED_OR_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
"""Type 2 attributes: they must be present, empty when unknown."""


@dataclass(frozen=True)
class OutputContext:
    """One run's outputs: what they describe, when they are made, and their identifiers.

    Parameters
    ----------
    follow_up
        The result to write.
    settings
        The writer's settings.
    created
        When the outputs are made; local time, or with a time zone.
    seed
        Sets the UIDs of this run; random unless given.
    """

    follow_up: FollowUp
    settings: DICOMWriterSettings = field(default_factory=DICOMWriterSettings)
    created: datetime = field(default_factory=lambda: datetime.now().astimezone())
    seed: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def current(self) -> SelectedStudy:
        """The study that the outputs belong to."""
        return self.follow_up.probabilities.aligned.selected.current

    @property
    def prior(self) -> SelectedStudy | None:
        """The study that change is reported against, or None."""
        aligned = self.follow_up.probabilities.aligned
        return aligned.selected.prior if aligned.prior is None else aligned.prior.selected

    @property
    def earlier(self) -> tuple[SelectedStudy, ...]:
        """Every other study before the current one, newest first."""
        return tuple(one.aligned.selected for one in self.follow_up.probabilities.aligned.earlier)

    @property
    def studies(self) -> tuple[SelectedStudy, ...]:
        """The current study, the one compared with, then the others, newest first."""
        prior = () if self.prior is None else (self.prior,)
        return (self.current, *prior, *self.earlier)

    @property
    def flair(self) -> SelectedSeries:
        """The current FLAIR, on whose grid everything lies."""
        return self.current.series["flair"]

    @property
    def frame_of_reference_uid(self) -> str:
        """The current FLAIR's frame of reference; made up for this run if the FLAIR states none."""
        stated = self.flair.series.frame_of_reference_uid
        stated = stated or self.flair.headers[0].get("FrameOfReferenceUID")
        return str(stated or self.uid("frame"))

    @property
    def model(self) -> ModelIdentity:
        """The model that segmented the current study."""
        return self.follow_up.probabilities.current.model

    @cached_property
    def patient_and_study(self) -> Dataset:
        """Patient and study attributes of the current study, with its character set."""
        return patient_and_study(self.flair.headers)

    @property
    def created_in_study_zone(self) -> datetime:
        """``created`` in the time zone that the source states, otherwise local time."""
        offset = str(self.flair.headers[0].get("TimezoneOffsetFromUTC") or "").strip()
        if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
            return self.created.astimezone(zone)
        return self.created.astimezone()

    def uid(self, *words: object) -> str:
        """A UID under 2.25 that is fixed by this run and the words, as ``uid("pdf", "series")``."""
        text = "\0".join([self.seed, self.current.study.study_uid, *map(str, words)])
        digest = hashlib.sha256(text.encode()).digest()
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"

    def series_uid(self, kind: OutputKind) -> str:
        """The Series Instance UID of one of the outputs."""
        return self.uid(kind, "series")

    def instance_uid(self, kind: OutputKind, number: int = 1) -> str:
        """The SOP Instance UID of the ``number``-th instance of one of the outputs."""
        return self.uid(kind, "instance", number)

    def series_number(self, kind: OutputKind) -> int:
        """A series number that the current study does not use."""
        used = {series.attributes.series_number for series in self.current.study.series}
        first = self.settings.first_series_number
        while any(first + step in used for step in range(len(_ORDER))):
            first += 100
        return first + _ORDER.index(kind)

    def text(self, text: str) -> str:
        """The text as the source's character set can hold it (``mm³`` becomes ``mm3`` in ASCII)."""
        return encodable(text, self.patient_and_study.get("SpecificCharacterSet"))

    @property
    def statement(self) -> str:
        """What must be read with every output: research use, software, model and its hash."""
        return (
            f"{version.STATEMENT} {version.NAME} {version.VERSION}, model {self.model.name} "
            f"{self.model.version}, sha256 {self.model.sha256}, {self.model.engine} "
            f"{self.model.precision}."
        )


def patient_and_study(headers: Sequence[Dataset]) -> Dataset:
    """Copy the patient and study attributes of an image, with its character set.

    Parameters
    ----------
    headers
        Headers of one series; the first one is copied.

    Returns
    -------
    pydicom.Dataset
        Every attribute of the Patient, General Study, Patient Study and Clinical Trial modules that
        the source has with a legal value; the type 2 ones always, empty when unknown.
    """
    source = headers[0]
    copied = Dataset()
    if source.get("SpecificCharacterSet"):
        copied.SpecificCharacterSet = source.SpecificCharacterSet
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if keyword not in source:
            continue
        element = legal_copy(source, keyword)
        if element is None:
            logger.warning("%s of the FLAIR is not legal DICOM and is left out", keyword)
        else:
            copied.add(element)
    for keyword in REQUIRED_OR_EMPTY:
        if keyword not in copied:
            setattr(copied, keyword, "")
    return copied


def legal_copy(source: Dataset, keyword: str) -> DataElement | None:
    """A copy of an attribute, or None if its value is one that DICOM forbids.

    Numbers, dates, ages and codes are checked, as scanners are known to send a weight of ``66 kg``;
    names and free text are taken as they are. An age such as ``43Y`` gets its missing zeros.
    """
    try:
        element = source[keyword]
        age = _SHORT_AGE.fullmatch(str(element.value)) if keyword == "PatientAge" else None
        if age is not None:
            return DataElement(element.tag, "AS", f"{int(age[1]):03d}{age[2]}")
        if element.VR in _CHECKED_VRS:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            for value in values:
                if value not in (None, ""):
                    text = getattr(value, "original_string", None) or str(value)
                    validate_value(element.VR, text, config.RAISE)
    except ValueError:
        return None
    if keyword == "PatientSex" and str(element.value or "") not in {"", "M", "F", "O"}:
        return None
    return copy.deepcopy(element)


def nameless(dataset: Dataset) -> Dataset:
    """A shallow copy with an empty patient name, for highdicom's constructors.

    highdicom warns of a name of one component and quotes it, which would carry the patient's name
    into the log; :func:`apply_common` sets the name afterwards.
    """
    copied = Dataset()
    copied.update(dataset)
    replace_value(copied, "PatientName", "")
    return copied


def replace_value(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute in a new element; plain assignment would change the element in place, also
    for the dataset from which it was taken over."""
    if keyword in dataset:
        del dataset[keyword]
    setattr(dataset, keyword, value)


def apply_common(
    dataset: Dataset,
    context: OutputContext,
    kind: OutputKind,
    *,
    instance_number: int = 1,
) -> Dataset:
    """Fill what all outputs have in common, over whatever is there; returns the same dataset.

    Patient and study attributes are the current study's. Series and instance UIDs, series number
    and description, dates and times, equipment, contributing equipment (the source's scanner and
    the application itself) and, on images, derivation and comments are set. ``Modality`` and
    ``SOPClassUID`` are the caller's.
    """
    for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
        if keyword in dataset and keyword not in context.patient_and_study:
            del dataset[keyword]
    for element in context.patient_and_study:
        dataset.add(copy.copy(element))
    if "SpecificCharacterSet" in dataset and (
        "SpecificCharacterSet" not in context.patient_and_study
    ):
        del dataset.SpecificCharacterSet
    now = context.created_in_study_zone
    day, clock = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    if context.flair.headers[0].get("TimezoneOffsetFromUTC"):
        dataset.TimezoneOffsetFromUTC = context.flair.headers[0].TimezoneOffsetFromUTC
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = day, clock
    dataset.SeriesDate, dataset.SeriesTime = day, clock
    dataset.ContentDate, dataset.ContentTime = day, clock

    dataset.SeriesInstanceUID = context.series_uid(kind)
    dataset.SOPInstanceUID = context.instance_uid(kind, instance_number)
    dataset.SeriesNumber = context.series_number(kind)
    dataset.SeriesDescription = SERIES_DESCRIPTIONS[kind]
    dataset.InstanceNumber = instance_number
    file_meta = getattr(dataset, "file_meta", None)
    if file_meta is not None:
        file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)

    dataset.Manufacturer = version.MANUFACTURER
    dataset.ManufacturerModelName = version.NAME
    dataset.SoftwareVersions = software_versions(context)
    dataset.DeviceSerialNumber = device_serial_number(context)
    if context.settings.institution_name is not None:
        dataset.InstitutionName = context.text(context.settings.institution_name)
    elif "InstitutionName" in dataset:
        del dataset.InstitutionName
    dataset.ContributingEquipmentSequence = contributing_equipment(context)

    if kind in ("segmentation", "preview"):
        dataset.BodyPartExamined = "BRAIN"
        dataset.ImageComments = context.text(context.statement)
        dataset.DerivationDescription = derivation_description(context)
    return dataset


def software_versions(context: OutputContext) -> list[str]:
    """The application's version and the model's, for Software Versions."""
    return [version.VERSION, f"{context.model.name} {context.model.version}"[:64]]


def device_serial_number(context: OutputContext) -> str:
    """What tells two installations with different models apart: the start of the model's hash."""
    return context.model.sha256[:16]


def derivation_description(context: OutputContext) -> str:
    """How the pixels were made (at most 1024 characters, plain ASCII)."""
    text = (
        f"MS lesions segmented on FLAIR by {version.NAME} {version.VERSION} with model "
        f"{context.model.name} {context.model.version} (sha256 {context.model.sha256}, "
        f"{context.model.engine}, {context.model.precision}), threshold "
        f"{context.follow_up.probabilities.current.threshold:g}. {version.STATEMENT}"
    )
    return context.text(text)[:1024]


def contributing_equipment(context: OutputContext) -> list[Dataset]:
    """The scanner of the source images, as far as it is known, and this application."""
    items: list[Dataset] = []
    source = context.flair.headers[0]
    manufacturer = str(source.get("Manufacturer") or "").strip()
    if manufacturer:
        scanner = Dataset()
        scanner.Manufacturer = manufacturer[:64]
        for keyword in ("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
            if source.get(keyword):
                scanner.add(copy.deepcopy(source[keyword]))
        scanner.PurposeOfReferenceCodeSequence = [_code(codes.DCM.AcquisitionEquipment)]
        items.append(scanner)
    items.append(
        ContributingEquipment(
            manufacturer=version.MANUFACTURER,
            purpose_of_reference=codes.DCM.ProcessingEquipment,
            manufacturer_model_name=version.NAME,
            software_versions=software_versions(context),
            device_serial_number=device_serial_number(context),
            contribution_datetime=context.created_in_study_zone.replace(tzinfo=None, microsecond=0),
            contribution_description=context.text(context.statement)[:1024],
        )
    )
    return items


def _code(code: object) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value  # type: ignore[attr-defined]
    item.CodingSchemeDesignator = code.scheme_designator  # type: ignore[attr-defined]
    item.CodeMeaning = code.meaning  # type: ignore[attr-defined]
    return item


def encodable(text: str, character_set: str | Sequence[str] | None) -> str:
    """The text with every character that the DICOM character set lacks replaced by a likeness.

    A character outside the set is decomposed (``³`` to ``3``, ``é`` to ``e``), and becomes ``?`` if
    that does not help.
    """
    if not character_set:
        names: list[str] = [""]
    elif isinstance(character_set, str):
        names = [character_set]
    else:
        names = [str(name) for name in character_set]
    encodings = ["ascii" if name == "" else convert_encodings(name)[0] for name in names]
    encodings = ["ascii" if name == "iso8859" else name for name in encodings]

    def fits(character: str) -> bool:
        for encoding in encodings:
            try:
                character.encode(encoding)
            except (UnicodeEncodeError, LookupError):
                continue
            return True
        return False

    dashes = {"–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "…": "..."}
    result = []
    for character in text:
        if fits(character):
            result.append(character)
            continue
        plain = dashes.get(character) or unicodedata.normalize("NFKD", character)
        result.append("".join(part for part in plain if fits(part)) or "?")
    return "".join(result)


def save(dataset: Dataset, path: Path) -> Path:
    """Write a dataset as a DICOM file (explicit little endian unless its file meta says else)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = getattr(dataset, "file_meta", None)
    if meta is None:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)
    return path

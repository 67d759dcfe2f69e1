"""What the listener asks of the PACS: earlier studies, and to take the results."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset, dcmread
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from deploy.appliance.listener.settings import EarlierStudies, Node

logger = logging.getLogger(__name__)
PENDING = (0xFF00, 0xFF01)


class PacsError(Exception):
    """The PACS cannot be reached or refuses; worth another try."""


@dataclass(frozen=True)
class Found:
    """A study that the PACS holds."""

    study_uid: str
    date_time: str
    description: str
    modalities: frozenset[str]


def _associate(own: str, node: Node, contexts: Iterable[str]) -> Association:
    client = AE(ae_title=own)
    client.requested_contexts = [build_context(one) for one in contexts]
    association = client.associate(node.host, node.port, ae_title=node.ae_title)
    if not association.is_established:
        raise PacsError(f"no association with {node.ae_title}")
    return association


def choose(
    found: Iterable[Found], current: str, current_date_time: str, wanted: EarlierStudies
) -> list[Found]:
    """The earlier studies to collect: older than the current one, latest first."""
    pattern = re.compile(wanted.description or "", re.IGNORECASE)
    fitting = [
        one
        for one in found
        if one.study_uid != current
        and one.date_time
        and one.date_time <= current_date_time
        and (not one.modalities or wanted.modality in one.modalities)
        and pattern.search(one.description)
    ]
    fitting.sort(key=lambda one: (one.date_time, one.study_uid), reverse=True)
    return fitting[: wanted.maximum]


def find_studies(own: str, node: Node, patient_id: str, issuer: str) -> list[Found]:
    """Every study of a patient (C-FIND, Study Root; DICOM PS3.4 annex C).

    Raises
    ------
    PacsError
        If the PACS cannot be reached or does not answer to the end.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.PatientID = patient_id
    if issuer:
        query.IssuerOfPatientID = issuer
    for name in ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyDescription"):
        setattr(query, name, "")
    query.ModalitiesInStudy = ""
    association = _associate(own, node, [StudyRootQueryRetrieveInformationModelFind])
    found, last = [], None
    try:
        answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        for status, answer in answers:
            last = status.get("Status")
            # some archives ignore a key that they do not know: the patient is checked here too
            if last in PENDING and answer is not None and answer.get("PatientID") == patient_id:
                modalities = answer.get("ModalitiesInStudy") or ()
                names = [modalities] if isinstance(modalities, str) else list(modalities)
                found.append(
                    Found(
                        study_uid=str(answer.StudyInstanceUID),
                        date_time=f"{answer.get('StudyDate') or ''}{answer.get('StudyTime') or ''}",
                        description=str(answer.get("StudyDescription") or ""),
                        modalities=frozenset(map(str, names)),
                    )
                )
    finally:
        association.release()
    if last != 0x0000:
        raise PacsError(f"the query ended with status {last}")
    return found


def fetch_study(own: str, node: Node, study_uid: str) -> None:
    """Have the PACS send one study to this listener (C-MOVE).

    Raises
    ------
    PacsError
        If it is not sent whole.
    """
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    association = _associate(own, node, [StudyRootQueryRetrieveInformationModelMove])
    final = Dataset()
    try:
        answers = association.send_c_move(query, own, StudyRootQueryRetrieveInformationModelMove)
        for status, _ in answers:
            final = status
    finally:
        association.release()
    failed = final.get("NumberOfFailedSuboperations", 0)
    if final.get("Status") != 0x0000 or failed:
        raise PacsError(f"a move ended with status {final.get('Status')}, {failed} images failed")


def send_files(own: str, node: Node, files: Iterable[Path]) -> Iterable[Path]:
    """Send DICOM files; yields each one that the node has confirmed.

    Raises
    ------
    PacsError
        If the node cannot be reached or refuses a file; those before it are sent.
    """
    datasets = {path: dcmread(path) for path in files}
    if not datasets:
        return
    client = AE(ae_title=own)
    for dataset in datasets.values():
        client.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = client.associate(node.host, node.port, ae_title=node.ae_title)
    if not association.is_established:
        raise PacsError(f"no association with {node.ae_title}")
    try:
        for path, dataset in datasets.items():
            try:
                status = association.send_c_store(dataset).get("Status")
            except ValueError as error:
                raise PacsError(f"{node.ae_title} does not accept {path.name}") from error
            # 0xB000 and up are warnings: the object is stored (PS3.4 B.2.3)
            if status is None or (status != 0 and status >> 12 != 0xB):
                raise PacsError(f"{node.ae_title} refused {path.name} with status {status}")
            yield path
    finally:
        association.release()

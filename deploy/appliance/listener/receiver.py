"""The DICOM service: C-STORE and C-ECHO."""

from __future__ import annotations

import logging

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

from deploy.appliance.listener.settings import ListenerSettings
from deploy.appliance.listener.spool import Spool, patient_folder

logger = logging.getLogger(__name__)

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000


def store(event: Event, spool: Spool, settings: ListenerSettings) -> int:
    """Keep one image and say so only when it is on disk (DICOM PS3.4 annex B).

    An image that a C-MOVE of this listener brings is an earlier study's: it starts no job.

    Returns
    -------
    int
        DIMSE status: success, out of resources (the sender keeps the image and tries again), or
        cannot understand.
    """
    if spool.free_gb() < settings.reserve_gb:
        logger.error("image refused: less than %g GB of disk are free", settings.reserve_gb)
        return OUT_OF_RESOURCES
    try:
        dataset = event.dataset
        patient = patient_folder(
            str(dataset.get("PatientID", "") or ""),
            str(dataset.get("IssuerOfPatientID", "") or ""),
        )
        study = str(dataset.StudyInstanceUID)
        instance = str(event.request.AffectedSOPInstanceUID)
        content = event.encoded_dataset()
    except Exception as error:  # a broken data set fails in many ways inside the library
        logger.error("image refused: it cannot be decoded (%s)", type(error).__name__)
        return CANNOT_UNDERSTAND
    originator = str(event.request.MoveOriginatorApplicationEntityTitle or "").strip()
    try:
        spool.receive(content, patient, study, instance, pushed=originator != settings.ae_title)
    except ValueError as error:
        logger.error("image refused: %s", error)
        return CANNOT_UNDERSTAND
    except OSError as error:
        logger.error("image refused: it cannot be written (%s)", error.strerror)
        return OUT_OF_RESOURCES
    return SUCCESS


def start(spool: Spool, settings: ListenerSettings) -> ThreadedAssociationServer:
    """Listen in the background; call ``shutdown`` on what is returned."""
    node = AE(ae_title=settings.ae_title)
    node.require_called_aet = True
    node.require_calling_aet = list(settings.callers)
    node.maximum_associations = 20
    for context in AllStoragePresentationContexts:
        node.add_supported_context(context.abstract_syntax, AllTransferSyntaxes)
    node.add_supported_context(Verification)
    handlers = [(evt.EVT_C_STORE, store, [spool, settings])]
    server = node.start_server(
        (settings.bind, settings.port),
        block=False,
        evt_handlers=handlers,  # type: ignore[arg-type]
    )
    assert server is not None
    return server

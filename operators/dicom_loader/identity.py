"""Which studies belong to one patient, without showing who that is."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from operators.dicom_loader.headers import Header
from operators.messages import QualityNote


@dataclass(frozen=True)
class Patient:
    """What tells one patient from another; never shown."""

    identifier: str = field(repr=False)
    issuer: str = field(repr=False)
    birth_date: str = field(repr=False)
    name: str = field(repr=False)
    sex: str = field(repr=False)


def patient_of(header: Header) -> Patient:
    """The patient that a header names."""
    return Patient(
        identifier=header.decoded("PatientID") or "",
        issuer=header.decoded("IssuerOfPatientID") or "",
        birth_date=header.text("PatientBirthDate") or "",
        name=" ".join((header.decoded("PatientName") or "").replace("^", " ").split()),
        sex=header.text("PatientSex") or "",
    )


def patient_keys(patients: Sequence[Patient]) -> dict[Patient, str]:
    """A key for each set of patient attributes that is equal when they mean the same patient.

    The identifier decides, together with its issuer and the birth date where they are stated: an
    absent issuer or birth date agrees with the only stated one, two different ones mean two
    patients. Names are no part of it, since their spelling changes between visits; only without an
    identifier do name, birth date and sex stand in for it.
    """
    by_identifier: dict[str, list[Patient]] = defaultdict(list)
    for patient in patients:
        by_identifier[patient.identifier].append(patient)
    keys = {}
    for identifier, group in by_identifier.items():
        issuers = {patient.issuer for patient in group if patient.issuer}
        births = {patient.birth_date for patient in group if patient.birth_date}
        for patient in group:
            issuer = next(iter(issuers)) if len(issuers) == 1 else patient.issuer
            birth = next(iter(births)) if len(births) == 1 else patient.birth_date
            parts = [identifier, issuer, birth]
            if not identifier:
                parts = ["", patient.name.casefold(), birth, patient.sex]
            keys[patient] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return keys


def identity_notes(keys: Mapping[Patient, str]) -> list[QualityNote]:
    """A doubt where one identifier comes with names that share no word, or with two sexes."""
    by_key: dict[str, list[Patient]] = defaultdict(list)
    for patient, key in keys.items():
        by_key[key].append(patient)
    for group in by_key.values():
        sexes = {patient.sex.upper() for patient in group if patient.sex.upper() in ("F", "M")}
        names = [words for patient in group if (words := set(patient.name.casefold().split()))]
        strangers = any(not words & names[0] for words in names[1:])
        if len(sexes) > 1 or strangers:
            return [
                QualityNote(
                    "patient_attributes_differ",
                    "warning",
                    "Images with the same patient identifier differ in the patient's name or sex; "
                    "make sure that they belong to one patient.",
                )
            ]
    if any(not patient.identifier for patient in keys):
        return [
            QualityNote(
                "patient_identifier_missing",
                "warning",
                "At least one study has no patient identifier; that all studies belong to one "
                "patient rests on name, birth date and sex.",
            )
        ]
    return []

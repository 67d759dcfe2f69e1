"""Result objects that this application made of a study: segmentations and structured reports."""

from __future__ import annotations

from dataclasses import dataclass

import pydicom
from pydicom.errors import InvalidDicomError

from operators.messages import InstanceRef, QualityNote, Study
from operators.version import NAME

_TAGS = ["ManufacturerModelName", "ContentDate", "ContentTime"]


@dataclass(frozen=True)
class LesionObjects:
    """What a study holds of earlier results."""

    own: tuple[InstanceRef, ...]
    """SEG and SR objects that carry this application's name, newest first."""
    foreign: int
    """Segmentations by other programs."""
    unreadable: tuple[InstanceRef, ...]

    def segmentations(self, study: Study) -> tuple[InstanceRef, ...]:
        """The own SEG objects, newest first."""
        return tuple(reference for reference in self.own if reference in study.segmentations)


def find_lesion_objects(study: Study) -> LesionObjects:
    """The results of earlier runs in a study.

    The newest content date and time comes first. Reports by other programs are of no interest and
    are not counted.
    """
    own: list[tuple[str, InstanceRef]] = []
    unreadable: list[InstanceRef] = []
    foreign = 0
    for reference in (*study.segmentations, *study.structured_reports):
        try:
            header = pydicom.dcmread(reference.path, stop_before_pixels=True, specific_tags=_TAGS)
        except (OSError, InvalidDicomError):
            unreadable.append(reference)
            continue
        if header.get("ManufacturerModelName") == NAME:
            made = f"{header.get('ContentDate') or ''}{header.get('ContentTime') or ''}"
            own.append((made, reference))
        elif reference in study.segmentations:
            foreign += 1
    own.sort(key=lambda item: (item[0], item[1].sop_instance_uid), reverse=True)
    return LesionObjects(tuple(reference for _, reference in own), foreign, tuple(unreadable))


def remarks(objects: LesionObjects, study: str) -> list[QualityNote]:
    """Notes on the objects of a study that cannot be used; ``study`` is its name in them."""
    notes = []
    if objects.foreign:
        number = objects.foreign
        what = "segmentation object" if number == 1 else f"{number} segmentation objects"
        notes.append(
            QualityNote(
                "foreign_segmentation",
                "info",
                f"The {study} study holds {'a ' if number == 1 else ''}{what} of another program; "
                "lesion identities are not taken from it.",
            )
        )
    notes += [
        QualityNote(
            "lesion_object_unreadable",
            "warning",
            f"The result object {reference.sop_instance_uid} of the {study} study cannot be read; "
            "lesion identities are not taken from it.",
        )
        for reference in objects.unreadable
    ]
    return notes

"""Segmentations that this application made of earlier studies."""

from __future__ import annotations

from collections.abc import Sequence

import pydicom
from pydicom.errors import InvalidDicomError

from operators.errors import InputError
from operators.messages import InstanceRef, Study
from operators.version import NAME


def own_segmentations(studies: Sequence[Study]) -> tuple[InstanceRef, ...]:
    """SEG objects that carry this application's name, newest first.

    Parameters
    ----------
    studies
        The studies to look in, newest first. Within a study the segmentation with the latest
        content date and time comes first.

    Raises
    ------
    InputError
        If a segmentation cannot be read.
    """
    found: list[InstanceRef] = []
    for study in studies:
        dated = []
        for reference in study.segmentations:
            made = _made_by_this_application(reference)
            if made is not None:
                dated.append((made, reference))
        dated.sort(key=lambda item: (item[0], item[1].sop_instance_uid), reverse=True)
        found += [reference for _, reference in dated]
    return tuple(found)


def _made_by_this_application(reference: InstanceRef) -> str | None:
    tags = ["ManufacturerModelName", "ContentDate", "ContentTime"]
    try:
        header = pydicom.dcmread(reference.path, stop_before_pixels=True, specific_tags=tags)
    except (OSError, InvalidDicomError) as error:
        raise InputError(
            f"segmentation {reference.path.name}",
            "It cannot be read.",
            "Send the file again, or remove it from the input.",
        ) from error
    if header.get("ManufacturerModelName") != NAME:
        return None
    return f"{header.get('ContentDate') or ''}{header.get('ContentTime') or ''}"

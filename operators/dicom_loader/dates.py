"""When an image was acquired."""

from __future__ import annotations

from datetime import date

from operators.dicom_loader.headers import Header


def as_date(text: str | None) -> date | None:
    """A DICOM DA, or the date of a DT; None when absent or invalid."""
    digits = (text or "").replace(".", "").replace("-", "")[:8]
    if len(digits) != 8 or not digits.isdigit():
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None


def acquisition_date(header: Header) -> date | None:
    """When the image was acquired, from the closest statement that is there.

    Reconstruction (ContentDate) is not acquisition, and comes last.
    """
    for keyword in (
        *("AcquisitionDate", "AcquisitionDateTime", "StudyDate", "SeriesDate", "ContentDate"),
    ):
        found = as_date(header.text(keyword))
        if found is not None:
            return found
    return None

"""Settings of the writer, from the section ``dicom_writer`` of app.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from operators.dicom_writer.texts import DEFAULT_LANGUAGE, languages
from operators.settings import Settings


class DICOMWriterSettings(Settings):
    """What is written and under which numbers."""

    first_series_number: Annotated[int, Field(ge=1, le=2_000_000_000)] = 9001
    """Series numbers of SEG, SR, preview and PDF: this one and the next three; moved up by hundreds
    when the current study already uses one of them."""
    segmentation_type: Literal["BINARY", "LABELMAP"] = "BINARY"
    """LABELMAP (DICOM Supplement 243) is much smaller, but older viewers do not know it; nor do
    validators of today, which then refuse the report's references to its segments."""
    institution_name: str | None = None
    """Where the application runs; the source images' institution is never claimed for it."""
    language: str = DEFAULT_LANGUAGE
    """Language of the report and the preview: en or da. Another one needs a file
    ``texts_<language>.yaml`` beside those of the writer."""

    @field_validator("language")
    @classmethod
    def _has_texts(cls, value: str) -> str:
        if value not in languages():
            raise ValueError(f"there are texts in {' and '.join(languages())} only")
        return value

"""Whether two files hold the same image."""

from __future__ import annotations

import filecmp
from pathlib import Path

from pydicom import dcmread

from operators.dicom_loader.headers import PARSE_ERRORS

_COMPARED = (
    *("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime"),
    *("RescaleSlope", "RescaleIntercept", "PatientID", "NumberOfFrames"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)


def same_content(first: Path, second: Path) -> bool:
    """Whether two files hold the same image: byte for byte, or in pixels and geometry."""
    try:
        if filecmp.cmp(first, second, shallow=False):
            return True
        one, two = dcmread(first, force=True), dcmread(second, force=True)
        if any(one.get(keyword) != two.get(keyword) for keyword in _COMPARED):
            return False
        same_syntax = one.file_meta.get("TransferSyntaxUID") == two.file_meta.get(
            "TransferSyntaxUID"
        )
        if same_syntax or "PixelData" not in one or "PixelData" not in two:
            return bool(one.get("PixelData") == two.get("PixelData"))
        return bool((one.pixel_array == two.pixel_array).all())
    except (*PARSE_ERRORS, RuntimeError):
        return False

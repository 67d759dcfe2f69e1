"""One DICOM file's header: read without pixels, decoded only where it is asked for."""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from operators.dicom_loader.elements import (
    LONG_VRS,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    Elements,
    Encoding,
    NeedMoreError,
    UnknownEncodingError,
    find_elements,
    find_file_meta,
)

PARSE_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    NotImplementedError,
    EOFError,
    RecursionError,
    AssertionError,
    MemoryError,
    OSError,
    BytesLengthException,
    InvalidDicomError,
    struct.error,
    zlib.error,
)
"""What a damaged file makes the parser raise."""

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
MEDIA_DIRECTORY_REASON = "DICOMDIR"
_IMPLICIT_LITTLE = "1.2.840.10008.1.2"
_EXPLICIT_BIG = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PREFIX = b"DICM"
_FRAGMENT = b"\xfe\xff\x00\xe0"
_FIRST_READ_BYTES = 65536


def _tags(*keywords: str) -> tuple[int, ...]:
    tags = [tag_for_keyword(keyword) for keyword in keywords]
    if None in tags:
        raise ValueError(f"Unknown DICOM keyword among {keywords}")
    return tuple(tag for tag in tags if tag is not None)


SLICE_KEYWORDS = (
    "SOPInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "AcquisitionTime",
    "AcquisitionNumber",
    "TriggerTime",
    "DiffusionGradientOrientation",
    "RescaleSlope",
    "RescaleIntercept",
)
"""Attributes that may differ from slice to slice within a stack."""

SERIES_KEYWORDS = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "StudyDate",
    "SeriesDate",
    "AcquisitionDate",
    "ContentDate",
    "AcquisitionDateTime",
    "StudyTime",
    "Modality",
    "Manufacturer",
    "SeriesDescription",
    "ManufacturerModelName",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "ContrastBolusAgent",
    "ContrastBolusAgentSequence",
    "BodyPartExamined",
    "ScanningSequence",
    "SequenceVariant",
    "MRAcquisitionType",
    "SequenceName",
    "SliceThickness",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "EchoNumbers",
    "MagneticFieldStrength",
    "SpacingBetweenSlices",
    "EchoTrainLength",
    "ProtocolName",
    "ContrastBolusIngredient",
    "FlipAngle",
    "PulseSequenceName",
    "EchoPulseSequence",
    "EchoPlanarPulseSequence",
    "SteadyStatePulseSequence",
    "SegmentedKSpaceTraversal",
    "Spoiling",
    "DiffusionBValue",
    "ComplexImageComponent",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "ImagesInAcquisition",
    "ConcatenationUID",
    "InConcatenationTotalNumber",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""Attributes that are the same for all classic images of a stack, or that describe a whole file."""

PRIVATE_CREATORS = {
    0x00190010: "SIEMENS MR HEADER",
    0x00430010: "GEMS_PARM_01",
    0x20010010: "Philips Imaging DD 001",
}
SIEMENS_B_VALUE = 0x0019100C
GE_B_VALUE = 0x00431039
PHILIPS_B_VALUE = 0x20011003
_PRIVATE_TAGS = (*PRIVATE_CREATORS, SIEMENS_B_VALUE, GE_B_VALUE, PHILIPS_B_VALUE)

_SERIES_TAGS = (*_tags(*SERIES_KEYWORDS), *_PRIVATE_TAGS)
_ALL_TAGS = frozenset((*_tags(*SLICE_KEYWORDS), *_SERIES_TAGS))
_BINARY = {"US": "H", "SS": "h", "UL": "L", "SL": "l", "FL": "f", "FD": "d"}


@dataclass(frozen=True)
class Unreadable:
    """Why a file is left aside, and whether it looks like damaged DICOM rather than another file.

    Attributes
    ----------
    reason
        Short and free of patient data, such as "not DICOM".
    damaged
        True for a DICOM file that cannot be used because it is broken.
    series_uid
        The series that the broken file belongs to, where that much could be read.
    """

    reason: str
    damaged: bool = False
    series_uid: str | None = None


@dataclass
class Header:
    """The elements of one file that the loader looks at, as raw bytes until they are used.

    Attributes
    ----------
    path
        The file.
    little_endian
        Byte order of binary values.
    values
        Tag to value representation (None where the encoding does not state it) and raw value.
    truncated
        Whether the file ends before its last element or its pixel data does.
    """

    path: Path
    little_endian: bool
    values: dict[int, tuple[bytes | None, bytes]]
    truncated: bool = False

    @cached_property
    def dataset(self) -> Dataset:
        """The same elements as pydicom decodes them; reads the file again."""
        return dcmread(
            self.path, stop_before_pixels=True, force=True, specific_tags=list(_ALL_TAGS)
        )

    def __contains__(self, keyword: str) -> bool:
        return _TAG_OF[keyword] in self.values

    def text(self, keyword_or_tag: str | int) -> str | None:
        """The first value of a text element in its default encoding; None when absent or empty."""
        values = self.texts(keyword_or_tag)
        return values[0] if values and values[0] else None

    def texts(self, keyword_or_tag: str | int) -> tuple[str, ...]:
        """All values of a text element that needs no character set (CS, DS, IS, UI, DA, TM)."""
        _, value = self.values.get(_as_tag(keyword_or_tag), (None, b""))
        decoded = value.decode("latin-1").rstrip("\0 ")
        return tuple(part.strip() for part in decoded.split("\\")) if decoded else ()

    def number(self, keyword_or_tag: str | int) -> float | None:
        """The first value of a numeric text element (DS, IS); None when absent or no number."""
        values = self.numbers(keyword_or_tag)
        return values[0] if values else None

    def numbers(self, keyword_or_tag: str | int) -> tuple[float | None, ...]:
        """All values of a numeric text element (DS, IS); None stands for what is no number."""
        return tuple(as_number(part) for part in self.texts(keyword_or_tag))

    def binary(self, keyword_or_tag: str | int, vr: str) -> float | None:
        """The first value of a binary element (US, FL, FD, …), also when it is written as text."""
        stated, value = self.values.get(_as_tag(keyword_or_tag), (None, b""))
        name = stated.decode("latin-1") if stated else vr
        if name in ("DS", "IS"):
            return self.number(keyword_or_tag)
        code = ("<" if self.little_endian else ">") + _BINARY.get(name, _BINARY[vr])
        if len(value) < struct.calcsize(code):
            return None
        return as_number(struct.unpack_from(code, value)[0])

    def decoded(self, keyword: str) -> str | None:
        """The value of a text element in the file's character set; None when absent or empty."""
        if keyword not in self:
            return None
        try:
            value = self.dataset.get(keyword)
        except PARSE_ERRORS:
            return self.text(keyword)
        text = "" if value is None else str(value).strip("\0 ")
        return text or None

    def private(self, creator_tag: int, tag: int) -> bool:
        """Whether a private element is there and its block belongs to the expected creator."""
        return tag in self.values and self.text(creator_tag) == PRIVATE_CREATORS[creator_tag]

    def series_key(self) -> tuple[Any, ...]:
        """Equal for files whose series-level elements are byte for byte the same."""
        get = self.values.get
        return (self.little_endian, *[get(tag) for tag in _SERIES_TAGS])


def _as_tag(keyword_or_tag: str | int) -> int:
    if isinstance(keyword_or_tag, int):
        return keyword_or_tag
    return _TAG_OF[keyword_or_tag]


_TAG_OF = {k: t for k in (*SLICE_KEYWORDS, *SERIES_KEYWORDS) for t in _tags(k)}


def as_number(value: Any) -> float | None:
    """A finite float, or None when the value is absent, no number, infinite or not a number."""
    if value is None:
        return None
    try:
        number = float(value)
    except (ValueError, TypeError):
        return None
    return number if math.isfinite(number) else None


def _looks_like_dataset(start: bytes) -> bool:
    """Whether bytes without preamble begin with an element of group 0002 or 0008."""
    if len(start) < 8:
        return False
    vr = start[4:6]
    explicit = vr in LONG_VRS or vr in SHORT_VRS
    if start[:2] in (b"\x02\x00", b"\x08\x00"):
        length = int.from_bytes(start[6:8] if explicit else start[4:8], "little")
        return start[3] == 0 and length <= 1024
    return start[:2] == b"\x00\x08" and start[2] == 0 and explicit


def read_header(path: Path) -> Header | Unreadable:
    """Read the elements of one file that the loader needs, never its pixels.

    Files without preamble or without meta information are read too, in every encoding that
    PS3.5 defines. The file's name plays no part.

    Parameters
    ----------
    path
        Any file.

    Returns
    -------
    Header or Unreadable
        ``Header.truncated`` is set where the file ends before its pixel data does.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            data = stream.read(_FIRST_READ_BYTES)
            while True:
                try:
                    return _parse(path, data, size, stream)
                except NeedMoreError as error:
                    if len(data) >= size:
                        partial = Header(path, True, error.values, truncated=True)
                        series_uid = partial.text("SeriesInstanceUID")
                        return Unreadable("truncated", damaged=True, series_uid=series_uid)
                    stream.seek(0)
                    data = stream.read(min(size, 8 * len(data)))
    except OSError as error:
        return Unreadable(f"cannot be opened ({type(error).__name__})", damaged=True)


def _parse(path: Path, data: bytes, size: int, stream: BinaryIO) -> Header | Unreadable:
    """The header in a file's first bytes; NeedMoreError when they do not hold all of it."""
    if not data:
        return Unreadable("empty file")
    has_prefix = data[128:132] == _PREFIX
    if not has_prefix and not _looks_like_dataset(data):
        return Unreadable("not DICOM")
    try:
        meta, start = find_file_meta(data, 132 if has_prefix else 0)
        if _meta_text(meta, 0x00020002) == MEDIA_DIRECTORY:
            return Unreadable(MEDIA_DIRECTORY_REASON)
        encoding = _encoding(_meta_text(meta, 0x00020010), data[start : start + 6])
        found = find_elements(data, start, encoding, _ALL_TAGS)
        header = Header(path, encoding.little_endian, found.values)
        header.truncated = _pixels_cut_short(found, size, stream)
    except UnknownEncodingError:
        header_or_reason = _parse_with_pydicom(path)
        if isinstance(header_or_reason, Unreadable):
            return header_or_reason if has_prefix else Unreadable("not DICOM")
        header = header_or_reason
    if header.text("SOPClassUID") is None or header.text("SOPInstanceUID") is None:
        if not has_prefix:
            return Unreadable("not DICOM")
        return Unreadable("damaged (no SOP Class or Instance UID)", damaged=True)
    return header


def _meta_text(meta: dict[int, bytes], tag: int) -> str:
    return meta.get(tag, b"").decode("latin-1").strip("\0 ")


def _encoding(transfer_syntax: str, beginning: bytes) -> Encoding:
    """The encoding of the transfer syntax; without one, what the first element looks like."""
    if transfer_syntax == _DEFLATED:
        raise UnknownEncodingError
    if transfer_syntax:
        return Encoding(transfer_syntax == _IMPLICIT_LITTLE, transfer_syntax != _EXPLICIT_BIG)
    vr = beginning[4:6]
    explicit = vr in LONG_VRS or vr in SHORT_VRS
    return Encoding(not explicit, not (explicit and beginning[:1] == b"\0"))


def _pixels_cut_short(found: Elements, size: int, stream: BinaryIO) -> bool:
    """Whether the file ends inside its pixel data.

    Compressed pixel data are followed from fragment to fragment (PS3.5 A.4); a file that ends
    after a whole fragment without the closing delimiter is left to the decoder.
    """
    if found.pixel_length is None:
        return False
    at = found.pixel_start
    if found.pixel_length != UNDEFINED_LENGTH:
        return at + found.pixel_length > size
    while at + 8 <= size:
        stream.seek(at)
        item = stream.read(8)
        if item[:4] != _FRAGMENT:
            return False
        at += 8 + int.from_bytes(item[4:], "little")
    return at > size


def _parse_with_pydicom(path: Path) -> Header | Unreadable:
    """The header as pydicom reads it: deflated files and irregular encodings."""
    try:
        dataset = dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_ALL_TAGS))
        values: dict[int, tuple[bytes | None, bytes]] = {}
        for element in dataset.values():
            if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
                vr = element.VR.encode() if element.VR else None
                values[int(element.tag)] = (vr, element.value)
        little_endian = bool(dataset.original_encoding[1])
    except PARSE_ERRORS as error:
        return Unreadable(f"damaged ({type(error).__name__})", damaged=True)
    return Header(path, little_endian, values)


def class_name(uid: str) -> str:
    """The name of a SOP class, as "CT Image Storage"."""
    return str(UID(uid).name)

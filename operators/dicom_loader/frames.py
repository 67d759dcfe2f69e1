"""Frames: what a header says about each two-dimensional image in a file, classic or Enhanced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom import Dataset

from operators.dicom_loader.headers import (
    GE_B_VALUE,
    PARSE_ERRORS,
    PHILIPS_B_VALUE,
    SIEMENS_B_VALUE,
    Header,
    as_number,
)
from operators.messages import InstanceRef, SeriesAttributes

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED_MR_COLOR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.3"
LEGACY_CONVERTED_ENHANCED_MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4.4"
ENHANCED_CLASSES = frozenset(
    (ENHANCED_MR_IMAGE, ENHANCED_MR_COLOR_IMAGE, LEGACY_CONVERTED_ENHANCED_MR_IMAGE)
)
MR_CLASSES = ENHANCED_CLASSES | {MR_IMAGE}

_NO_AGENT = frozenset(("", "NONE", "NO", "N", "0", "N/A", "NA", "UNKNOWN", "NOT GIVEN"))
_GE_B_VALUE_MODULUS = 100_000
"""GE adds a multiple of 1e9 to the b-value in (0043,1039)."""


@dataclass(frozen=True)
class StackFacts:
    """What is the same for all frames of a stack, as stated by the headers (None when absent).

    Attributes
    ----------
    attributes
        Everything that selection rules use but the geometry, which needs all frames.
    orientation
        ImageOrientationPatient: row direction (x, y, z), column direction (x, y, z).
    pixel_spacing
        PixelSpacing: between rows, between columns, mm.
    slice_thickness, spacing_between_slices
        As stated, mm.
    multi_frame_uid
        SOP Instance UID of the file when it is a multi-frame image.
    frame_count
        Number of frames in the file.
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    attributes: SeriesAttributes
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    slice_thickness: float | None
    spacing_between_slices: float | None
    rows: int | None
    columns: int | None
    samples_per_pixel: int | None
    frame_of_reference_uid: str | None
    component: str | None = None
    echo_number: int | None = None
    temporal_index: int | None = None
    stack_id: str | None = None
    multi_frame_uid: str | None = None
    multi_frame_number: int | None = None
    frame_count: int = 1
    concatenated: bool = False
    images_in_acquisition: int | None = None


@dataclass(frozen=True)
class Frame:
    """One two-dimensional image.

    Attributes
    ----------
    number
        Its 1-based number in a multi-frame image, None in a classic one.
    position
        ImagePositionPatient, mm.
    """

    instance: InstanceRef
    facts: StackFacts
    number: int | None
    position: tuple[float, float, float] | None
    instance_number: int | None = None
    acquisition_number: int | None = None
    trigger_time: float | None = None
    acquisition_time: str | None = None
    gradient: tuple[float, ...] | None = None


def instance_of(header: Header) -> InstanceRef:
    """The reference to a file."""
    return InstanceRef(
        header.path, header.text("SOPInstanceUID") or "", header.text("SOPClassUID") or ""
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _positive(value: float | None) -> float | None:
    """None for zero, which vendors write where a time does not apply."""
    return value if value is not None and value > 0 else None


def _agent(*candidates: str | None) -> str | None:
    for candidate in candidates:
        if candidate is not None and candidate.strip().upper() not in _NO_AGENT:
            return candidate.strip()
    return None


def _all_numbers(values: Sequence[float | None], count: int) -> tuple[float, ...] | None:
    present = tuple(value for value in values if value is not None)
    return present if len(values) == count == len(present) else None


def _agent_in_sequence(dataset: Dataset) -> str | None:
    items = _get(dataset, "ContrastBolusAgentSequence") or ()
    return _agent(*[_as_text(_get(item, "CodeMeaning")) for item in items])


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


# --- classic ----------------------------------------------------------------------------------


def classic_b_value(header: Header) -> float | None:
    """The b-value in s/mm², from the standard's attribute or the vendor's private one."""
    standard = header.binary("DiffusionBValue", "FD")
    if standard is not None:
        return standard
    if header.private(0x00190010, SIEMENS_B_VALUE):
        return header.number(SIEMENS_B_VALUE)
    if header.private(0x20010010, PHILIPS_B_VALUE):
        return header.binary(PHILIPS_B_VALUE, "FL")
    if header.private(0x00430010, GE_B_VALUE):
        value = header.number(GE_B_VALUE)
        return None if value is None else value % _GE_B_VALUE_MODULUS
    return None


def classic_facts(header: Header) -> StackFacts:
    """The facts of a classic image that hold for its whole stack."""
    number, text, texts = header.number, header.text, header.texts
    rows, columns = header.binary("Rows", "US"), header.binary("Columns", "US")
    in_sequence = (
        _agent_in_sequence(header.dataset) if "ContrastBolusAgentSequence" in header else None
    )
    spacing = _all_numbers(header.numbers("PixelSpacing"), 2)
    temporal = number("TemporalPositionIdentifier")
    attributes = SeriesAttributes(
        modality=text("Modality") or "",
        manufacturer=header.decoded("Manufacturer"),
        manufacturer_model_name=header.decoded("ManufacturerModelName"),
        magnetic_field_strength_t=_positive(number("MagneticFieldStrength")),
        image_type=texts("ImageType"),
        series_number=_whole(number("SeriesNumber")),
        series_description=header.decoded("SeriesDescription"),
        protocol_name=header.decoded("ProtocolName"),
        sequence_name=header.decoded("SequenceName") or header.decoded("PulseSequenceName"),
        scanning_sequence=texts("ScanningSequence"),
        sequence_variant=texts("SequenceVariant"),
        mr_acquisition_type=text("MRAcquisitionType"),
        echo_time_ms=_positive(number("EchoTime")),
        repetition_time_ms=_positive(number("RepetitionTime")),
        inversion_time_ms=_positive(number("InversionTime")),
        flip_angle_deg=number("FlipAngle"),
        echo_train_length=_whole(number("EchoTrainLength")),
        b_value=classic_b_value(header),
        contrast_agent=_agent(
            header.decoded("ContrastBolusAgent"), in_sequence, text("ContrastBolusIngredient")
        ),
        body_part_examined=text("BodyPartExamined"),
        enhanced=False,
        rows=_whole(rows),
        columns=_whole(columns),
    )
    return StackFacts(
        study_uid=text("StudyInstanceUID") or "",
        series_uid=text("SeriesInstanceUID") or "",
        sop_class_uid=text("SOPClassUID") or "",
        attributes=attributes,
        orientation=_all_numbers(header.numbers("ImageOrientationPatient"), 6),
        pixel_spacing=None if spacing is None else (spacing[0], spacing[1]),
        slice_thickness=number("SliceThickness"),
        spacing_between_slices=number("SpacingBetweenSlices"),
        rows=_whole(rows),
        columns=_whole(columns),
        samples_per_pixel=_whole(header.binary("SamplesPerPixel", "US")),
        frame_of_reference_uid=text("FrameOfReferenceUID"),
        component=text("ComplexImageComponent"),
        echo_number=_whole(number("EchoNumbers")),
        temporal_index=_whole(temporal),
        images_in_acquisition=_whole(number("ImagesInAcquisition")),
    )


def classic_frame(header: Header, facts: StackFacts) -> Frame:
    """The one frame of a classic image."""
    position = _all_numbers(header.numbers("ImagePositionPatient"), 3)
    gradient = header.values.get(0x00189089)
    return Frame(
        instance=instance_of(header),
        facts=facts,
        number=None,
        position=None if position is None else (position[0], position[1], position[2]),
        instance_number=_whole(header.number("InstanceNumber")),
        acquisition_number=_whole(header.number("AcquisitionNumber")),
        trigger_time=header.number("TriggerTime"),
        acquisition_time=header.text("AcquisitionTime"),
        gradient=None if gradient is None else tuple(gradient[1]),
    )


# --- enhanced ---------------------------------------------------------------------------------


def _get(dataset: Dataset | None, keyword: str) -> Any:
    """The value of an attribute; None when absent, empty or not decodable."""
    if dataset is None:
        return None
    try:
        value = dataset.get(keyword)
    except PARSE_ERRORS:
        return None
    return None if value is None or (isinstance(value, str) and not value.strip()) else value


def _item(dataset: Dataset | None, sequence: str) -> Dataset | None:
    items = _get(dataset, sequence)
    return items[0] if items else None


def _list(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


def _first_number(value: Any) -> float | None:
    values = _list(value)
    return as_number(values[0]) if values else None


class FunctionalGroups:
    """The functional groups that apply to one frame (PS3.3 C.7.6.16): its own before the shared.

    Parameters
    ----------
    image
        The multi-frame image.
    frame
        The frame's item of PerFrameFunctionalGroupsSequence; None where the image has none.
    """

    def __init__(self, image: Dataset, frame: Dataset | None) -> None:
        self.image = image
        self.frame = frame
        self.shared = _item(image, "SharedFunctionalGroupsSequence")

    def get(self, macro: str, keyword: str) -> Any:
        """An attribute of a functional group macro."""
        for groups in (self.frame, self.shared):
            value = _get(_item(groups, macro), keyword)
            if value is not None:
                return value
        return None

    def converted(self, keyword: str) -> Any:
        """An attribute where a legacy converted image, or a lenient writer, has it."""
        for groups, sequence in (
            (self.frame, "UnassignedPerFrameConvertedAttributesSequence"),
            (self.shared, "UnassignedSharedConvertedAttributesSequence"),
        ):
            value = _get(_item(groups, sequence), keyword)
            if value is not None:
                return value
        return _get(self.image, keyword)

    def find(self, macro: str, keyword: str, classic_keyword: str | None = None) -> Any:
        """An attribute of a macro, or else its counterpart outside the macros."""
        value = self.get(macro, keyword)
        return value if value is not None else self.converted(classic_keyword or keyword)


def _enhanced_scanning_sequence(groups: FunctionalGroups) -> tuple[str, ...]:
    """ScanningSequence's terms (PS3.3 C.8.3.1.1.3) from what Enhanced MR says instead."""
    classic = _list(groups.converted("ScanningSequence"))
    if classic:
        return tuple(str(term) for term in classic)
    terms = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("SE", "GR")}.get(
        str(_get(groups.image, "EchoPulseSequence")), ()
    )
    if groups.get("MRModifierSequence", "InversionRecovery") == "YES":
        terms = (*terms, "IR")
    if _get(groups.image, "EchoPlanarPulseSequence") == "YES":
        terms = (*terms, "EP")
    return terms


def _enhanced_sequence_variant(groups: FunctionalGroups) -> tuple[str, ...]:
    """SequenceVariant's terms (PS3.3 C.8.3.1.1.4) from what Enhanced MR says instead."""
    classic = _list(groups.converted("SequenceVariant"))
    if classic:
        return tuple(str(term) for term in classic)
    terms = []
    if str(_get(groups.image, "SegmentedKSpaceTraversal")) in ("FULL", "PARTIAL"):
        terms.append("SK")
    if str(_get(groups.image, "SteadyStatePulseSequence")) not in ("None", "NONE"):
        terms.append("SS")
    if str(groups.find("MRModifierSequence", "Spoiling")) not in ("None", "NONE"):
        terms.append("SP")
    scanning = _enhanced_scanning_sequence(groups)
    if "IR" in scanning and "GR" in scanning:
        terms.append("MP")
    return tuple(terms)


def _enhanced_agent(groups: FunctionalGroups) -> str | None:
    usage = _get(groups.frame, "ContrastBolusUsageSequence") or _get(
        groups.shared, "ContrastBolusUsageSequence"
    )
    if usage and all(_get(item, "ContrastBolusAgentAdministered") == "NO" for item in usage):
        return None
    return _agent(
        _as_text(groups.converted("ContrastBolusAgent")),
        _agent_in_sequence(groups.image),
        _as_text(groups.converted("ContrastBolusIngredient")),
    )


def _enhanced_attributes(groups: FunctionalGroups) -> SeriesAttributes:
    image = groups.image
    frame_type = _list(groups.find("MRImageFrameTypeSequence", "FrameType", "ImageType"))
    trains = [
        as_number(groups.find("MRTimingAndRelatedParametersSequence", keyword))
        for keyword in ("EchoTrainLength", "RFEchoTrainLength", "GradientEchoTrainLength")
    ]
    lengths = [length for length in trains if length is not None]
    inversion = groups.get("MRModifierSequence", "InversionTimes")
    if inversion is None:
        inversion = groups.find("MRModifierSequence", "InversionTime")
    return SeriesAttributes(
        modality=str(_get(image, "Modality") or ""),
        manufacturer=_as_text(_get(image, "Manufacturer")),
        manufacturer_model_name=_as_text(_get(image, "ManufacturerModelName")),
        magnetic_field_strength_t=_positive(as_number(groups.converted("MagneticFieldStrength"))),
        image_type=tuple(str(term) for term in frame_type),
        series_number=_whole(as_number(_get(image, "SeriesNumber"))),
        series_description=_as_text(_get(image, "SeriesDescription")),
        protocol_name=_as_text(groups.converted("ProtocolName")),
        sequence_name=_as_text(
            _get(image, "PulseSequenceName") or groups.converted("SequenceName")
        ),
        scanning_sequence=_enhanced_scanning_sequence(groups),
        sequence_variant=_enhanced_sequence_variant(groups),
        mr_acquisition_type=_as_text(groups.converted("MRAcquisitionType")),
        echo_time_ms=_positive(
            as_number(groups.find("MREchoSequence", "EffectiveEchoTime", "EchoTime"))
        ),
        repetition_time_ms=_positive(
            as_number(groups.find("MRTimingAndRelatedParametersSequence", "RepetitionTime"))
        ),
        inversion_time_ms=_positive(_first_number(inversion)),
        flip_angle_deg=as_number(groups.find("MRTimingAndRelatedParametersSequence", "FlipAngle")),
        echo_train_length=_whole(max(lengths)) if lengths else None,
        b_value=as_number(groups.find("MRDiffusionSequence", "DiffusionBValue")),
        contrast_agent=_enhanced_agent(groups),
        body_part_examined=_as_text(groups.converted("BodyPartExamined")),
        enhanced=True,
        rows=_whole(as_number(_get(image, "Rows"))),
        columns=_whole(as_number(_get(image, "Columns"))),
    )


def _gradient(groups: FunctionalGroups) -> tuple[float, ...] | None:
    for group in (groups.frame, groups.shared):
        direction = _item(_item(group, "MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
        values = _list(_get(direction, "DiffusionGradientOrientation"))
        if values:
            return tuple(float(value) for value in values)
    return None


def _enhanced_facts(groups: FunctionalGroups, frame_count: int) -> StackFacts:
    image = groups.image
    orientation = _list(groups.find("PlaneOrientationSequence", "ImageOrientationPatient"))
    spacing = _list(groups.find("PixelMeasuresSequence", "PixelSpacing"))
    numbers = _all_numbers([as_number(value) for value in spacing], 2)
    attributes = _enhanced_attributes(groups)
    return StackFacts(
        study_uid=str(_get(image, "StudyInstanceUID") or ""),
        series_uid=str(_get(image, "SeriesInstanceUID") or ""),
        sop_class_uid=str(_get(image, "SOPClassUID") or ""),
        attributes=attributes,
        orientation=_all_numbers([as_number(value) for value in orientation], 6),
        pixel_spacing=None if numbers is None else (numbers[0], numbers[1]),
        slice_thickness=as_number(groups.find("PixelMeasuresSequence", "SliceThickness")),
        spacing_between_slices=as_number(
            groups.find("PixelMeasuresSequence", "SpacingBetweenSlices")
        ),
        rows=attributes.rows,
        columns=attributes.columns,
        samples_per_pixel=_whole(as_number(_get(image, "SamplesPerPixel"))),
        frame_of_reference_uid=_as_text(_get(image, "FrameOfReferenceUID")),
        component=_as_text(groups.find("MRImageFrameTypeSequence", "ComplexImageComponent")),
        echo_number=_whole(as_number(groups.converted("EchoNumbers"))),
        temporal_index=_whole(
            as_number(
                groups.find(
                    "FrameContentSequence", "TemporalPositionIndex", "TemporalPositionIdentifier"
                )
            )
        ),
        stack_id=_as_text(groups.get("FrameContentSequence", "StackID")),
        multi_frame_uid=str(_get(image, "SOPInstanceUID") or ""),
        multi_frame_number=_whole(as_number(_get(image, "InstanceNumber"))),
        frame_count=frame_count,
        concatenated=(as_number(_get(image, "InConcatenationTotalNumber")) or 1) > 1,
    )


def enhanced_frames(header: Header) -> list[Frame]:
    """The frames of a multi-frame image, in file order.

    Where the image states more frames than it describes, one frame without position stands for
    the others, so that the geometry check names what is missing.
    """
    image = header.dataset
    instance = instance_of(header)
    items = list(_get(image, "PerFrameFunctionalGroupsSequence") or ())
    count = _whole(as_number(_get(image, "NumberOfFrames"))) or len(items) or 1
    known: dict[StackFacts, StackFacts] = {}
    frames = []
    described: list[Dataset | None] = [*items]
    if count > len(items):
        described.append(None)
    for index, item in enumerate(described):
        groups = FunctionalGroups(image, item)
        facts = _enhanced_facts(groups, count)
        facts = known.setdefault(facts, facts)
        stated = _list(groups.get("PlanePositionSequence", "ImagePositionPatient"))
        position = _all_numbers([as_number(value) for value in stated], 3)
        frames.append(
            Frame(
                instance=instance,
                facts=facts,
                number=index + 1,
                position=None if position is None else (position[0], position[1], position[2]),
                acquisition_number=_whole(
                    as_number(groups.get("FrameContentSequence", "FrameAcquisitionNumber"))
                ),
                gradient=_gradient(groups),
            )
        )
    return frames

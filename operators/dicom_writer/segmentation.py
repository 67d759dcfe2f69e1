"""The lesions as a DICOM Segmentation (PS3.3 A.51), one segment each, on the FLAIR's grid."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from operators import version
from operators.dicom_writer import codes
from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.common import (
    PATIENT_KEYWORDS,
    STUDY_KEYWORDS,
    OutputContext,
    apply_common,
    nameless,
    replace_value,
)
from operators.messages import FOUND_BY_COMPARISON, Lesion, SelectedSeries

CONTENT_LABEL = "MS_LESIONS"
EMPTY_LABEL = "No lesion found"


def build_segmentation(context: OutputContext) -> Segmentation:
    """Make the Segmentation object of a follow-up.

    Every lesion that is present has its own segment under its ``segment_number``, with its tracking
    identifiers; a resolved lesion has none. Frames without a lesion are left out. When no lesion is
    present the object has one segment "No lesion found" without tracking identifiers and with every
    frame, all of them empty: a Segmentation must have a segment and a frame, and all frames say
    that the whole volume was examined.

    Parameters
    ----------
    context
        The run to write; ``context.settings.segmentation_type`` chooses BINARY or LABELMAP.

    Returns
    -------
    highdicom.seg.Segmentation
        In the current study, in the FLAIR's frame of reference, with references to the FLAIR's
        instances (for a multi-frame source to its frames). Frames lie at the FLAIR's own plane
        positions.

    Raises
    ------
    ValueError
        If labels, lesions and FLAIR do not belong together.
    """
    follow_up, flair = context.follow_up, context.flair
    present = [lesion for lesion in follow_up.lesions if lesion.segment_number is not None]
    _check(follow_up.labels, flair, present)
    source, frame_numbers = reference_headers(context)
    labelmap = context.settings.segmentation_type == "LABELMAP"
    labels = np.ascontiguousarray(follow_up.labels.array)
    algorithm = _algorithm(context)
    descriptions = [_describe(lesion, algorithm, context) for lesion in present]
    if not descriptions:
        descriptions = [
            SegmentDescription(
                segment_number=1,
                segment_label=EMPTY_LABEL,
                segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL,
                segmented_property_type=codes.LESION_OF_BRAIN,
                algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
                algorithm_identification=algorithm,
                anatomic_regions=[codes.BRAIN],
            )
        ]
    segmentation = Segmentation(
        source_images=source,
        pixel_array=labels,
        segmentation_type=context.settings.segmentation_type,
        segment_descriptions=descriptions,
        series_instance_uid=context.series_uid("segmentation"),
        series_number=context.series_number("segmentation"),
        sop_instance_uid=context.instance_uid("segmentation"),
        instance_number=1,
        manufacturer=version.MANUFACTURER,
        manufacturer_model_name=version.NAME,
        software_versions=version.VERSION,
        device_serial_number=context.model.sha256[:16],
        content_label=CONTENT_LABEL,
        content_description=version.STATEMENT,
        omit_empty_frames=bool(present),
        transfer_syntax_uid=RLELossless if labelmap else ExplicitVRLittleEndian,
        coding_schemes=[codes.private_scheme()],
    )
    if frame_numbers is not None:
        _restore_frame_numbers(segmentation, frame_numbers)
    apply_common(segmentation, context, "segmentation")
    return segmentation


def _check(labels: hd.Volume, flair: SelectedSeries, present: Sequence[Lesion]) -> None:
    if labels.spatial_shape != flair.volume.spatial_shape or not np.allclose(
        labels.affine, flair.volume.affine, atol=1e-4
    ):
        raise ValueError("the label volume is not on the current FLAIR's grid")
    numbers = [lesion.segment_number for lesion in present]
    if numbers != list(range(1, len(present) + 1)):
        raise ValueError("segment numbers must run from 1 in the order of the lesions")
    found = np.unique(labels.array)
    if found[found > 0].tolist() != numbers:
        raise ValueError("the label volume and the lesions name different segments")


def _algorithm(context: OutputContext) -> hd.AlgorithmIdentificationSequence:
    model = context.model
    return hd.AlgorithmIdentificationSequence(
        name=version.NAME,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=version.VERSION,
        source=version.MANUFACTURER,
        parameters={
            "model": model.name,
            "model version": model.version,
            "sha256": model.sha256,
            "engine": model.engine,
            "precision": model.precision,
            "threshold": f"{context.follow_up.probabilities.current.threshold:g}",
        },
    )


def _describe(
    lesion: Lesion, algorithm: hd.AlgorithmIdentificationSequence, context: OutputContext
) -> SegmentDescription:
    if lesion.segment_number is None:
        raise ValueError("a resolved lesion has no segment")
    description = SegmentDescription(
        segment_number=lesion.segment_number,
        segment_label=context.text(lesion.tracking_id)[:64],
        segmented_property_category=codes.MORPHOLOGICALLY_ABNORMAL,
        segmented_property_type=codes.LESION_OF_BRAIN,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=lesion.tracking_uid,
        tracking_id=context.text(lesion.tracking_id),
        anatomic_regions=[codes.REGION_SITES[lesion.region]],
        display_color=CIELabColor.from_rgb(*CHANGE_COLOURS[lesion.change]),
    )
    modifier = codes.REGION_MODIFIERS[lesion.region]
    if modifier is not None:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [
            hd.sr.CodedConcept.from_code(modifier)
        ]
    facts = [lesion.change, lesion.region.replace("_", " "), f"{lesion.volume_ml:.3f} ml"]
    if lesion.found_by == "comparison":
        facts.append(FOUND_BY_COMPARISON)
    description.SegmentDescription = ", ".join(facts)
    return description


def reference_headers(context: OutputContext) -> tuple[list[Dataset], tuple[int, ...] | None]:
    """Headers of the current FLAIR as highdicom takes them for the source of a derived image.

    Real headers vary: an attribute that must be present is missing, the orientation differs in the
    last digit from slice to slice, Spacing Between Slices is wrong or absent, a multi-frame image
    holds other stacks as well or gives the orientation with every frame. The copies returned have
    one orientation, the volume's slice spacing, the context's patient and study attributes, and
    only the FLAIR's own frames. Nothing else is changed, and the originals are not touched.

    Returns
    -------
    list of pydicom.Dataset
        One per slice in the volume's order, or one multi-frame header with frames in that order.
    tuple of int or None
        The original 1-based number of each frame of a multi-frame header.

    Raises
    ------
    ValueError
        If a slice of the volume has no image at its position.
    """
    flair = context.flair
    volume = flair.volume

    def prepare(header: Dataset) -> Dataset:
        copied = nameless(header)
        for keyword in (*PATIENT_KEYWORDS, *STUDY_KEYWORDS):
            if keyword != "PatientName" and keyword in copied:
                del copied[keyword]
            if keyword != "PatientName" and keyword in context.patient_and_study:
                copied.add(context.patient_and_study[keyword])
        replace_value(copied, "FrameOfReferenceUID", context.frame_of_reference_uid)
        if not copied.get("PositionReferenceIndicator"):
            replace_value(copied, "PositionReferenceIndicator", "")
        return copied

    if len(flair.headers) == 1 and "PerFrameFunctionalGroupsSequence" in flair.headers[0]:
        return _multiframe_reference(prepare(flair.headers[0]), flair)

    if len(flair.headers) != volume.spatial_shape[0]:
        raise ValueError(f"{flair.series.label}: the volume and its headers differ in number")
    orientation = flair.headers[0].ImageOrientationPatient
    copies = []
    for index, header in enumerate(flair.headers):
        _check_plane(header.ImagePositionPatient, volume, index)
        copied = prepare(header)
        replace_value(copied, "ImageOrientationPatient", orientation)
        replace_value(copied, "PixelSpacing", flair.headers[0].PixelSpacing)
        _state_spacing(copied, volume)
        copies.append(copied)
    return copies, None


def _state_spacing(dataset: Dataset, volume: hd.Volume) -> None:
    spacing = f"{volume.spacing[0]:.10f}"[:14].rstrip("0").rstrip(".")
    replace_value(dataset, "SpacingBetweenSlices", spacing)
    if not dataset.get("SliceThickness"):
        replace_value(dataset, "SliceThickness", spacing)


def _check_plane(position: Sequence[float], volume: hd.Volume, index: int) -> None:
    expected = volume.affine[:3, 3] + index * volume.affine[:3, 0]
    away = float(np.linalg.norm(np.asarray(position, dtype=float) - expected))
    if away > 0.5 * float(volume.spacing[0]):
        raise ValueError(f"slice {index} of the FLAIR volume has no image at its position")


def _group(dataset: Dataset, frame: int, keyword: str) -> Dataset:
    """The item of a functional group of a frame (0-based), be it per frame or shared."""
    own = dataset.PerFrameFunctionalGroupsSequence[frame]
    groups = own if keyword in own else dataset.SharedFunctionalGroupsSequence[0]
    item: Dataset = groups[keyword].value[0]
    return item


def _multiframe_reference(
    header: Dataset, flair: SelectedSeries
) -> tuple[list[Dataset], tuple[int, ...]]:
    volume = flair.volume
    wanted = flair.series.frame_numbers or tuple(range(1, int(header.NumberOfFrames) + 1))
    if len(wanted) != volume.spatial_shape[0]:
        raise ValueError(f"{flair.series.label}: the volume and its frames differ in number")
    positions = np.array(
        [
            _group(header, number - 1, "PlanePositionSequence").ImagePositionPatient
            for number in wanted
        ],
        dtype=float,
    )
    along = (positions - volume.affine[:3, 3]) @ (
        volume.affine[:3, 0] / float(volume.spacing[0]) ** 2
    )
    ordered = tuple(wanted[place] for place in np.argsort(along))

    frames = []
    for index, number in enumerate(ordered):
        plane = _group(header, number - 1, "PlanePositionSequence")
        _check_plane(plane.ImagePositionPatient, volume, index)
        frame = Dataset()
        frame.PlanePositionSequence = DicomSequence([plane])
        frames.append(frame)
    shared = Dataset()
    first = ordered[0] - 1
    shared.PlaneOrientationSequence = DicomSequence(
        [_group(header, first, "PlaneOrientationSequence")]
    )
    measures = Dataset()
    measures.update(_group(header, first, "PixelMeasuresSequence"))
    _state_spacing(measures, volume)
    shared.PixelMeasuresSequence = DicomSequence([measures])
    replace_value(header, "SharedFunctionalGroupsSequence", DicomSequence([shared]))
    replace_value(header, "PerFrameFunctionalGroupsSequence", DicomSequence(frames))
    replace_value(header, "NumberOfFrames", len(frames))
    return [header], ordered


def _restore_frame_numbers(segmentation: Segmentation, frame_numbers: Sequence[int]) -> None:
    """Let references name the frames of the real source instead of those of the reduced header."""
    restored: set[int] = set()  # frames of one plane may share the item of their source
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence", []):
            for image in derivation.SourceImageSequence:
                if id(image) not in restored:
                    restored.add(id(image))
                    number = int(image.ReferencedFrameNumber)
                    image.ReferencedFrameNumber = frame_numbers[number - 1]

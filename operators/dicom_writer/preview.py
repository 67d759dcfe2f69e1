"""The preview: FLAIR slices with lesion contours, as a Secondary Capture series.

With an earlier study each picture has two panes of the same place: the prior study on the left, the
current one on the right, in whose geometry both are shown. A new lesion has an arrow and the word
in the current pane and a ring in the prior one; a resolved one is dashed; so nothing is told by
colour alone.

One single-frame Secondary Capture Image per slice (PS3.3 A.8.1) rather than one multi-frame object,
because every archive and viewer scrolls it. Patient orientation, position and pixel spacing are
stated for the pane of the current study, so that viewers can cross-reference it with the FLAIR.

Pixels are RLE compressed: lossless, read by every DICOM toolkit without an extra codec, and half
the size of uncompressed pixels (JPEG 2000 would be a tenth, but some archives cannot show it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from highdicom.frame import encode_frame
from PIL import Image, ImageDraw
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import UID, RLELossless, SecondaryCaptureImageStorage

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.common import OutputContext, apply_common, save
from operators.dicom_writer.rendering import (
    BY_IMPORTANCE,
    DASHED,
    Callout,
    Field,
    Outline,
    Scene,
    build_scene,
    draw_arrow,
    draw_outline,
    draw_ring,
    draw_text,
    font,
    lesion_names,
    place_callouts,
)
from operators.dicom_writer.texts import texts
from operators.messages import Change
from operators.version import STATEMENT

PICTURE_PX = 576
HEADER_PX = 28
LINE_PX = 19
MARGIN_MM = 14.0
"""Shown around the brain."""

RING_GAP_PX = 9.0
"""Between a new lesion's place in the prior study and the ring around it."""

_SIGNS: Mapping[Change, str] = {"enlarging": " ▲", "shrinking": " ▼"}
_GREY = (170, 170, 170)


@dataclass(frozen=True)
class PreviewImage:
    """One picture of the preview.

    Parameters
    ----------
    slice_index
        Slice of the scene.
    pixels
        uint8 (rows, columns, 3), RGB.
    """

    slice_index: int
    pixels: np.ndarray


def write_preview(folder: Path, context: OutputContext) -> list[Path]:
    """Write the preview series, one file per slice that holds brain or a lesion.

    Parameters
    ----------
    folder
        Where ``preview_001.dcm`` and the following ones go.
    context
        What to show, and the identifiers of the outputs.

    Returns
    -------
    list of pathlib.Path
        In slice order: from feet to head, from right to left or from front to back.
    """
    scene = build_scene(context.follow_up)
    field = scene.brain_field(PICTURE_PX, MARGIN_MM)
    paths = []
    for number, image in enumerate(preview_images(context, scene, field), start=1):
        dataset = _instance(context, scene, field, image, number)
        paths.append(save(dataset, folder / f"preview_{number:03d}.dcm"))
    return paths


def preview_images(context: OutputContext, scene: Scene, field: Field) -> Iterator[PreviewImage]:
    """The pictures of the preview, in slice order; the field starts below the header line."""
    names = lesion_names(scene.lesions)
    peaks = {lesion.tracking_uid: scene.largest_slice(lesion) for lesion in scene.lesions}
    marks = _slice_marks(scene)
    title = _title(context)
    language = context.settings.language
    width = panes(scene) * field.size
    legend = _legend_lines(scene, width, language)
    footer_px = LINE_PX * (len(legend) + 1) + 6
    headers = context.flair.headers
    for slice_index in scene.shown_slices:
        canvas = Image.new("RGB", (width, HEADER_PX + field.size + footer_px))
        picture = scene.picture(slice_index, field)
        outlines = scene.outlines(slice_index)
        for outline in outlines:
            for line in outline.lines:
                pixels = field.pixels_of(line, scene.in_plane_spacing)
                draw_outline(picture, pixels, outline.lesion.change)
        for callout in place_callouts(scene, field, outlines):
            lesion = callout.outline.lesion
            important = lesion.change in ("new", "enlarging", "resolved")
            if important or peaks[lesion.tracking_uid] == slice_index:
                _label(picture, callout, names[lesion.tracking_uid], language)
        _letters(picture, scene)
        _navigator(picture, scene, marks, slice_index)
        if scene.prior_flair is not None:
            canvas.paste(_prior_pane(context, scene, field, slice_index, outlines), (0, HEADER_PX))
            draw_text(picture, (10, 8), texts(language)["preview"]["current"], size=15, bold=True)
        canvas.paste(picture, (width - field.size, HEADER_PX))
        draw_text(canvas, (10, HEADER_PX / 2), title, size=14, bold=True, anchor="lm")
        source = headers[scene.source_slices[slice_index]] if len(headers) > 1 else None
        draw_text(
            canvas,
            (width - 10, HEADER_PX / 2),
            _slice_text(scene, slice_index, source, language),
            size=13,
            anchor="rm",
        )
        _footer(canvas, legend, HEADER_PX + field.size)
        yield PreviewImage(slice_index, np.asarray(canvas))


def panes(scene: Scene) -> int:
    """How many pictures stand beside each other: prior and current, or the current one alone."""
    return 1 if scene.prior_flair is None else 2


def _prior_pane(
    context: OutputContext,
    scene: Scene,
    field: Field,
    slice_index: int,
    outlines: Sequence[Outline],
) -> Image.Image:
    """The prior study at the same place, with a ring where a lesion is new."""
    picture = scene.picture(slice_index, field, prior=True)
    for outline in outlines:
        if outline.lesion.change == "new":
            corners = np.concatenate(
                [field.pixels_of(line, scene.in_plane_spacing) for line in outline.lines]
            )
            middle = (corners.min(axis=0) + corners.max(axis=0)) / 2.0
            radius = float(np.linalg.norm(corners - middle, axis=1).max()) + RING_GAP_PX
            draw_ring(picture, middle, radius, CHANGE_COLOURS["new"])
    _letters(picture, scene)
    words, prior = texts(context.settings.language)["preview"], context.prior
    name = str(words["prior"])
    if prior is not None and prior.interval_days is not None:
        name = str(words["prior_days"].format(days=prior.interval_days))
    draw_text(picture, (10, 8), name, size=15, bold=True)
    return picture


def _title(context: OutputContext) -> str:
    words = texts(context.settings.language)["preview"]
    if not context.follow_up.lesions:
        return str(words["none"])
    if context.follow_up.prior_labels is None or context.prior is None:
        return str(words["baseline"])
    if context.prior.interval_days is None:
        return str(words["undated"])
    return str(words["follow_up"].format(days=context.prior.interval_days))


def _slice_text(scene: Scene, slice_index: int, source: Dataset | None, language: str) -> str:
    words = texts(language)["preview"]
    shown = scene.shown_slices
    facts = {"number": slice_index - shown.start + 1, "count": len(shown)}
    instance = None if source is None else source.get("InstanceNumber")
    if instance is None:
        return str(words["slice"].format(**facts))
    return str(words["slice_of_series"].format(**facts, instance=instance))


def _label(picture: Image.Image, callout: Callout, name: str, language: str) -> None:
    """The lesion's number beside its outline, with a sign for its change; an arrow if it is new."""
    lesion = callout.outline.lesion
    colour = CHANGE_COLOURS[lesion.change]
    away = 7.0
    if lesion.change == "new":
        draw_arrow(picture, callout.edge, -callout.outwards, colour)
        away = 32.0
        name = str(texts(language)["preview"]["new_label"].format(name=name))
    name += _SIGNS.get(lesion.change, "")
    half = font(13, bold=True).getlength(name) / 2.0
    away += abs(float(callout.outwards[1])) * max(half - 6.0, 0.0)
    y, x = callout.edge + callout.outwards * away
    y = min(max(float(y), 10.0), picture.size[1] - 11.0)
    x = min(max(float(x), half + 4.0), picture.size[0] - half - 18.0)
    draw_text(picture, (x, y), name, size=13, colour=colour, bold=True, anchor="mm")


def _letters(picture: Image.Image, scene: Scene) -> None:
    size, middle = picture.size[0], picture.size[0] / 2
    left, right, top, bottom = scene.side_letters()
    for place, letter, anchor in (
        ((8, middle), left, "lm"),
        ((size - 34, middle), right, "rm"),
        ((middle, 6), top, "ma"),
        ((middle, size - 6), bottom, "md"),
    ):
        draw_text(picture, place, letter, size=18, bold=True, anchor=anchor)


def _slice_marks(scene: Scene) -> dict[int, tuple[int, int, int]]:
    """The colour of the most important change in each slice that has a lesion."""
    marks = {}
    for slice_index in scene.shown_slices:
        outlines = scene.outlines(slice_index)
        if outlines:
            marks[slice_index] = CHANGE_COLOURS[outlines[-1].lesion.change]
    return marks


def _navigator(
    picture: Image.Image,
    scene: Scene,
    marks: dict[int, tuple[int, int, int]],
    slice_index: int,
) -> None:
    """A bar at the right edge: which slices hold what, and where this one is."""
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    left, right = width - 14, width - 8
    top, bottom = 0.12 * height, 0.88 * height
    shown = scene.shown_slices
    step = (bottom - top) / len(shown)
    pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), fill=(45, 45, 45))
    for index, colour in marks.items():
        high = bottom - (index - shown.start + 1) * step
        pen.rectangle((left, high, right, high + max(step - 1.0, 1.0)), fill=colour)
    here = bottom - (slice_index - shown.start + 0.5) * step
    pen.polygon([(left - 3, here), (left - 11, here - 5), (left - 11, here + 5)], fill="white")


def _legend_lines(scene: Scene, width: int, language: str) -> list[list[tuple[Change, str, float]]]:
    """The entries of the legend, line by line: kind of change, text and left edge."""
    words = texts(language)
    counts = Counter(lesion.change for lesion in scene.lesions)
    lines: list[list[tuple[Change, str, float]]] = [[]]
    left = 10.0
    for change in (change for change in BY_IMPORTANCE if counts[change]):
        text = words["preview"]["legend"].format(
            change=words["change"][change] + _SIGNS.get(change, ""), count=counts[change]
        )
        right = left + 21.0 + font(12).getlength(text)
        if right > width - 10 and lines[-1]:
            lines.append([])
            left, right = 10.0, right - left + 10.0
        lines[-1].append((change, text, left))
        left = right + 16.0
    return [line for line in lines if line]


def _footer(canvas: Image.Image, lines: list[list[tuple[Change, str, float]]], top: int) -> None:
    pen = ImageDraw.Draw(canvas)
    y = top + 13.0
    for line in lines:
        for change, text, left in line:
            colour = CHANGE_COLOURS[change]
            for start, stop in ((0, 6), (10, 16)) if change in DASHED else ((0, 16),):
                pen.line((left + start, y, left + stop, y), fill=colour, width=3)
            draw_text(canvas, (left + 21, y), text, size=12, colour=colour, anchor="lm")
        y += LINE_PX
    draw_text(canvas, (10, y), STATEMENT, size=12, colour=_GREY, anchor="lm")


def _instance(
    context: OutputContext, scene: Scene, field: Field, image: PreviewImage, number: int
) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    now = context.created_in_study_zone
    dataset.DateOfSecondaryCapture = now.strftime("%Y%m%d")
    dataset.TimeOfSecondaryCapture = now.strftime("%H%M%S")
    dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    # No burned-in text identifies the patient or the date (PS3.3 C.7.6.1).
    dataset.BurnedInAnnotation = "NO"
    source = context.flair.headers[0]
    lossy = str(source.get("LossyImageCompression") or "00")
    dataset.LossyImageCompression = lossy
    if lossy == "01":
        for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if source.get(keyword):
                dataset.add(source[keyword])
    _, right, _, down = scene.side_letters()
    dataset.PatientOrientation = [right, down]
    dataset.FrameOfReferenceUID = source.get("FrameOfReferenceUID") or context.uid("frame")
    dataset.PositionReferenceIndicator = source.get("PositionReferenceIndicator") or ""
    # of the whole picture's first pixel, so that the current study's pane lies where it should
    left = (1 - panes(scene)) * field.size
    corner = scene.position_of(image.slice_index, field, -float(HEADER_PX), float(left))
    dataset.ImagePositionPatient = [_decimal(value) for value in corner]
    direction = scene.flair.direction
    dataset.ImageOrientationPatient = [
        _decimal(value) for value in (*direction[:, 2], *direction[:, 1])
    ]
    dataset.PixelSpacing = [_decimal(field.pixel_mm)] * 2
    dataset.SliceThickness = _decimal(float(scene.flair.spacing[0]))
    dataset.SourceImageSequence = [_source(context, scene.source_slices[image.slice_index])]
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = image.pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([_rle(image.pixels)])
    dataset["PixelData"].VR = "OB"
    return apply_common(dataset, context, "preview", instance_number=number)


def _rle(pixels: np.ndarray) -> bytes:
    frame: bytes = encode_frame(
        pixels,
        transfer_syntax_uid=RLELossless,
        bits_allocated=8,
        bits_stored=8,
        photometric_interpretation="RGB",
        pixel_representation=0,
        planar_configuration=0,
    )
    return frame


def _source(context: OutputContext, volume_slice: int) -> Dataset:
    """A reference to the FLAIR image or frame that a picture was made from."""
    item = Dataset()
    headers, frames = context.flair.headers, context.flair.series.frame_numbers
    header = headers[volume_slice] if len(headers) > 1 else headers[0]
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = UID(header.SOPInstanceUID)
    if "NumberOfFrames" in header and int(header.NumberOfFrames) > 1:
        item.ReferencedFrameNumber = volume_slice + 1 if frames is None else frames[volume_slice]
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose = Dataset()
    purpose.CodeValue = code.value
    purpose.CodingSchemeDesignator = code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _decimal(value: float) -> str:
    """A number as a decimal string of at most 16 characters (PS3.5 6.2, DS)."""
    for digits in range(12, 0, -1):
        text = f"{value + 0.0:.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(f"{value} does not fit a decimal string")

"""Whole slices and close-ups of lesions, prior and current at the same place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image as PILImage
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, KeepTogether, Paragraph, Spacer, Table, TableStyle

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.rendering import (
    Field,
    Outline,
    draw_arrow,
    draw_outline,
    draw_text,
    place_callouts,
)
from operators.dicom_writer.report_sheet import (
    LINE,
    TIGHT,
    WIDTH,
    Sheet,
    flowable,
    on_paper,
    png,
)
from operators.messages import Change, Lesion

CLOSE_UP_MM = 50.0
_CLOSE_UP_PX = 230
_OVERVIEW_PX = 620
_LARGEST, _SMALLEST, _GAP = 86.0 * mm, 55.0 * mm, 3.0 * mm
"""Side of a whole slice on the page, and the gap between two."""
_ACTIVE: tuple[Change, ...] = ("new", "enlarging", "resolved")
_ROOMY = 8
"""Up to so many examples get a row of the page each, more stand in two columns."""


def overview_pictures(sheet: Sheet) -> list[Flowable]:
    """The slice with the most important lesion, prior and current; two slices without a prior."""
    scene = sheet.scene
    field = scene.brain_field(_OVERVIEW_PX, 6.0)
    slices = _distinct([scene.largest_slice(lesion) for lesion in sheet.ranked])
    middle = scene.shown_slices[len(scene.shown_slices) // 2]
    if sheet.compared:
        index = slices[0] if slices else middle
        pictures = [_whole_slice(sheet, index, field, prior=prior) for prior in (True, False)]
        number = index - scene.shown_slices.start + 1
        caption = sheet.text["overview"].format(slice=number)
    else:
        chosen = sorted((slices or [middle])[:2])
        pictures = [_whole_slice(sheet, index, field, prior=False) for index in chosen]
        shown = ", ".join(str(index - scene.shown_slices.start + 1) for index in chosen)
        caption = sheet.text["overview_baseline"].format(slices=shown)
    return [Spacer(0, 4), _SideBySide(pictures, sheet.paragraph(caption, "caption"))]


class _SideBySide(Flowable):  # type: ignore[misc]
    """Square pictures beside each other, as large as the rest of the page allows."""

    def __init__(self, pictures: Sequence[bytes], caption: Paragraph) -> None:
        super().__init__()
        self._pictures = pictures
        self._caption = caption
        self._side = 0.0
        self._below = 0.0

    def wrap(self, width: float, height: float) -> tuple[float, float]:
        """Choose the size; ask for a new page where there is no room for a readable one."""
        _, self._below = self._caption.wrap(width, height)
        most = min(_LARGEST, (width - _GAP * (len(self._pictures) - 1)) / len(self._pictures))
        self._side = min(most, max(height - self._below - 3 * mm, _SMALLEST))
        self.width = width
        return width, self._side + self._below + 2 * mm

    def draw(self) -> None:
        """Draw the pictures and the caption below them."""
        count = len(self._pictures)
        left = (self.width - count * self._side - (count - 1) * _GAP) / 2.0
        for picture in self._pictures:
            image = flowable(picture, self._side)
            image.drawOn(self.canv, left, self._below + 2 * mm)
            left += self._side + _GAP
        self._caption.drawOn(self.canv, 0, 0)


def _whole_slice(sheet: Sheet, index: int, field: Field, *, prior: bool) -> bytes:
    scene = sheet.scene
    picture = scene.picture(index, field, prior=prior)
    if not prior:
        outlines = scene.outlines(index)
        for outline in outlines:
            _draw(sheet, picture, field, outline, width=1.8)
        for callout in place_callouts(scene, field, outlines):
            if callout.outline.lesion.change == "new":
                colour = CHANGE_COLOURS["new"]
                draw_arrow(picture, callout.edge, -callout.outwards, colour, length=26.0)
    left, right, _, _ = scene.side_letters()
    middle = field.size / 2
    draw_text(picture, (8, middle), left, size=22, bold=True, anchor="lm")
    draw_text(picture, (field.size - 8, middle), right, size=22, bold=True, anchor="rm")
    if sheet.compared:
        name = sheet.text["prior" if prior else "current"]
        draw_text(picture, (10, 8), name, size=22, bold=True)
    return png(picture)


def _draw(
    sheet: Sheet, picture: PILImage.Image, field: Field, outline: Outline, width: float
) -> None:
    for line in outline.lines:
        pixels = field.pixels_of(line, sheet.scene.in_plane_spacing)
        draw_outline(picture, pixels, outline.lesion.change, width)


def examples(sheet: Sheet, limit: int) -> list[Flowable]:
    """Each new, enlarging or resolved lesion as three close-ups at the same place.

    Without any such lesion, or without a comparison, the largest lesions.

    Parameters
    ----------
    sheet
        The report.
    limit
        At most so many; the heading says how many there are.
    """
    words = sheet.text
    active = [one for one in sheet.ranked if one.change in _ACTIVE] if sheet.compared else []
    wanted = active or sheet.ranked[:4]
    wanted = [one for one in wanted if sheet.scene.largest_slice(one) is not None]
    shown = wanted[:limit]
    if not shown:
        return []
    title = words["examples" if active else "examples_stable"]
    if not sheet.compared:
        title = words["examples_baseline"]
    elif len(shown) < len(wanted):
        title = words["examples_of"].format(shown=len(shown), total=len(wanted))
    caption = words["examples_caption" if sheet.compared else "examples_caption_baseline"]
    head = [
        sheet.section(title),
        sheet.paragraph(caption.format(side=f"{CLOSE_UP_MM:.0f}"), "small"),
        *sheet.found_by_note(shown),
    ]
    if len(shown) <= _ROOMY:
        rows = [_roomy_row(sheet, lesion) for lesion in shown]
    else:
        rows = _compact_rows(sheet, shown)
    return [KeepTogether([*head, rows[0]]), *rows[1:]]


def _roomy_row(sheet: Sheet, lesion: Lesion) -> Table:
    """Three close-ups and, beside them, what is known about the lesion."""
    pictures = _close_ups(sheet, lesion)
    side = 41.0 * mm
    gap = 1.2 * mm
    facts = WIDTH - len(pictures) * (side + gap)
    row: list[Any] = [_facts(sheet, lesion), *(flowable(picture, side) for picture in pictures)]
    colour = on_paper(CHANGE_COLOURS[lesion.change])
    return Table(
        [row],
        colWidths=[facts, *[side + gap] * len(pictures)],
        style=TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (0, 0), 7),
                ("LEFTPADDING", (1, 0), (-1, -1), gap),
                ("RIGHTPADDING", (0, 0), (0, 0), 4),
                ("RIGHTPADDING", (1, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 2),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 2),
                ("LINEBEFORE", (0, 0), (0, 0), 3.0, colour, "butt"),
                ("LINEBELOW", (0, 0), (-1, -1), 0.3, LINE),
            ]
        ),
    )


def _facts(sheet: Sheet, lesion: Lesion) -> list[Flowable]:
    words = sheet.text
    lines = [
        words["example_identity"].format(number=sheet.identity(lesion)),
        str(sheet.words["region"][lesion.region]),
        _volumes(sheet, lesion),
    ]
    if lesion.volume_interval_ml is not None and lesion.segment_number is not None:
        low, high = (sheet.number(value, 3) for value in lesion.volume_interval_ml)
        lines.append(words["example_interval"].format(low=low, high=high))
    lines.append(f"Ø {sheet.number(lesion.diameter_mm, 1)} mm")
    for key, distance in (
        ("example_ventricle", lesion.distance_to_ventricle_mm),
        ("example_cortex", lesion.distance_to_cortex_mm),
    ):
        if distance is not None:
            lines.append(words[key].format(distance=sheet.number(distance, 1)))
    if sheet.compared and lesion.change_confidence is not None:
        confidence = sheet.number(lesion.change_confidence, 2)
        lines.append(words["example_confidence"].format(confidence=confidence))
    name = sheet.name(lesion)
    if sheet.compared:
        name = f"{name}  {sheet.words['change'][lesion.change]}"
    text = "<br/>".join(escape(line) for line in lines)
    return [sheet.paragraph(name, "example_name"), Paragraph(text, sheet.styles["small"])]


def _volumes(sheet: Sheet, lesion: Lesion) -> str:
    now = sheet.number(lesion.volume_ml, 3)
    if not sheet.compared:
        return f"{now} ml"
    before = sheet.number(lesion.prior_volume_ml or 0.0, 3)
    return str(sheet.text["example_volume"].format(before=before, now=now))


def _compact_rows(sheet: Sheet, lesions: Sequence[Lesion]) -> list[Table]:
    across, gap = 2, 4 * mm
    width = (WIDTH - gap * (across - 1)) / across
    cells: list[Any] = [_compact(sheet, lesion, width) for lesion in lesions]
    cells += [""] * (-len(cells) % across)
    widths = [width, *([gap, width] * (across - 1))]
    rows = []
    for start in range(0, len(cells), across):
        row: list[Any] = []
        for cell in cells[start : start + across]:
            row += ["", cell] if row else [cell]
        rows.append(Table([row], colWidths=widths, style=TIGHT))
    return rows


def _compact(sheet: Sheet, lesion: Lesion, width: float) -> list[Flowable]:
    pictures = _close_ups(sheet, lesion)
    side = width / len(pictures)
    region = str(sheet.words["region"][lesion.region])
    if sheet.compared:
        region = f"{sheet.words['change'][lesion.change]}, {region.lower()}"
    name = escape(sheet.name(lesion))
    identity = sheet.text["example_identity"].format(number=sheet.identity(lesion))
    said = f"{region}, {_volumes(sheet, lesion)} ({identity})"
    title = f"<b>{name}</b>&nbsp; {escape(said)}"
    images = [flowable(picture, side - 1.0 * mm) for picture in pictures]
    return [
        Paragraph(title, sheet.styles["example"]),
        Table([images], colWidths=[side] * len(images), style=TIGHT),
        Spacer(0, 3),
    ]


def _close_ups(sheet: Sheet, lesion: Lesion) -> list[bytes]:
    """Prior (where there is one), current, and current with contours; PNG."""
    scene = sheet.scene
    index = scene.largest_slice(lesion)
    assert index is not None
    field = scene.field_around(scene.centre_in_plane(lesion), CLOSE_UP_MM, _CLOSE_UP_PX)
    current = scene.picture(index, field)
    marked = current.copy()
    for outline in scene.outlines(index):
        _draw(sheet, marked, field, outline, width=2.2)
    pictures = [current.convert("L"), marked]
    if scene.prior_flair is not None:
        pictures.insert(0, scene.picture(index, field, prior=True).convert("L"))
    return [png(picture) for picture in pictures]


def _distinct(values: Sequence[int | None]) -> list[int]:
    found: list[int] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found

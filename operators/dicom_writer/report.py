"""The report: one to three A4 pages for the reader of the study, as PDF."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image as PILImage
from reportlab.lib import colors
from reportlab.lib.enums import TA_CENTER, TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import cm, mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    BaseDocTemplate,
    Flowable,
    Frame,
    Image,
    KeepTogether,
    PageTemplate,
    Paragraph,
    Spacer,
    Table,
    TableStyle,
)

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.plots import lesions_by_diameter, volumes_over_time
from operators.dicom_writer.rendering import (
    BY_IMPORTANCE,
    Field,
    Outline,
    build_scene,
    draw_arrow,
    draw_outline,
    draw_text,
    font_folder,
    lesion_names,
    place_callouts,
)
from operators.dicom_writer.texts import texts
from operators.messages import Change, FollowUp, Lesion, QualityNote, Region, SelectedStudy
from operators.version import NAME, STATEMENT, VERSION

MAX_PAGES = 3
_MARGIN = 1.6 * cm
_WIDTH = A4[0] - 2 * _MARGIN
_TOP = 1.55 * cm
_BOTTOM = 1.5 * cm
_INK = colors.HexColor("#1c2530")
_SOFT = colors.HexColor("#5b6673")
_LINE = colors.HexColor("#c9d1da")
_BAND = colors.HexColor("#eef2f6")
_BLUE = colors.HexColor("#1f4e79")
_NOTE_COLOURS = {
    "error": (colors.HexColor("#fdeaea"), colors.HexColor("#b3261e")),
    "warning": (colors.HexColor("#fff5e0"), colors.HexColor("#b26a00")),
    "info": (colors.HexColor("#eef2f6"), colors.HexColor("#5b6673")),
}
_SERIOUS = ("error", "warning")
_CLOSE_UP_MM = 50.0
_CLOSE_UP_PX = 260
_OVERVIEW_PX = 620


@dataclass(frozen=True)
class _Length:
    """How much of what may be long is shown."""

    examples: int
    lesions: int
    notes: int


_LENGTHS = (
    _Length(6, 60, 12),
    _Length(6, 34, 10),
    _Length(6, 24, 8),
    _Length(4, 24, 8),
    _Length(4, 16, 6),
    _Length(2, 12, 5),
    _Length(2, 8, 3),
    _Length(0, 5, 2),
)
"""From the longest to the shortest report; the first that fits is taken."""


def write_report(pdf_path: Path, context: OutputContext) -> None:
    """Write the report as a PDF of at most three pages.

    Long tables and lists are shortened, changed and large lesions first, and say so.

    Parameters
    ----------
    pdf_path
        The file to write.
    context
        What to report.

    Raises
    ------
    ValueError
        If not even the shortest form fits three pages.
    """
    report = _Report(context)
    for length in _LENGTHS:
        content, pages = report.build(length)
        if pages <= MAX_PAGES:
            pdf_path.write_bytes(content)
            return
    raise ValueError(f"the report needs {pages} pages, more than {MAX_PAGES}")


class _NumberedCanvas(Canvas):  # type: ignore[misc]
    """A canvas that knows the number of pages when it draws headers and footers."""

    def __init__(self, *args: Any, decorate: Callable[[Canvas, int, int], None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._decorate = decorate
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        for number, page in enumerate(self._pages, start=1):
            self.__dict__.update(page)
            self._decorate(self, number, len(self._pages))
            super().showPage()
        super().save()


class _Report:
    """The parts of the report; pictures are drawn once and used in every attempt."""

    def __init__(self, context: OutputContext) -> None:
        _register_fonts()
        self.context = context
        self.follow_up = context.follow_up
        self.scene = build_scene(context.follow_up)
        self.names = lesion_names(self.follow_up.lesions)
        self.words: dict[str, Any] = texts()
        self.text: dict[str, Any] = self.words["report"]
        self.compared = self.scene.prior_labels is not None
        self.styles = _styles()
        self._close_ups: dict[str, list[bytes]] = {}
        self._overview: list[Flowable] | None = None
        self._plot: bytes | None = None

    def build(self, length: _Length) -> tuple[bytes, int]:
        """The PDF and its number of pages."""
        buffer = io.BytesIO()
        document = BaseDocTemplate(
            buffer,
            pagesize=A4,
            title=self._title(),
            author=f"{NAME} {VERSION}",
            subject=STATEMENT,
            creator=f"{NAME} {VERSION}",
            lang="en",
        )
        frame = Frame(
            _MARGIN,
            _BOTTOM,
            _WIDTH,
            A4[1] - _TOP - _BOTTOM,
            leftPadding=0,
            rightPadding=0,
            topPadding=0,
            bottomPadding=0,
        )
        document.addPageTemplates(PageTemplate(frames=[frame]))
        story = [
            *self._heading(),
            *self._summary(),
            *self._serious_notes(length.notes),
            *self._plots(),
            *self._overview_pictures(),
            *self._examples(length.examples),
            *self._lesion_table(length.lesions),
            *self._series(),
            *self._closing(length.notes),
        ]
        document.build(story, canvasmaker=partial(_NumberedCanvas, decorate=self._decorate))
        return buffer.getvalue(), document.page

    # --- page furniture -----------------------------------------------------------------------

    def _title(self) -> str:
        return str(self.text["title" if self.context.prior is not None else "title_baseline"])

    def _decorate(self, canvas: Canvas, page: int, pages: int) -> None:
        canvas.saveState()
        canvas.setStrokeColor(_LINE)
        canvas.setLineWidth(0.5)
        if page > 1:
            header = self.context.patient_and_study
            top = A4[1] - 1.1 * cm
            left = "   ".join(
                part
                for part in (
                    _person(header.get("PatientName")),
                    str(header.get("PatientID") or ""),
                    _day(header.get("StudyDate")),
                )
                if part
            )
            canvas.setFillColor(_SOFT)
            right = self._title()
            room = _WIDTH - pdfmetrics.stringWidth(right, "Report", 7.5) - 8 * mm
            canvas.setFont("Report", 7.5)
            canvas.drawString(_MARGIN, top, _shortened(left, "Report", 7.5, room))
            canvas.drawRightString(A4[0] - _MARGIN, top, right)
            canvas.line(_MARGIN, top - 4, A4[0] - _MARGIN, top - 4)
        bottom = 0.95 * cm
        canvas.line(_MARGIN, bottom + 10, A4[0] - _MARGIN, bottom + 10)
        canvas.setFillColor(_SOFT)
        canvas.setFont("Report-Bold", 7)
        canvas.drawString(_MARGIN, bottom, STATEMENT)
        canvas.setFont("Report", 7)
        canvas.drawCentredString(A4[0] / 2 + 1.2 * cm, bottom, f"{NAME} {VERSION}")
        number = self.text["page"].format(page=page, pages=pages)
        canvas.drawRightString(A4[0] - _MARGIN, bottom, number)
        canvas.restoreState()

    def _heading(self) -> list[Flowable]:
        words, header = self.text, self.context.patient_and_study
        made = self.context.created_in_study_zone.strftime("%Y-%m-%d %H:%M")
        title = Table(
            [
                [
                    [
                        Paragraph(escape(self._title()), self.styles["title"]),
                        Paragraph(escape(words["subtitle"]), self.styles["subtitle"]),
                    ],
                    Paragraph(
                        f"<b>{escape(STATEMENT)}</b><br/>{escape(words['created'].format(time=made))}",
                        self.styles["stamp"],
                    ),
                ]
            ],
            colWidths=[0.66 * _WIDTH, 0.34 * _WIDTH],
            style=TableStyle(
                [
                    ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                    ("TOPPADDING", (0, 0), (-1, -1), 0),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
                    ("LINEBELOW", (0, 0), (-1, -1), 1.4, _BLUE, "butt"),
                ]
            ),
        )
        unknown = words["unknown"]
        facts = [
            (words["patient"], _person(header.get("PatientName")) or unknown),
            (words["study_date"], _day(header.get("StudyDate")) or unknown),
            (words["patient_id"], str(header.get("PatientID") or "") or unknown),
            (words["prior_date"], self._prior_date()),
            (words["birth_date"], _day(header.get("PatientBirthDate")) or unknown),
            (words["accession"], str(header.get("AccessionNumber") or "") or unknown),
            (words["sex"], str(header.get("PatientSex") or "") or unknown),
            (words["study"], str(header.get("StudyDescription") or "") or unknown),
        ]
        rows = []
        for first, second in zip(facts[::2], facts[1::2], strict=True):
            row: list[Paragraph] = []
            for label, value in (first, second):
                row.append(Paragraph(escape(label), self.styles["label"]))
                row.append(Paragraph(escape(_cut(value, 130)), self.styles["value"]))
            rows.append(row)
        identification = Table(
            rows,
            colWidths=[2.4 * cm, 0.5 * _WIDTH - 2.4 * cm, 3.0 * cm, 0.5 * _WIDTH - 3.0 * cm],
            style=TableStyle(
                [
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 8),
                    ("TOPPADDING", (0, 0), (-1, -1), 1.2),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 1.2),
                ]
            ),
        )
        return [title, Spacer(0, 5), identification, Spacer(0, 4)]

    def _prior_date(self) -> str:
        prior = self.context.prior
        if prior is None:
            return str(self.text["no_prior"])
        date = _study_day(prior) or str(self.text["unknown"])
        if prior.interval_days is None:
            return date
        return str(self.text["interval_days"].format(date=date, days=prior.interval_days))

    def _section(self, title: str) -> Paragraph:
        return Paragraph(escape(title), self.styles["section"])

    # --- what changed -------------------------------------------------------------------------

    def _summary(self) -> list[Flowable]:
        totals, words = self.follow_up.totals, self.text
        story: list[Flowable] = [
            self._section(words["findings" if self.compared else "findings_baseline"])
        ]
        if self.context.prior is not None and not self.compared:
            story += [self._box("error", words["refused_title"], self._refusal()), Spacer(0, 5)]
        elif not self.follow_up.lesions:
            key = "no_lesion_twice" if self.compared else "no_lesion"
            story.append(Paragraph(escape(words[key]), self.styles["lead"]))
        else:
            story.append(Paragraph(escape(self._sentence()), self.styles["lead"]))
        if self.context.prior is not None and not self.compared and not self.follow_up.lesions:
            story.append(Paragraph(escape(words["no_lesion"]), self.styles["lead"]))
        load = f"{totals.lesion_volume_ml:.2f} ml"
        tiles: list[tuple[str, str, str, tuple[int, int, int] | None]] = []
        if self.compared:
            counts = _changes(self.follow_up)
            tiles += [
                (str(counts[change]), self.words["change"][change], "", CHANGE_COLOURS[change])
                for change in ("new", "enlarging", "shrinking", "resolved")
            ]
            before = totals.prior_lesion_volume_ml or 0.0
            tiles += [
                (
                    load,
                    words["tile_load"],
                    words["tile_load_before"].format(before=f"{before:.2f}"),
                    None,
                ),
                (str(totals.lesion_count), words["tile_count"], "", None),
            ]
        else:
            largest = max((one.diameter_mm for one in self.follow_up.lesions), default=0.0)
            tiles += [
                (str(totals.lesion_count), words["tile_count"], "", None),
                (load, words["tile_load"], "", None),
                (f"{largest:.1f} mm", words["tile_largest"], "", None),
            ]
        story += [Spacer(0, 3), self._tiles(tiles), Spacer(0, 6)]
        return story

    def _sentence(self) -> str:
        totals, words, prior = self.follow_up.totals, self.text, self.context.prior
        if not self.compared or prior is None:
            return str(
                words["baseline_statement"].format(
                    count=totals.lesion_count, load=f"{totals.lesion_volume_ml:.2f}"
                )
            )
        counts = _changes(self.follow_up)
        parts = [
            words["part"].format(count=counts[change], change=self.words["change"][change].lower())
            for change in BY_IMPORTANCE
            if counts[change]
        ]
        active = counts["new"] + counts["enlarging"] > 0
        before = totals.prior_lesion_volume_ml or 0.0
        difference = totals.lesion_volume_ml - before
        facts = {
            "date": _study_day(prior) or words["unknown"],
            "interval": ""
            if prior.interval_days is None
            else words["interval"].format(days=prior.interval_days),
            "now": f"{totals.lesion_volume_ml:.2f}",
            "before": f"{before:.2f}",
            "difference": _signed(difference, 2),
            "percent": "" if before <= 0.0 else f", {_signed(100.0 * difference / before, 0)} %",
        }
        if active:
            return str(words["active"].format(parts=", ".join(parts), **facts))
        rest = words["also"].format(parts=", ".join(parts)) if parts else ""
        return str(words["inactive"].format(parts=rest, **facts))

    def _refusal(self) -> str:
        words, prior = self.text, self.context.prior
        assert prior is not None
        registration = self.follow_up.probabilities.aligned.prior_to_current
        date = _study_day(prior) or words["unknown"]
        if registration is None or registration.accepted:
            return str(words["not_compared"].format(date=date))
        return str(
            words["refused"].format(
                date=date,
                similarity=f"{registration.similarity:.2f}",
                rotation=f"{registration.rotation_deg:.1f}",
                translation=f"{registration.translation_mm:.1f}",
            )
        )

    def _tiles(self, tiles: Sequence[tuple[str, str, str, tuple[int, int, int] | None]]) -> Table:
        gap = 2.2 * mm
        count = len(tiles)
        wide = [1.0 if colour is not None else 1.35 for _, _, _, colour in tiles]
        unit = (_WIDTH - gap * (count - 1)) / sum(wide)
        cells: list[Any] = []
        widths: list[float] = []
        style: list[tuple[Any, ...]] = [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LEFTPADDING", (0, 0), (-1, -1), 6),
            ("RIGHTPADDING", (0, 0), (-1, -1), 4),
            ("TOPPADDING", (0, 0), (-1, -1), 4),
            ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
        ]
        for number, (value, label, note, colour) in enumerate(tiles):
            column = 2 * number
            if number:
                cells.append("")
                widths.append(gap)
            suffix = f"<br/><font color='#5b6673'>{escape(note)}</font>" if note else ""
            cells.append(
                [
                    Paragraph(escape(value), self.styles["figure"]),
                    Paragraph(f"{escape(label)}{suffix}", self.styles["figure_label"]),
                ]
            )
            widths.append(unit * wide[number])
            style += [
                ("BACKGROUND", (column, 0), (column, 0), _BAND),
                (
                    "LINEABOVE",
                    (column, 0),
                    (column, 0),
                    3.0,
                    _BLUE if colour is None else _on_paper(colour),
                    "butt",
                ),
            ]
        return Table([cells], colWidths=widths, style=TableStyle(style))

    # --- quality ------------------------------------------------------------------------------

    def _notes(self, *, serious: bool) -> list[QualityNote]:
        rank = ("error", "warning", "info")
        notes = [note for note in self.follow_up.quality if (note.severity in _SERIOUS) == serious]
        return sorted(notes, key=lambda note: rank.index(note.severity))

    def _serious_notes(self, limit: int) -> list[Flowable]:
        notes = self._notes(serious=True)
        story: list[Flowable] = []
        for note in notes[:limit]:
            story += [
                self._box(note.severity, self.words["severity"][note.severity], note.message),
                Spacer(0, 2.5),
            ]
        if len(notes) > limit:
            more = self.text["quality_more"].format(count=len(notes) - limit)
            story.append(Paragraph(escape(more), self.styles["small"]))
        return story

    def _box(self, severity: str, title: str, message: str) -> Table:
        back, front = _NOTE_COLOURS[severity]
        heading = f"<font color='#{front.hexval()[2:]}'><b>{escape(title)}.</b></font>"
        text = f"{heading} {escape(_cut(message))}"
        return Table(
            [[Paragraph(text, self.styles["note"])]],
            colWidths=[_WIDTH],
            style=TableStyle(
                [
                    ("BACKGROUND", (0, 0), (-1, -1), back),
                    ("LINEBEFORE", (0, 0), (0, -1), 3.0, front, "butt"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 7),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 5),
                    ("TOPPADDING", (0, 0), (-1, -1), 2.5),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 3.5),
                ]
            ),
        )

    # --- plots --------------------------------------------------------------------------------

    def _plots(self) -> list[Flowable]:
        if not self.follow_up.lesions:
            return []
        width, height = (10.7, 4.5) if self.compared else (8.6, 4.3)
        if self._plot is None:
            self._plot = self._draw_plot((width, height))
        title = self.text["plots" if self.compared else "plots_baseline"]
        plot = Image(io.BytesIO(self._plot), width=width * cm, height=height * cm)
        left = 11.0 * cm if self.compared else 9.3 * cm
        block = Table(
            [
                [
                    Paragraph(escape(title), self.styles["block"]),
                    Paragraph(escape(self.text["by_region"]), self.styles["block"]),
                ],
                [plot, self._regions(_WIDTH - left)],
            ],
            colWidths=[left, _WIDTH - left],
            style=TableStyle(
                [
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                    ("TOPPADDING", (0, 0), (-1, -1), 0),
                    ("BOTTOMPADDING", (0, 0), (-1, 0), 4),
                    ("BOTTOMPADDING", (0, 1), (-1, -1), 0),
                ]
            ),
        )
        return [Spacer(0, 5), block, Spacer(0, 2)]

    def _draw_plot(self, size_cm: tuple[float, float]) -> bytes:
        totals, prior = self.follow_up.totals, self.context.prior
        if not self.compared or prior is None:
            return lesions_by_diameter(
                [lesion.diameter_mm for lesion in self.follow_up.lesions], size_cm
            )
        days = float(prior.interval_days or 1)
        names = [
            _study_day(study) or self.text[key]
            for study, key in ((prior, "prior"), (self.context.current, "current"))
        ]
        return volumes_over_time(
            (-days, 0.0),
            names,
            (totals.prior_lesion_volume_ml or 0.0, totals.lesion_volume_ml),
            self.follow_up.lesions,
            size_cm,
        )

    def _regions(self, width: float) -> Table:
        words = self.text
        regions: tuple[Region, ...] = (
            "periventricular",
            "juxtacortical",
            "infratentorial",
            "deep_white_matter",
            "unspecified",
        )
        header = [words["region_heading"], words["count_heading"], words["load_heading"]]
        if self.compared:
            header.append(words["load_before_heading"])
        rows: list[list[str]] = []
        for region in regions:
            here = [lesion for lesion in self.follow_up.lesions if lesion.region == region]
            if region == "unspecified" and not here:
                continue
            rows.append(self._region_row(self.words["region"][region], here))
        rows.append(self._region_row(words["total"], list(self.follow_up.lesions)))
        numbers = 0.8 * cm, 1.45 * cm, 1.75 * cm
        columns = [numbers[0], numbers[1], *([numbers[2]] if self.compared else [])]
        return self._grid(
            [header, *rows],
            [width - sum(columns), *columns],
            right_from=1,
            extra=[
                ("FONTNAME", (0, -1), (-1, -1), "Report-Bold"),
                ("LINEABOVE", (0, -1), (-1, -1), 0.6, _INK),
            ],
        )

    def _region_row(self, name: str, lesions: Sequence[Lesion]) -> list[str]:
        present = [lesion for lesion in lesions if lesion.segment_number is not None]
        row = [name, str(len(present)), f"{sum(one.volume_ml for one in present):.2f}"]
        if self.compared:
            row.append(f"{sum(one.prior_volume_ml or 0.0 for one in lesions):.2f}")
        return row

    def _grid(
        self,
        rows: Sequence[Sequence[Any]],
        widths: Sequence[float],
        *,
        right_from: int,
        extra: Sequence[tuple[Any, ...]] = (),
        repeat: int = 1,
    ) -> Table:
        return Table(
            [list(row) for row in rows],
            colWidths=list(widths),
            repeatRows=repeat,
            style=TableStyle(
                [
                    ("FONT", (0, 0), (-1, -1), "Report", 7.5, 9.2),
                    ("FONTNAME", (0, 0), (-1, 0), "Report-Bold"),
                    ("TEXTCOLOR", (0, 0), (-1, -1), _INK),
                    ("BACKGROUND", (0, 0), (-1, 0), _BAND),
                    ("LINEBELOW", (0, 0), (-1, -1), 0.3, _LINE),
                    ("ALIGN", (right_from, 0), (-1, -1), "RIGHT"),
                    ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 4),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 4),
                    ("TOPPADDING", (0, 0), (-1, -1), 1.8),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 2.4),
                    *extra,
                ]
            ),
        )

    # --- pictures -----------------------------------------------------------------------------

    def _overview_pictures(self) -> list[Flowable]:
        if self._overview is None:
            self._overview = self._draw_overview()
        return list(self._overview)

    def _draw_overview(self) -> list[Flowable]:
        scene = self.scene
        field = scene.brain_field(_OVERVIEW_PX, 6.0)
        ranked = self._ranked()
        slices = _distinct([scene.largest_slice(lesion) for lesion in ranked])
        middle = scene.shown_slices[len(scene.shown_slices) // 2]
        side = 7.4 * cm
        if self.compared:
            index = slices[0] if slices else middle
            pictures = [
                self._whole_slice(index, field, prior=True),
                self._whole_slice(index, field, prior=False),
            ]
            number = index - scene.shown_slices.start + 1
            caption = self.text["overview"].format(slice=number)
        else:
            chosen = sorted((slices or [middle])[:2])
            pictures = [self._whole_slice(index, field, prior=False) for index in chosen]
            shown = ", ".join(str(index - scene.shown_slices.start + 1) for index in chosen)
            caption = self.text["overview_baseline"].format(slices=shown)
        images = [_flowable(picture, side) for picture in pictures]
        table = Table(
            [images],
            colWidths=[side + 3 * mm] * len(images),
            hAlign="CENTER",
            style=_TIGHT,
        )
        return [
            KeepTogether([Spacer(0, 4), table, Paragraph(escape(caption), self.styles["caption"])])
        ]

    def _whole_slice(self, index: int, field: Field, *, prior: bool) -> bytes:
        picture = self.scene.picture(index, field, prior=prior)
        if not prior:
            outlines = self.scene.outlines(index)
            for outline in outlines:
                self._draw(picture, field, outline, width=1.8)
            for callout in place_callouts(self.scene, field, outlines):
                if callout.outline.lesion.change == "new":
                    colour = CHANGE_COLOURS["new"]
                    draw_arrow(picture, callout.edge, -callout.outwards, colour, length=26.0)
        left, right, _, _ = self.scene.side_letters()
        middle = field.size / 2
        draw_text(picture, (8, middle), left, size=22, bold=True, anchor="lm")
        draw_text(picture, (field.size - 8, middle), right, size=22, bold=True, anchor="rm")
        name = self.text["prior" if prior else "current"]
        if self.compared:
            draw_text(picture, (10, 8), name, size=22, bold=True)
        return _png(picture)

    def _draw(self, picture: PILImage.Image, field: Field, outline: Outline, width: float) -> None:
        for line in outline.lines:
            pixels = field.pixels_of(line, self.scene.in_plane_spacing)
            draw_outline(picture, pixels, outline.lesion.change, width)

    def _ranked(self) -> list[Lesion]:
        """Lesions by importance of their change, then by size."""
        return sorted(
            self.follow_up.lesions,
            key=lambda one: (
                BY_IMPORTANCE.index(one.change),
                -max(one.volume_ml, one.prior_volume_ml or 0.0),
            ),
        )

    def _examples(self, limit: int) -> list[Flowable]:
        if self.compared:
            active = ("new", "enlarging", "resolved")
            wanted = [one for one in self._ranked() if one.change in active] or self._ranked()
        else:
            wanted = self._ranked()
        shown = [one for one in wanted if self.scene.largest_slice(one) is not None]
        shown = shown[:limit]
        if not shown:
            return []
        across = 2 if self.compared else 3
        gap = 4 * mm
        width = (_WIDTH - gap * (across - 1)) / across
        cells: list[Any] = [self._example(lesion, width) for lesion in shown]
        cells += [""] * (-len(cells) % across)
        widths = [width, *([gap, width] * (across - 1))]
        rows: list[Flowable] = []
        for start in range(0, len(cells), across):
            row: list[Any] = []
            for cell in cells[start : start + across]:
                row += ["", cell] if row else [cell]
            rows.append(Table([row], colWidths=widths, style=_TIGHT))
        title, caption = self.text["examples"], self.text["examples_caption_baseline"]
        if self.compared:
            caption = self.text["examples_caption"]
            if len(shown) < len(wanted) and wanted[0].change in active:
                title = self.text["examples_of"].format(shown=len(shown), total=len(wanted))
        legend = Paragraph(escape(caption.format(side=f"{_CLOSE_UP_MM:.0f}")), self.styles["small"])
        return [KeepTogether([self._section(title), legend, rows[0]]), *rows[1:]]

    def _example(self, lesion: Lesion, width: float) -> list[Flowable]:
        pictures = self._close_ups.get(lesion.tracking_uid)
        if pictures is None:
            pictures = self._close_ups[lesion.tracking_uid] = self._draw_close_ups(lesion)
        side = width / len(pictures)
        images = [_flowable(picture, side - 1.0 * mm) for picture in pictures]
        if self.compared:
            volumes = f"{lesion.prior_volume_ml or 0.0:.3f} → {lesion.volume_ml:.3f} ml"
        else:
            volumes = f"{lesion.volume_ml:.3f} ml"
        region = str(self.words["region"][lesion.region])
        if self.compared:
            region = f"{self.words['change'][lesion.change]}, {region.lower()}"
        name = escape(self.names[lesion.tracking_uid])
        title = f"<b>{name}</b>&nbsp; {escape(region)}, {volumes}"
        return [
            Paragraph(title, self.styles["example"]),
            Table([images], colWidths=[side] * len(images), style=_TIGHT),
            Spacer(0, 3),
        ]

    def _draw_close_ups(self, lesion: Lesion) -> list[bytes]:
        scene = self.scene
        index = scene.largest_slice(lesion)
        assert index is not None
        field = scene.field_around(scene.centre_in_plane(lesion), _CLOSE_UP_MM, _CLOSE_UP_PX)
        current = scene.picture(index, field)
        marked = current.copy()
        for outline in scene.outlines(index):
            self._draw(marked, field, outline, width=2.2)
        pictures = [current, marked]
        if scene.prior_flair is not None:
            pictures.insert(0, scene.picture(index, field, prior=True))
        return [_png(picture) for picture in pictures]

    # --- tables -------------------------------------------------------------------------------

    def _lesion_table(self, limit: int) -> list[Flowable]:
        lesions = self._ranked()
        if not lesions:
            return []
        words = self.text
        shown = lesions[:limit]
        header = [words["heading_name"], words["heading_change"], words["heading_region"]]
        widths = [1.1 * cm, 2.4 * cm, 3.7 * cm]
        numbers = ["heading_now", "heading_diameter", "heading_confidence"]
        if self.compared:
            numbers[1:1] = ["heading_before", "heading_difference", "heading_percent"]
        else:
            del header[1], widths[1]
        right_from = len(header)
        header += [words[name] for name in numbers]
        widths += [(_WIDTH - sum(widths)) / len(numbers)] * len(numbers)
        rows: list[list[Any]] = [header]
        extra: list[tuple[Any, ...]] = []
        for number, lesion in enumerate(shown, start=1):
            rows.append(self._lesion_row(lesion))
            if self.compared:
                colour = _on_paper(CHANGE_COLOURS[lesion.change])
                extra.append(("LINEBEFORE", (1, number), (1, number), 3.0, colour, "butt"))
        extra.append(("LEFTPADDING", (1, 0), (1, -1), 6))
        story: list[Flowable] = [self._section(words["table"])]
        if len(shown) < len(lesions):
            limited = words["table_limited"].format(shown=len(shown), total=len(lesions))
            story.append(Paragraph(escape(limited), self.styles["small"]))
        table = self._grid(rows, widths, right_from=right_from, extra=extra)
        note = Paragraph(escape(words["table_note"]), self.styles["small"])
        if len(rows) < 10:
            return [KeepTogether([*story, table, Spacer(0, 2), note])]
        return [*story, table, Spacer(0, 2), note]

    def _lesion_row(self, lesion: Lesion) -> list[str]:
        row = [self.names[lesion.tracking_uid]]
        if self.compared:
            row.append(self.words["change"][lesion.change])
        row += [self.words["region"][lesion.region], f"{lesion.volume_ml:.3f}"]
        if self.compared:
            before = lesion.prior_volume_ml or 0.0
            difference = lesion.volume_ml - before
            percent = "–" if before <= 0.0 else _signed(100.0 * difference / before, 0)
            row += [f"{before:.3f}", _signed(difference, 3), percent]
        return [*row, f"{lesion.diameter_mm:.1f}", f"{lesion.confidence:.2f}"]

    def _series(self) -> list[Flowable]:
        words = self.text
        header = [
            words[f"heading_{name}"] for name in ("study", "role", "series", "voxel", "reason")
        ]
        rows: list[list[Any]] = [header]
        studies = [(words["current"], self.context.current)]
        if self.context.prior is not None:
            studies.append((words["prior"], self.context.prior))
        for name, study in studies:
            for role in sorted(study.series, key=("flair", "t2", "t1").index):
                selected = study.series[role]
                facts = selected.series.attributes
                label = "" if facts.series_number is None else f"{facts.series_number}: "
                label += facts.series_description or selected.series.label
                slices, between_rows, between_columns = selected.volume.spacing
                voxel = f"{between_rows:.2f} × {between_columns:.2f} × {slices:.2f}"
                rows.append(
                    [
                        Paragraph(escape(text), self.styles["cell"])
                        for text in (
                            name,
                            words["role"][role],
                            _cut(label, 70),
                            voxel,
                            _cut(selected.reason, 220),
                        )
                    ]
                )
        widths = [1.7 * cm, 1.4 * cm, 4.6 * cm, 3.2 * cm]
        widths.append(_WIDTH - sum(widths))
        top = [("VALIGN", (0, 1), (-1, -1), "TOP")]
        table = self._grid(rows, widths, right_from=len(header), extra=top)
        return [KeepTogether([self._section(words["series"]), table])]

    def _closing(self, limit: int) -> list[Flowable]:
        words, model = self.text, self.context.model
        story: list[Flowable] = []
        notes = self._notes(serious=False)
        if notes or not self.follow_up.quality:
            story.append(self._section(words["remarks"]))
        if not self.follow_up.quality:
            story.append(Paragraph(escape(words["quality_none"]), self.styles["small"]))
        for note in notes[:limit]:
            story.append(Paragraph(escape(_cut(f"• {note.message}")), self.styles["small"]))
        if len(notes) > limit:
            more = words["quality_more"].format(count=len(notes) - limit)
            story.append(Paragraph(escape(more), self.styles["small"]))
        facts = [
            (words["software"], f"{NAME} {VERSION}"),
            (words["model"], f"{model.name} {model.version}, sha256 {model.sha256}"),
            (
                words["engine"],
                words["engine_text"].format(
                    engine=model.engine,
                    precision=model.precision,
                    threshold=f"{self.follow_up.probabilities.current.threshold:g}",
                ),
            ),
        ]
        registration = self.follow_up.probabilities.aligned.prior_to_current
        if self.compared and registration is not None:
            fit = words["registration_text"].format(
                translation=f"{registration.translation_mm:.1f}",
                rotation=f"{registration.rotation_deg:.1f}",
                similarity=f"{registration.similarity:.2f}",
            )
            facts.append((words["registration"], fit))
        facts.append((words["measurement"], words["measurement_text"]))
        table = Table(
            [
                [
                    Paragraph(escape(label), self.styles["label_small"]),
                    Paragraph(escape(value), self.styles["small"]),
                ]
                for label, value in facts
            ],
            colWidths=[2.4 * cm, _WIDTH - 2.4 * cm],
            style=_TIGHT,
        )
        story += [
            self._section(words["method"]),
            table,
            Paragraph(f"<b>{escape(STATEMENT)}</b>", self.styles["small"]),
            Spacer(0, 22),
            self._signature(),
        ]
        return [KeepTogether(story)]

    def _signature(self) -> Table:
        words = self.text
        gap = 6 * mm
        widths = [0.42 * _WIDTH, gap, 0.36 * _WIDTH, gap, 0.22 * _WIDTH - 2 * gap]
        return Table(
            [[words["reader"], "", words["signature"], "", words["date"]]],
            colWidths=widths,
            style=TableStyle(
                [
                    ("FONT", (0, 0), (-1, -1), "Report", 7, 9),
                    ("TEXTCOLOR", (0, 0), (-1, -1), _SOFT),
                    ("LEFTPADDING", (0, 0), (-1, -1), 0),
                    *(("LINEABOVE", (column, 0), (column, 0), 0.6, _INK) for column in (0, 2, 4)),
                ]
            ),
        )


_TIGHT = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("ALIGN", (0, 0), (-1, -1), "CENTER"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 0),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
    ]
)


def _register_fonts() -> None:
    registered = pdfmetrics.getRegisteredFontNames()
    faces = {
        "Report": "DejaVuSans.ttf",
        "Report-Bold": "DejaVuSans-Bold.ttf",
        "Report-Italic": "DejaVuSans-Oblique.ttf",
        "Report-BoldItalic": "DejaVuSans-BoldOblique.ttf",
    }
    for name, file in faces.items():
        if name not in registered:
            pdfmetrics.registerFont(TTFont(name, str(font_folder() / file)))
    pdfmetrics.registerFontFamily("Report", *faces)


def _styles() -> dict[str, ParagraphStyle]:
    base = ParagraphStyle(
        "base", fontName="Report", fontSize=8, leading=10.4, textColor=_INK, splitLongWords=True
    )
    make = partial(ParagraphStyle, parent=base)
    return {
        "title": make("title", fontName="Report-Bold", fontSize=15, leading=18, textColor=_BLUE),
        "subtitle": make("subtitle", fontSize=7.8, leading=10, textColor=_SOFT),
        "stamp": make("stamp", fontSize=7.2, leading=9.5, textColor=_SOFT, alignment=TA_RIGHT),
        "label": make("label", fontSize=7.5, leading=10, textColor=_SOFT),
        "value": make("value", fontSize=8.2, leading=10),
        "section": make(
            "section",
            fontName="Report-Bold",
            fontSize=9.2,
            leading=11.5,
            textColor=_BLUE,
            spaceBefore=6,
            spaceAfter=3,
        ),
        "block": make("block", fontName="Report-Bold", fontSize=9.2, leading=11.5, textColor=_BLUE),
        "lead": make("lead", fontSize=8.8, leading=12, spaceAfter=2),
        "figure": make("figure", fontName="Report-Bold", fontSize=14, leading=17),
        "figure_label": make("figure_label", fontSize=7.2, leading=9),
        "note": make("note", fontSize=7.8, leading=10),
        "small": make("small", fontSize=7.2, leading=9.4, spaceAfter=1),
        "label_small": make("label_small", fontSize=7.2, leading=9.4, textColor=_SOFT),
        "caption": make(
            "caption", fontSize=7, leading=9, textColor=_SOFT, alignment=TA_CENTER, spaceBefore=2
        ),
        "example": make("example", fontSize=7.2, leading=9.5, spaceAfter=1.5),
        "cell": make("cell", fontSize=7.5, leading=9.2),
    }


def _changes(follow_up: FollowUp) -> Counter[Change]:
    return Counter(lesion.change for lesion in follow_up.lesions)


def _on_paper(colour: tuple[int, int, int]) -> colors.Color:
    """A screen colour as it can be seen on white paper."""
    red, green, blue = (0.86 * value / 255.0 for value in colour)
    return colors.Color(red, green, blue)


def _signed(value: float, decimals: int) -> str:
    """A number with its sign, a true minus, and no sign on zero."""
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0.0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


def _person(name: Any) -> str:
    """A DICOM person name as people write it: family name, comma, given names."""
    if not name:
        return ""
    family, given = str(name.family_name), str(name.given_name)
    middle = str(name.middle_name)
    first = " ".join(part for part in (given, middle) if part)
    return ", ".join(part for part in (family, first) if part) or str(name).replace("^", " ")


def _day(value: Any) -> str:
    """A DICOM date as YYYY-MM-DD; anything else as it stands."""
    text = str(value or "").strip()
    if len(text) == 8 and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text


def _study_day(study: SelectedStudy) -> str:
    return "" if study.study.acquired is None else study.study.acquired.isoformat()


def _distinct(values: Sequence[int | None]) -> list[int]:
    found: list[int] = []
    for value in values:
        if value is not None and value not in found:
            found.append(value)
    return found


def _cut(text: str, limit: int = 420) -> str:
    """A text of at most ``limit`` characters; results.json holds the whole."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _shortened(text: str, font: str, size: float, room: float) -> str:
    if pdfmetrics.stringWidth(text, font, size) <= room:
        return text
    while text and pdfmetrics.stringWidth(text + "…", font, size) > room:
        text = text[:-1]
    return text + "…"


def _png(picture: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _flowable(picture: bytes, side: float) -> Image:
    return Image(io.BytesIO(picture), width=side, height=side)

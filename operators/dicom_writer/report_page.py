"""Header, footer and heading of the report's pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.pagesizes import A4
from reportlab.lib.units import cm, mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Flowable, Paragraph, Spacer, Table, TableStyle

from operators.dicom_writer.report_sheet import (
    BLUE,
    LINE,
    MARGIN,
    SOFT,
    WIDTH,
    Sheet,
    cut,
    day,
    person,
    shortened,
    study_day,
)
from operators.version import NAME, STATEMENT, VERSION


class NumberedCanvas(Canvas):  # type: ignore[misc]
    """A canvas that knows the number of pages when it draws headers and footers."""

    def __init__(self, *args: Any, decorate: Callable[[Canvas, int, int], None], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._decorate = decorate
        self._pages: list[dict[str, Any]] = []

    def showPage(self) -> None:  # noqa: N802
        """Keep the page until the number of pages is known."""
        self._pages.append(dict(self.__dict__))
        self._startPage()

    def save(self) -> None:
        """Draw headers and footers and write the file."""
        for number, page in enumerate(self._pages, start=1):
            self.__dict__.update(page)
            self._decorate(self, number, len(self._pages))
            super().showPage()
        super().save()


def decorate(sheet: Sheet, canvas: Canvas, page: int, pages: int) -> None:
    """Draw the header (from the second page on) and the footer of a page."""
    canvas.saveState()
    canvas.setStrokeColor(LINE)
    canvas.setLineWidth(0.5)
    if page > 1:
        header = sheet.context.patient_and_study
        top = A4[1] - 1.1 * cm
        left = "   ".join(
            part
            for part in (
                person(header.get("PatientName")),
                str(header.get("PatientID") or ""),
                day(header.get("StudyDate")),
            )
            if part
        )
        canvas.setFillColor(SOFT)
        room = WIDTH - pdfmetrics.stringWidth(sheet.title, "Report", 7.5) - 8 * mm
        canvas.setFont("Report", 7.5)
        canvas.drawString(MARGIN, top, shortened(left, "Report", 7.5, room))
        canvas.drawRightString(A4[0] - MARGIN, top, sheet.title)
        canvas.line(MARGIN, top - 4, A4[0] - MARGIN, top - 4)
    bottom = 0.95 * cm
    canvas.line(MARGIN, bottom + 10, A4[0] - MARGIN, bottom + 10)
    canvas.setFillColor(SOFT)
    canvas.setFont("Report-Bold", 7)
    canvas.drawString(MARGIN, bottom, STATEMENT)
    canvas.setFont("Report", 7)
    canvas.drawCentredString(A4[0] / 2 + 1.2 * cm, bottom, f"{NAME} {VERSION}")
    canvas.drawRightString(
        A4[0] - MARGIN, bottom, sheet.text["page"].format(page=page, pages=pages)
    )
    canvas.restoreState()


def heading(sheet: Sheet) -> list[Flowable]:
    """Title, statement of use, and who and what the report is about."""
    words, header = sheet.text, sheet.context.patient_and_study
    made = sheet.context.created_in_study_zone.strftime("%Y-%m-%d %H:%M")
    stamp = (
        f"<b>{escape(sheet.words['statement'])}</b><br/>"
        f"{escape(words['created'].format(time=made))}"
    )
    title = Table(
        [
            [
                [
                    sheet.paragraph(sheet.title, "title"),
                    sheet.paragraph(words["subtitle"], "subtitle"),
                ],
                Paragraph(stamp, sheet.styles["stamp"]),
            ]
        ],
        colWidths=[0.6 * WIDTH, 0.4 * WIDTH],
        style=TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("RIGHTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 0),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
                ("LINEBELOW", (0, 0), (-1, -1), 1.4, BLUE, "butt"),
            ]
        ),
    )
    unknown = words["unknown"]
    facts = [
        (words["patient"], person(header.get("PatientName")) or unknown),
        (words["study_date"], day(header.get("StudyDate")) or unknown),
        (words["patient_id"], str(header.get("PatientID") or "") or unknown),
        (words["prior_date"], _prior_date(sheet)),
        (words["birth_date"], day(header.get("PatientBirthDate")) or unknown),
        (words["accession"], str(header.get("AccessionNumber") or "") or unknown),
        (words["sex"], str(header.get("PatientSex") or "") or unknown),
        (words["study"], str(header.get("StudyDescription") or "") or unknown),
    ]
    rows = []
    for first, second in zip(facts[::2], facts[1::2], strict=True):
        row: list[Paragraph] = []
        for label, value in (first, second):
            row.append(sheet.paragraph(label, "label"))
            row.append(sheet.paragraph(cut(value, 130), "value"))
        rows.append(row)
    identification = Table(
        rows,
        colWidths=[2.4 * cm, 0.5 * WIDTH - 2.4 * cm, 3.0 * cm, 0.5 * WIDTH - 3.0 * cm],
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


def _prior_date(sheet: Sheet) -> str:
    prior = sheet.context.prior
    if prior is None:
        return str(sheet.text["no_prior"])
    date = study_day(prior) or str(sheet.text["unknown"])
    if prior.interval_days is None:
        return date
    return str(sheet.text["interval_days"].format(date=date, days=prior.interval_days))

"""The report for the reader of the study, as PDF; its first page says what changed."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate

from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.report_overview import overview
from operators.dicom_writer.report_page import NumberedCanvas, decorate, heading
from operators.dicom_writer.report_pictures import examples, overview_pictures
from operators.dicom_writer.report_sheet import BOTTOM, MARGIN, TOP, WIDTH, Sheet
from operators.dicom_writer.report_summary import noise, serious_notes, summary
from operators.dicom_writer.report_tables import closing, history, lesion_table, series
from operators.version import NAME, STATEMENT, VERSION

MOST_EXAMPLES = 80
MOST_LESIONS = 400
MOST_SERIOUS_NOTES = 4
"""On the first page, which has to answer what changed."""
MOST_NOTES = 12


def write_report(pdf_path: Path, context: OutputContext) -> None:
    """Write the report as a PDF.

    The first page says what changed, with quality notes, volumes over time and dissemination in
    space and time; then come close-ups of each new, enlarging or resolved lesion, and the table of
    all lesions. Beyond the limits above the rest is left out, and the report says how much.

    Parameters
    ----------
    pdf_path
        The file to write.
    context
        What to report, and the language.
    """
    sheet = Sheet(context)
    buffer = io.BytesIO()
    document = BaseDocTemplate(
        buffer,
        pagesize=A4,
        title=sheet.title,
        author=f"{NAME} {VERSION}",
        subject=STATEMENT,
        creator=f"{NAME} {VERSION}",
        lang=sheet.language,
    )
    frame = Frame(
        MARGIN,
        BOTTOM,
        WIDTH,
        A4[1] - TOP - BOTTOM,
        leftPadding=0,
        rightPadding=0,
        topPadding=0,
        bottomPadding=0,
    )
    document.addPageTemplates(PageTemplate(frames=[frame]))
    story = [
        *heading(sheet),
        *summary(sheet),
        *serious_notes(sheet, MOST_SERIOUS_NOTES),
        *overview(sheet),
        *noise(sheet),
        *overview_pictures(sheet),
        *examples(sheet, MOST_EXAMPLES),
        *lesion_table(sheet, MOST_LESIONS),
        *history(sheet, MOST_LESIONS),
        *series(sheet),
        *closing(sheet, MOST_NOTES, MOST_SERIOUS_NOTES),
    ]
    document.build(story, canvasmaker=partial(NumberedCanvas, decorate=partial(decorate, sheet)))
    pdf_path.write_bytes(buffer.getvalue())

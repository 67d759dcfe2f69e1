"""A report's sections as one HTML page and as PDF."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import (
    Flowable,
    Image,
    KeepTogether,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
)

from operators.version import NAME, STATEMENT, VERSION

PASS, FAIL = "PASS", "FAIL"
VERDICTS = {PASS: "#1a7f37", FAIL: "#b3261e"}
"""Cells that say so are coloured."""


@dataclass
class Section:
    """A heading with text, tables and figures, in this order.

    Attributes
    ----------
    tables
        Rows of cells; the first row is the heading.
    figures
        PNG or JPEG images with their captions.
    together
        Whether the PDF keeps it on one page.
    """

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    figures: list[tuple[bytes, str]] = field(default_factory=list)
    together: bool = False


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .6em;
text-align:left}th{background:#f0f3f6}img{max-width:100%}footer{color:#666;margin-top:3em}"""


def _cell(text: str) -> str:
    if text in VERDICTS:
        return f'<b style="color:{VERDICTS[text]}">{text}</b>'
    return html.escape(text)


def write_html(sections: Sequence[Section], title: str, path: Path) -> None:
    """One file without anything from outside."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>",
    ]
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
        for rows in section.tables:
            parts.append("<table>")
            for place, row in enumerate(rows):
                tag = "td" if place else "th"
                cells = "".join(f"<{tag}>{_cell(cell)}</{tag}>" for cell in row)
                parts.append(f"<tr>{cells}</tr>")
            parts.append("</table>")
        for image, caption in section.figures:
            encoded = base64.b64encode(image).decode()
            kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
            source = f"data:image/{kind};base64,{encoded}"
            parts.append(
                f'<figure><img alt="{html.escape(caption)}" src="{source}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    parts.append(f"<footer>{html.escape(f'{NAME} {VERSION}. {STATEMENT}')}</footer></body></html>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _footer(title: str) -> Any:
    def draw(canvas: Any, document: Any) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica", 7)
        canvas.setFillGray(0.4)
        canvas.drawString(18 * mm, 10 * mm, f"{title} · {NAME} {VERSION}. {STATEMENT}")
        canvas.drawRightString(A4[0] - 18 * mm, 10 * mm, f"page {document.page}")
        canvas.restoreState()

    return draw


def write_pdf(sections: Sequence[Section], title: str, path: Path) -> None:
    """The same as PDF, A4, with a footer on each page."""
    styles = getSampleStyleSheet()
    small = styles["BodyText"].clone("small", fontSize=8, leading=10)
    tiny = small.clone("tiny", fontSize=6.5, leading=8)
    head = styles["Heading2"].clone("head", keepWithNext=1)
    lead = styles["BodyText"].clone("lead", keepWithNext=1)
    colour = {
        text: small.clone(text, textColor=colors.HexColor(value), fontName="Helvetica-Bold")
        for text, value in VERDICTS.items()
    }
    widest, tallest = 174 * mm, 190 * mm
    flow: list[Flowable] = [Paragraph(html.escape(title), styles["Title"])]
    for section in sections:
        own: list[Flowable] = [Paragraph(html.escape(section.title), head)]
        own += [Paragraph(html.escape(text), lead) for text in section.text]
        for rows in section.tables:
            plain = small if len(rows[0]) < 8 else tiny
            cells = [
                [Paragraph(html.escape(cell), colour.get(cell, plain)) for cell in row]
                for row in rows
            ]
            # names stand in the first column, and are longer than figures
            share = widest / (len(rows[0]) + 0.6)
            widths = [1.6 * share, *[share] * (len(rows[0]) - 1)]
            table = Table(cells, colWidths=widths, hAlign="LEFT", repeatRows=1)
            table.setStyle(
                [
                    ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor("#cccccc")),
                    ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#f0f3f6")),
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ]
            )
            own += [table, Spacer(0, 4 * mm)]
        for image, caption in section.figures:
            picture = Image(io.BytesIO(image))
            scale = min(0.65, widest / picture.imageWidth, tallest / picture.imageHeight)
            picture.drawWidth = picture.imageWidth * scale
            picture.drawHeight = picture.imageHeight * scale
            picture.hAlign = "LEFT"
            own.append(KeepTogether([picture, Paragraph(html.escape(caption), small)]))
        flow += [KeepTogether(own)] if section.together else own
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        title=title,
        author=f"{NAME} {VERSION}",
        leftMargin=18 * mm,
        rightMargin=18 * mm,
    )
    footer = _footer(title)
    document.build(flow, onFirstPage=footer, onLaterPages=footer)

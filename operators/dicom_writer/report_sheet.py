"""What all parts of the report share: the data, the texts, the page and its styles."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image as PILImage
from reportlab.lib import colors
from reportlab.lib.enums import TA_CENTER, TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import cm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Image, Paragraph, Table, TableStyle

from operators.dicom_writer.common import OutputContext
from operators.dicom_writer.rendering import (
    BY_IMPORTANCE,
    Scene,
    build_scene,
    font_folder,
    lesion_names,
)
from operators.dicom_writer.texts import number, signed, texts
from operators.messages import FollowUp, Lesion, SelectedStudy

MARGIN = 1.6 * cm
WIDTH = A4[0] - 2 * MARGIN
TOP = 1.55 * cm
BOTTOM = 1.5 * cm
INK = colors.HexColor("#1c2530")
SOFT = colors.HexColor("#5b6673")
LINE = colors.HexColor("#c9d1da")
BAND = colors.HexColor("#eef2f6")
BLUE = colors.HexColor("#1f4e79")
NOTE_COLOURS = {
    "error": (colors.HexColor("#fdeaea"), colors.HexColor("#b3261e")),
    "warning": (colors.HexColor("#fff5e0"), colors.HexColor("#b26a00")),
    "info": (colors.HexColor("#eef2f6"), colors.HexColor("#5b6673")),
}
TIGHT = TableStyle(
    [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("ALIGN", (0, 0), (-1, -1), "CENTER"),
        ("LEFTPADDING", (0, 0), (-1, -1), 0),
        ("RIGHTPADDING", (0, 0), (-1, -1), 0),
        ("TOPPADDING", (0, 0), (-1, -1), 0),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 0),
    ]
)


_TRAILING_NUMBER = re.compile(r"\d+$")


class Sheet:
    """The data, texts and styles of one report."""

    def __init__(self, context: OutputContext) -> None:
        register_fonts()
        self.context = context
        self.language = context.settings.language
        self.words: dict[str, Any] = texts(self.language)
        self.text: dict[str, Any] = self.words["report"]
        self.styles = make_styles()
        self.names = lesion_names(self.follow_up.lesions)

    @property
    def follow_up(self) -> FollowUp:
        """The result to report."""
        return self.context.follow_up

    @cached_property
    def scene(self) -> Scene:
        """Images and labels."""
        return build_scene(self.follow_up)

    @property
    def compared(self) -> bool:
        """Whether an earlier study was compared."""
        return self.scene.prior_labels is not None

    @cached_property
    def ranked(self) -> list[Lesion]:
        """Lesions by importance of their change, then by size."""
        return sorted(
            self.follow_up.lesions,
            key=lambda one: (
                BY_IMPORTANCE.index(one.change),
                -max(one.volume_ml, one.prior_volume_ml or 0.0),
            ),
        )

    @property
    def title(self) -> str:
        """The report's title."""
        return str(self.text["title" if self.context.prior is not None else "title_baseline"])

    def name(self, lesion: Lesion) -> str:
        """The lesion's name, marked if only the comparison of the images found it."""
        mark = self.text["found_by_mark"] if lesion.found_by == "comparison" else ""
        return f"{self.names[lesion.tracking_uid]}{mark}"

    def identity(self, lesion: Lesion) -> str:
        """The number of the lesion's tracking ID, which it has in every study."""
        found = _TRAILING_NUMBER.search(lesion.tracking_id)
        return cut(lesion.tracking_id, 6) if found is None else found[0]

    def found_by_note(self, lesions: Sequence[Lesion]) -> list[Paragraph]:
        """What the mark says, below a part of the report that shows a marked lesion."""
        if all(lesion.found_by != "comparison" for lesion in lesions):
            return []
        note = self.text["found_by_note"].format(mark=self.text["found_by_mark"])
        return [self.paragraph(note, "small")]

    def number(self, value: float, decimals: int) -> str:
        """A number in the report's language."""
        return number(value, decimals, self.language)

    def signed(self, value: float, decimals: int) -> str:
        """A number with its sign in the report's language."""
        return signed(value, decimals, self.language)

    def paragraph(self, text: str, style: str) -> Paragraph:
        """Plain text in one of the styles."""
        return Paragraph(escape(text), self.styles[style])

    def section(self, title: str) -> Paragraph:
        """The heading of a section."""
        return self.paragraph(title, "section")

    def box(self, severity: str, title: str, message: str) -> Table:
        """A note in the colour of its severity."""
        back, front = NOTE_COLOURS[severity]
        heading = f"<font color='#{front.hexval()[2:]}'><b>{escape(title)}.</b></font>"
        return Table(
            [[Paragraph(f"{heading} {escape(cut(message))}", self.styles["note"])]],
            colWidths=[WIDTH],
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

    def grid(
        self,
        rows: Sequence[Sequence[Any]],
        widths: Sequence[float],
        *,
        right_from: int,
        extra: Sequence[tuple[Any, ...]] = (),
    ) -> Table:
        """A table with a heading that is repeated on every page; numbers from ``right_from`` on."""
        return Table(
            [list(row) for row in rows],
            colWidths=list(widths),
            repeatRows=1,
            style=TableStyle(
                [
                    ("FONT", (0, 0), (-1, -1), "Report", 7.2, 8.8),
                    ("FONTNAME", (0, 0), (-1, 0), "Report-Bold"),
                    ("TEXTCOLOR", (0, 0), (-1, -1), INK),
                    ("BACKGROUND", (0, 0), (-1, 0), BAND),
                    ("LINEBELOW", (0, 0), (-1, -1), 0.3, LINE),
                    ("ALIGN", (right_from, 0), (-1, -1), "RIGHT"),
                    ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
                    ("LEFTPADDING", (0, 0), (-1, -1), 3.5),
                    ("RIGHTPADDING", (0, 0), (-1, -1), 3.5),
                    ("TOPPADDING", (0, 0), (-1, -1), 1.8),
                    ("BOTTOMPADDING", (0, 0), (-1, -1), 2.4),
                    *extra,
                ]
            ),
        )


def register_fonts() -> None:
    """Make the DejaVu fonts known, which cover Latin, Greek and Cyrillic."""
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


def make_styles() -> dict[str, ParagraphStyle]:
    """The paragraph styles by name."""
    base = ParagraphStyle(
        "base", fontName="Report", fontSize=8, leading=10.4, textColor=INK, splitLongWords=True
    )
    make = partial(ParagraphStyle, parent=base)
    return {
        "title": make("title", fontName="Report-Bold", fontSize=15, leading=18, textColor=BLUE),
        "subtitle": make("subtitle", fontSize=7.8, leading=10, textColor=SOFT),
        "stamp": make("stamp", fontSize=7.2, leading=9.5, textColor=SOFT, alignment=TA_RIGHT),
        "label": make("label", fontSize=7.5, leading=10, textColor=SOFT),
        "value": make("value", fontSize=8.2, leading=10),
        "section": make(
            "section",
            fontName="Report-Bold",
            fontSize=9.2,
            leading=11.5,
            textColor=BLUE,
            spaceBefore=6,
            spaceAfter=3,
        ),
        "block": make("block", fontName="Report-Bold", fontSize=9.2, leading=11.5, textColor=BLUE),
        "lead": make("lead", fontSize=8.8, leading=12, spaceAfter=2),
        "figure": make("figure", fontName="Report-Bold", fontSize=14, leading=17),
        "figure_label": make("figure_label", fontSize=7.2, leading=9),
        "note": make("note", fontSize=7.8, leading=10),
        "small": make("small", fontSize=7.2, leading=9.4, spaceAfter=1),
        "label_small": make("label_small", fontSize=7.2, leading=9.4, textColor=SOFT),
        "caption": make(
            "caption", fontSize=7, leading=9, textColor=SOFT, alignment=TA_CENTER, spaceBefore=2
        ),
        "example": make("example", fontSize=7.2, leading=9.5, spaceAfter=1.5),
        "example_name": make("example_name", fontName="Report-Bold", fontSize=11, leading=14),
        "cell": make("cell", fontSize=7.2, leading=8.8),
    }


def on_paper(colour: tuple[int, int, int]) -> colors.Color:
    """A screen colour as it can be seen on white paper."""
    red, green, blue = (0.86 * value / 255.0 for value in colour)
    return colors.Color(red, green, blue)


def person(name: Any) -> str:
    """A DICOM person name as people write it: family name, comma, given names."""
    if not name:
        return ""
    family, given = str(name.family_name), str(name.given_name)
    middle = str(name.middle_name)
    first = " ".join(part for part in (given, middle) if part)
    return ", ".join(part for part in (family, first) if part) or str(name).replace("^", " ")


def day(value: Any) -> str:
    """A DICOM date as YYYY-MM-DD; anything else as it stands."""
    text = str(value or "").strip()
    if len(text) == 8 and text.isdigit():
        return f"{text[:4]}-{text[4:6]}-{text[6:]}"
    return text


def study_day(study: SelectedStudy) -> str:
    """The study's date as YYYY-MM-DD; empty when unknown."""
    return "" if study.study.acquired is None else study.study.acquired.isoformat()


def cut(text: str, limit: int = 420) -> str:
    """A text of at most ``limit`` characters; results.json holds the whole."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def shortened(text: str, font: str, size: float, room: float) -> str:
    """A text that fits ``room`` points."""
    if pdfmetrics.stringWidth(text, font, size) <= room:
        return text
    while text and pdfmetrics.stringWidth(text + "…", font, size) > room:
        text = text[:-1]
    return text + "…"


def png(picture: PILImage.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def flowable(picture: bytes, side: float) -> Image:
    """A square picture for the page."""
    return Image(io.BytesIO(picture), width=side, height=side)

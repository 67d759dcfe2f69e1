"""Volumes over time, dissemination in space and time: the middle of the report's first page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from xml.sax.saxutils import escape

from reportlab.lib.units import cm
from reportlab.platypus import Flowable, Image, Paragraph, Spacer, Table, TableStyle

from operators.dicom_writer.dissemination import NOT_EXAMINED, dissemination
from operators.dicom_writer.plots import lesions_by_diameter, volumes_over_time
from operators.dicom_writer.report_sheet import INK, SOFT, WIDTH, Sheet, study_day
from operators.dicom_writer.timeline import timeline
from operators.messages import Lesion, Region

_REGIONS: tuple[Region, ...] = (
    "periventricular",
    "juxtacortical",
    "infratentorial",
    "deep_white_matter",
    "unspecified",
)
_PLOT_CM = (9.6, 4.9)
_ALONE = 9.0 * cm


def overview(sheet: Sheet) -> list[Flowable]:
    """The plot beside the tables of dissemination; without a lesion the tables alone."""
    if not sheet.follow_up.lesions:
        table = _in_space(sheet, _ALONE)
        table.hAlign = "LEFT"
        return [sheet.section(sheet.text["by_region"]), table, *_in_time(sheet)]
    left = 9.9 * cm
    width = WIDTH - left
    title = sheet.text["plots" if sheet.compared else "plots_baseline"]
    plot = Image(io.BytesIO(_plot(sheet)), width=_PLOT_CM[0] * cm, height=_PLOT_CM[1] * cm)
    block = Table(
        [
            [
                sheet.paragraph(title, "block"),
                sheet.paragraph(sheet.text["by_region"], "block"),
            ],
            [plot, [_in_space(sheet, width), *_in_time(sheet)]],
        ],
        colWidths=[left, width],
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


def _plot(sheet: Sheet) -> bytes:
    if not sheet.compared:
        diameters = [lesion.diameter_mm for lesion in sheet.follow_up.lesions]
        return lesions_by_diameter(diameters, _PLOT_CM, sheet.language)
    moments = timeline(sheet.context)
    names = []
    for position, moment in enumerate(moments):
        last = position == len(moments) - 1
        fallback = sheet.text["current" if last else "prior" if position else "earlier"]
        date = study_day(moment.study)
        # the day itself does not fit beside many others
        names.append((date[:7] if len(moments) > 2 else date) or fallback)
    return volumes_over_time(moments, names, sheet.follow_up.lesions, _PLOT_CM, sheet.language)


def _in_space(sheet: Sheet, width: float) -> Table:
    words = sheet.text
    header = [words["region_heading"], words["count_heading"]]
    if sheet.compared:
        header.append(words["new_heading"])
    header.append(words["load_heading"])
    rows = [header]
    lesions = sheet.follow_up.lesions
    for region in _REGIONS:
        here = [lesion for lesion in lesions if lesion.region == region]
        if region != "unspecified" or here:
            rows.append(_region_row(sheet, sheet.words["region"][region], here))
    total = len(rows)
    rows.append(_region_row(sheet, words["total"], lesions))
    for place in NOT_EXAMINED:
        rows.append([words[place], words["not_examined"], *[""] * (len(header) - 2)])
    numbers = [1.35 * cm, *([1.0 * cm] if sheet.compared else []), 1.5 * cm]
    spans = [("SPAN", (1, row), (-1, row)) for row in range(total + 1, len(rows))]
    return sheet.grid(
        rows,
        [width - sum(numbers), *numbers],
        right_from=1,
        extra=[
            ("FONTNAME", (0, total), (-1, total), "Report-Bold"),
            ("LINEABOVE", (0, total), (-1, total), 0.6, INK),
            ("TEXTCOLOR", (0, total + 1), (-1, -1), SOFT),
            *spans,
        ],
    )


def _region_row(sheet: Sheet, name: str, lesions: Sequence[Lesion]) -> list[str]:
    present = [lesion for lesion in lesions if lesion.segment_number is not None]
    row = [name, str(len(present))]
    if sheet.compared:
        row.append(str(sum(lesion.change == "new" for lesion in present)))
    return [*row, sheet.number(sum(lesion.volume_ml for lesion in present), 2)]


def _in_time(sheet: Sheet) -> list[Flowable]:
    words, found = sheet.text, dissemination(sheet.follow_up)
    space = words["in_space"].format(count=found.regions)
    story: list[Flowable] = [Spacer(0, 2), sheet.paragraph(space, "small")]
    if any(_by_atlas(lesion) for lesion in sheet.follow_up.lesions):
        story.append(sheet.paragraph(words["by_atlas"], "small"))
    lines = []
    studies = {study.study.study_uid: study for study in sheet.context.studies}
    for new in found.in_time:
        interval = ""
        if new.interval_days is not None:
            interval = words["new_since_days"].format(days=new.interval_days)
        date = study_day(studies[new.study_uid]) or words["unknown"]
        lines.append(words["new_since"].format(date=date, interval=interval, count=new.count))
    heading = f"<b>{escape(words['in_time'])}.</b>"
    said = "; ".join(lines) + "." if lines else words["in_time_none"]
    story.append(Paragraph(f"{heading} {escape(said)}", sheet.styles["small"]))
    return story


def _by_atlas(lesion: Lesion) -> bool:
    """Whether the images did not show what the lesion's location is measured from."""
    distances = (lesion.distance_to_ventricle_mm, lesion.distance_to_cortex_mm)
    return lesion.region != "unspecified" and None in distances

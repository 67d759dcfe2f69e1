"""The report's tables of lesions and series, and how the result was made."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.units import cm, mm
from reportlab.platypus import Flowable, KeepTogether, Paragraph, Spacer, Table, TableStyle

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.note_texts import note_text, reason_text
from operators.dicom_writer.report_sheet import (
    INK,
    SOFT,
    TIGHT,
    WIDTH,
    Sheet,
    cut,
    on_paper,
    study_day,
)
from operators.dicom_writer.report_summary import quality_notes
from operators.dicom_writer.timeline import timeline
from operators.messages import Lesion
from operators.version import NAME, STATEMENT, VERSION

_MOST_COLUMNS = 8
"""Time points that the table of volumes over time has room for: the first and the latest ones."""
_WHOLE_DATES = 6
"""Up to so many it has room for the day of each."""


def lesion_table(sheet: Sheet, limit: int) -> list[Flowable]:
    """All lesions, changed and large ones first.

    Parameters
    ----------
    sheet
        The report.
    limit
        At most so many rows; a line says so if there are more lesions.
    """
    lesions, words = sheet.ranked, sheet.text
    if not lesions:
        return []
    shown = lesions[:limit]
    lineage = any(lesion.lineage for lesion in shown)
    header = [words[f"heading_{name}"] for name in ("name", "identity", "change", "region")]
    widths = [0.8 * cm, 1.1 * cm, 2.3 * cm, 2.6 * cm]
    numbers = [("heading_now", 1.25), ("heading_interval", 2.0)]
    if sheet.compared:
        numbers += [
            ("heading_before", 1.55),
            ("heading_difference", 1.3),
            ("heading_percent", 1.0),
            ("heading_change_confidence", 0.9),
        ]
    else:
        del header[2], widths[2]
    numbers += [("heading_diameter", 1.2), ("heading_confidence", 1.05)]
    right_from = len(header)
    header += [words[name] for name, _ in numbers]
    widths += [size * cm for _, size in numbers]
    if lineage:
        header.append(words["heading_lineage"])
        widths.append(1.0 * cm)
    stretch = WIDTH / sum(widths)
    rows: list[list[Any]] = [header]
    extra: list[tuple[Any, ...]] = []
    for position, lesion in enumerate(shown, start=1):
        row = _lesion_row(sheet, lesion)
        rows.append([*row, _lineage(sheet, lesion)] if lineage else row)
        if sheet.compared:
            colour = on_paper(CHANGE_COLOURS[lesion.change])
            extra.append(("LINEBEFORE", (2, position), (2, position), 3.0, colour, "butt"))
    extra.append(("LEFTPADDING", (2, 0), (2, -1), 6))
    extra.append(("FONTSIZE", (0, 0), (-1, -1), 6.9))
    story: list[Flowable] = [sheet.section(words["table"])]
    if len(shown) < len(lesions):
        limited = words["table_limited"].format(shown=len(shown), total=len(lesions))
        story.append(sheet.paragraph(limited, "small"))
    table = sheet.grid(
        rows, [width * stretch for width in widths], right_from=right_from, extra=extra
    )
    below = [
        Spacer(0, 2),
        sheet.paragraph(words["table_note"], "small"),
        *sheet.found_by_note(shown),
    ]
    ratio = sheet.follow_up.change_ratio
    if sheet.compared and ratio is not None:
        rule = words["change_note"].format(percent=f"{100 * ratio:.0f}")
        below.append(sheet.paragraph(rule, "small"))
    if sheet.compared and any(map(_doubtful, shown)):
        doubtful = words["doubtful_note"].format(mark=words["doubtful_mark"].strip())
        below.append(sheet.paragraph(doubtful, "small"))
    if len(rows) < 10:
        return [KeepTogether([*story, table, *below])]
    return [*story, table, *below]


def _lesion_row(sheet: Sheet, lesion: Lesion) -> list[str]:
    row = [sheet.name(lesion), sheet.identity(lesion)]
    if sheet.compared:
        doubt = sheet.text["doubtful_mark"] if _doubtful(lesion) else ""
        row.append(f"{sheet.words['change'][lesion.change]}{doubt}")
    row += [sheet.words["region"][lesion.region], sheet.number(lesion.volume_ml, 3)]
    interval = lesion.volume_interval_ml
    if interval is None or lesion.segment_number is None:
        row.append("–")
    else:
        decimals = 3 if interval[1] < 10.0 else 2
        row.append("–".join(sheet.number(value, decimals) for value in interval))
    if sheet.compared:
        before = lesion.prior_volume_ml or 0.0
        difference = lesion.volume_ml - before
        percent = "–" if before <= 0.0 else sheet.signed(100.0 * difference / before, 0)
        sure = lesion.change_confidence
        row += [
            sheet.number(before, 3),
            sheet.signed(difference, 3),
            percent,
            "–" if sure is None else sheet.number(sure, 2),
        ]
    return [*row, sheet.number(lesion.diameter_mm, 1), sheet.number(lesion.confidence, 2)]


def _doubtful(lesion: Lesion) -> bool:
    """Whether the images rather speak against the change that is stated."""
    return lesion.change_confidence is not None and lesion.change_confidence < 0.5


def _lineage(sheet: Sheet, lesion: Lesion) -> str:
    """The lesions that it came from: by number where they are in this report."""
    return ", ".join(sheet.names.get(uid, f"…{uid[-4:]}") for uid in lesion.lineage)


def history(sheet: Sheet, limit: int) -> list[Flowable]:
    """Volumes at every time point and the change since the first, where there are more than two."""
    moments = timeline(sheet.context)
    if len(moments) < 3 or not sheet.follow_up.lesions:
        return []
    first = moments[0]
    moments = (first, *moments[1:][1 - _MOST_COLUMNS :])
    words, lesions = sheet.text, sheet.follow_up.lesions
    header = [words["heading_name"], words["heading_identity"], words["heading_change"]]
    for position, moment in enumerate(moments):
        date = study_day(moment.study)
        last = position == len(moments) - 1
        header.append(
            (date[:7] if len(moments) > _WHOLE_DATES else date)
            or words["current" if last else "earlier"]
        )
    header.append(words["heading_since_first"])
    rows: list[list[Any]] = [header]
    place = {lesion.tracking_uid: index for index, lesion in enumerate(lesions)}
    shown = sheet.ranked[:limit]
    for lesion in shown:
        volumes = [moment.volumes_ml[place[lesion.tracking_uid]] for moment in moments]
        since = lesion.change_since_first
        rows.append(
            [
                sheet.name(lesion),
                sheet.identity(lesion),
                sheet.words["change"][lesion.change],
                *("–" if volume is None else sheet.number(volume, 3) for volume in volumes),
                "–" if since is None else sheet.words["change"][since],
            ]
        )
    change = "–"
    if first.load_ml > 0.0:
        change = f"{sheet.signed(100.0 * (moments[-1].load_ml / first.load_ml - 1.0), 0)} %"
    loads = (sheet.number(moment.load_ml, 3) for moment in moments)
    rows.append([words["total"], "", "", *loads, change])
    widths = [1.0 * cm, 1.25 * cm, 2.4 * cm]
    since_first = 2.4 * cm
    widths += [min((WIDTH - sum(widths) - since_first) / len(moments), 2.6 * cm)] * len(moments)
    widths.append(since_first)
    extra = [
        ("FONTNAME", (0, len(rows) - 1), (-1, -1), "Report-Bold"),
        ("LINEABOVE", (0, len(rows) - 1), (-1, -1), 0.6, INK),
    ]
    table = sheet.grid(rows, widths, right_from=3, extra=extra)
    table.hAlign = "LEFT"
    story: list[Flowable] = [sheet.section(words["history"])]
    if len(shown) < len(lesions):
        limited = words["history_limited"].format(shown=len(shown), total=len(lesions))
        story.append(sheet.paragraph(limited, "small"))
    note = words["history_note"].format(first=study_day(first.study) or words["unknown"])
    story += [table, sheet.paragraph(note, "small"), *sheet.found_by_note(shown)]
    return [KeepTogether(story)] if len(rows) < 20 else story


def series(sheet: Sheet) -> list[Flowable]:
    """Which series were used, and why."""
    words = sheet.text
    names = ("study", "role", "series", "voxel", "reason")
    rows: list[list[Any]] = [[words[f"heading_{name}"] for name in names]]
    studies = [(words["current"], sheet.context.current)]
    if sheet.context.prior is not None:
        studies.append((words["prior"], sheet.context.prior))
    studies += [(study_day(study) or words["earlier"], study) for study in sheet.context.earlier]
    for name, study in studies:
        for role in sorted(study.series, key=lambda one: (one != "flair", one == "t1", one)):
            selected = study.series[role]
            facts = selected.series.attributes
            label = "" if facts.series_number is None else f"{facts.series_number}: "
            label += facts.series_description or selected.series.label
            slices, between_rows, between_columns = selected.volume.spacing
            voxel = " × ".join(
                sheet.number(size, 2) for size in (between_rows, between_columns, slices)
            )
            texts = (
                name,
                words["role"].get(role, role),
                cut(label, 70),
                voxel,
                cut(reason_text(selected.reason, sheet.language), 220),
            )
            rows.append([sheet.paragraph(text, "cell") for text in texts])
    widths = [2.2 * cm, 1.4 * cm, 4.4 * cm, 3.1 * cm]
    widths.append(WIDTH - sum(widths))
    top = [("VALIGN", (0, 1), (-1, -1), "TOP")]
    table = sheet.grid(rows, widths, right_from=len(names), extra=top)
    heading = sheet.section(words["series"])
    return [KeepTogether([heading, table])] if len(rows) < 12 else [heading, table]


def closing(sheet: Sheet, limit: int, shown: int) -> list[Flowable]:
    """Remarks, how the result was made, and room for a signature.

    Parameters
    ----------
    sheet
        The report.
    limit
        At most so many remarks; a line says so if there are more.
    shown
        So many errors and warnings are on the first page.
    """
    words, model = sheet.text, sheet.context.model
    story: list[Flowable] = []
    notes = [*quality_notes(sheet, serious=True)[shown:], *quality_notes(sheet, serious=False)]
    if notes:
        story.append(sheet.section(words["remarks"]))
    for note in notes[:limit]:
        grade = "" if note.severity == "info" else f"{sheet.words['severity'][note.severity]}. "
        said = note_text(note.message, sheet.language)
        story.append(sheet.paragraph(cut(f"• {grade}{said}"), "small"))
    if len(notes) > limit:
        more = words["quality_more"].format(count=len(notes) - limit)
        story.append(sheet.paragraph(more, "small"))
    engine = words["engine_text"].format(
        engine=model.engine,
        precision=model.precision,
        threshold=sheet.number(sheet.follow_up.probabilities.current.threshold, 2),
    )
    facts = [
        (words["software"], f"{NAME} {VERSION}"),
        (words["model"], f"{model.name} {model.version}, sha256 {model.sha256}"),
        (words["engine"], engine),
    ]
    registration = sheet.follow_up.probabilities.aligned.prior_to_current
    if sheet.compared and registration is not None:
        fit = words["registration_text"].format(
            translation=sheet.number(registration.translation_mm, 1),
            rotation=sheet.number(registration.rotation_deg, 1),
            similarity=sheet.number(registration.similarity, 2),
        )
        facts.append((words["registration"], fit))
    facts.append((words["measurement"], words["measurement_text"]))
    table = Table(
        [
            [sheet.paragraph(label, "label_small"), sheet.paragraph(value, "small")]
            for label, value in facts
        ],
        colWidths=[2.4 * cm, WIDTH - 2.4 * cm],
        style=TIGHT,
    )
    story += [
        sheet.section(words["method"]),
        table,
        Paragraph(f"<b>{escape(STATEMENT)}</b>", sheet.styles["small"]),
        Spacer(0, 22),
        _signature(sheet),
    ]
    return [KeepTogether(story)]


def _signature(sheet: Sheet) -> Table:
    words = sheet.text
    gap = 6 * mm
    widths = [0.42 * WIDTH, gap, 0.36 * WIDTH, gap, 0.22 * WIDTH - 2 * gap]
    return Table(
        [[words["reader"], "", words["signature"], "", words["date"]]],
        colWidths=widths,
        style=TableStyle(
            [
                ("FONT", (0, 0), (-1, -1), "Report", 7, 9),
                ("TEXTCOLOR", (0, 0), (-1, -1), SOFT),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                *(("LINEABOVE", (column, 0), (column, 0), 0.6, INK) for column in (0, 2, 4)),
            ]
        ),
    )

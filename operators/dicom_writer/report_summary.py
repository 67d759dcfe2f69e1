"""The first page's answer to what changed: counts, lesion load, quality, noise floor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Paragraph, Spacer, Table, TableStyle

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.noise_floor import noise_floor
from operators.dicom_writer.note_texts import note_text
from operators.dicom_writer.rendering import BY_IMPORTANCE
from operators.dicom_writer.report_sheet import BAND, BLUE, WIDTH, Sheet, on_paper, study_day
from operators.messages import Change, QualityNote

_SERIOUS = ("error", "warning")
_Tile = tuple[str, str, str, tuple[int, int, int] | None]
"""Number, label, smaller line, colour of the change."""


def summary(sheet: Sheet) -> list[Flowable]:
    """What changed, in a sentence and in numbers."""
    words, follow_up = sheet.text, sheet.follow_up
    story: list[Flowable] = [
        sheet.section(words["findings" if sheet.compared else "findings_baseline"])
    ]
    refused = sheet.context.prior is not None and not sheet.compared
    if refused:
        story += [sheet.box("error", words["refused_title"], _refusal(sheet)), Spacer(0, 5)]
        if not follow_up.lesions:
            story.append(sheet.paragraph(words["no_lesion"], "lead"))
    elif not follow_up.lesions:
        key = "no_lesion_twice" if sheet.compared else "no_lesion"
        story.append(sheet.paragraph(words[key], "lead"))
    else:
        story.append(sheet.paragraph(_sentence(sheet), "lead"))
    return [*story, Spacer(0, 3), _tile_row(sheet, _tiles(sheet)), Spacer(0, 5)]


def _tiles(sheet: Sheet) -> list[_Tile]:
    totals, words = sheet.follow_up.totals, sheet.text
    now = _load(
        sheet, words["tile_load"], totals.lesion_volume_ml, totals.lesion_volume_interval_ml
    )
    count: _Tile = (str(totals.lesion_count), words["tile_count"], "", None)
    if not sheet.compared:
        largest = max((one.diameter_mm for one in sheet.follow_up.lesions), default=0.0)
        return [count, now, (f"{sheet.number(largest, 1)} mm", words["tile_largest"], "", None)]
    counts = _changes(sheet)
    shown: tuple[Change, ...] = ("new", "enlarging", "resolved", "shrinking")
    tiles: list[_Tile] = [
        (str(counts[change]), sheet.words["change"][change], "", CHANGE_COLOURS[change])
        for change in shown
    ]
    before = totals.prior_lesion_volume_ml or 0.0
    return [
        *tiles,
        now,
        _load(sheet, words["tile_load_before"], before, totals.prior_lesion_volume_interval_ml),
        count,
    ]


def _load(
    sheet: Sheet, label: str, volume_ml: float, interval_ml: tuple[float, float] | None
) -> _Tile:
    note = ""
    if interval_ml is not None:
        low, high = (sheet.number(value, 2) for value in interval_ml)
        note = sheet.text["tile_interval"].format(low=low, high=high)
    return f"{sheet.number(volume_ml, 2)} ml", label, note, None


def _sentence(sheet: Sheet) -> str:
    totals, words, prior = sheet.follow_up.totals, sheet.text, sheet.context.prior
    now = sheet.number(totals.lesion_volume_ml, 2)
    if not sheet.compared or prior is None:
        return str(words["baseline_statement"].format(count=totals.lesion_count, load=now))
    counts = _changes(sheet)
    parts = [
        sheet.words["counted"]["one" if counts[change] == 1 else "many"][change].format(
            count=counts[change]
        )
        for change in BY_IMPORTANCE
        if counts[change]
    ]
    before = totals.prior_lesion_volume_ml or 0.0
    difference = totals.lesion_volume_ml - before
    percent = "" if before <= 0.0 else f", {sheet.signed(100.0 * difference / before, 0)} %"
    facts = {
        "date": study_day(prior) or words["unknown"],
        "interval": ""
        if prior.interval_days is None
        else words["interval"].format(days=prior.interval_days),
        "now": now,
        "before": sheet.number(before, 2),
        "difference": sheet.signed(difference, 2),
        "percent": percent,
    }
    if counts["new"] + counts["enlarging"]:
        return str(words["active"].format(parts=", ".join(parts), **facts))
    rest = words["also"].format(parts=", ".join(parts)) if parts else ""
    return str(words["inactive"].format(parts=rest, **facts))


def _refusal(sheet: Sheet) -> str:
    words, prior = sheet.text, sheet.context.prior
    assert prior is not None
    registration = sheet.follow_up.probabilities.aligned.prior_to_current
    date = study_day(prior) or words["unknown"]
    if registration is None or registration.accepted:
        return str(words["not_compared"].format(date=date))
    return str(
        words["refused"].format(
            date=date,
            similarity=sheet.number(registration.similarity, 2),
            rotation=sheet.number(registration.rotation_deg, 1),
            translation=sheet.number(registration.translation_mm, 1),
        )
    )


def _tile_row(sheet: Sheet, tiles: Sequence[_Tile]) -> Table:
    gap = 1.8 * mm
    wide = [1.0 if colour is not None else 1.55 for _, _, _, colour in tiles]
    unit = (WIDTH - gap * (len(tiles) - 1)) / sum(wide)
    cells: list[Any] = []
    widths: list[float] = []
    style: list[tuple[Any, ...]] = [
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 5),
        ("RIGHTPADDING", (0, 0), (-1, -1), 2),
        ("TOPPADDING", (0, 0), (-1, -1), 4),
        ("BOTTOMPADDING", (0, 0), (-1, -1), 5),
    ]
    for position, (value, label, note, colour) in enumerate(tiles):
        column = 2 * position
        if position:
            cells.append("")
            widths.append(gap)
        suffix = f"<br/><font color='#5b6673' size='6.4'>{escape(note)}</font>" if note else ""
        cells.append(
            [
                sheet.paragraph(value, "figure"),
                Paragraph(f"{escape(label)}{suffix}", sheet.styles["figure_label"]),
            ]
        )
        widths.append(unit * wide[position])
        edge = BLUE if colour is None else on_paper(colour)
        style += [
            ("BACKGROUND", (column, 0), (column, 0), BAND),
            ("LINEABOVE", (column, 0), (column, 0), 3.0, edge, "butt"),
        ]
    return Table([cells], colWidths=widths, style=TableStyle(style))


def serious_notes(sheet: Sheet, limit: int) -> list[Flowable]:
    """Errors and warnings, as boxes, and how many notes stand at the end of the report."""
    notes = quality_notes(sheet, serious=True)
    story: list[Flowable] = []
    for note in notes[:limit]:
        title = sheet.words["severity"][note.severity]
        story += [
            sheet.box(note.severity, title, note_text(note.message, sheet.language)),
            Spacer(0, 2.5),
        ]
    later = len(sheet.follow_up.quality) - len(notes[:limit])
    if later:
        story.append(sheet.paragraph(sheet.text["quality_later"].format(count=later), "small"))
    elif not notes:
        story.append(sheet.paragraph(sheet.text["quality_none"], "small"))
    return story


def quality_notes(sheet: Sheet, *, serious: bool) -> list[QualityNote]:
    """The notes of all stages, the gravest first."""
    rank = ("error", "warning", "info")
    notes = [note for note in sheet.follow_up.quality if (note.severity in _SERIOUS) == serious]
    return sorted(notes, key=lambda note: rank.index(note.severity))


def noise(sheet: Sheet) -> list[Flowable]:
    """How much this version finds where nothing has changed."""
    if not sheet.compared:
        return []
    floor = noise_floor()
    text = sheet.text["noise_floor_unknown"]
    if floor.trials:
        text = sheet.text["noise_floor"].format(
            trials=floor.trials,
            mean=sheet.number(floor.false_new_mean, 2),
            most=floor.false_new_max,
            spread=sheet.number(floor.load_change_sd_percent, 1),
        )
    return [Spacer(0, 2), sheet.paragraph(text, "small")]


def _changes(sheet: Sheet) -> Counter[Change]:
    return Counter(lesion.change for lesion in sheet.follow_up.lesions)

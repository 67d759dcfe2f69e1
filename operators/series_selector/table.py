"""What was found in the input, as a text table for error messages."""

from __future__ import annotations

from collections.abc import Sequence

from operators.messages import Series
from operators.series_selector.assessment import StudyAssessment

_HEADINGS = ("study", "series", "description", "slices", "role", "result")
_DESCRIPTION_WIDTH = 32


def found_table(assessments: Sequence[StudyAssessment]) -> str:
    """One line per series: study (numbered from the newest), series, description, slice count,
    role, and why it was chosen or refused.

    The table shows series descriptions: it is for the user's eyes, in an error message, and not
    for the log.
    """
    rows: list[tuple[tuple[int, float, str], tuple[str, ...]]] = []
    for index, assessment in enumerate(assessments, start=1):
        for role, chosen in assessment.chosen.items():
            rows.append(_row(index, chosen.series, role, f"usable: {chosen.reason}"))
        for rejected in assessment.rejected:
            rows.append(_row(index, rejected.series, rejected.role, rejected.reason))
        if not assessment.study.series:
            rows.append(((index, 0, ""), (str(index), "none", "", "", "", "no image series")))
    lines = [_HEADINGS, *(cells for _, cells in sorted(rows))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS) - 1)]
    return "\n".join(
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]
        )
        for line in lines
    )


def _row(
    study: int, series: Series, role: str | None, result: str
) -> tuple[tuple[int, float, str], tuple[str, ...]]:
    attributes = series.attributes
    number = attributes.series_number
    label = series.label.removeprefix("series ")
    description = " ".join((attributes.series_description or "").split())
    if len(description) > _DESCRIPTION_WIDTH:
        description = description[: _DESCRIPTION_WIDTH - 1] + "…"
    order = (study, float("inf") if number is None else float(number), series.stack)
    cells = (str(study), label, description, str(attributes.slice_count), role or "-", result)
    return order, cells

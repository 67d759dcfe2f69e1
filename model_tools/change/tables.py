"""The summary as Markdown, placed between two marks of docs/evaluation.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_tools.change.summary import FALSE_CALLS

BEGIN = "<!-- change: begin (written by python -m model_tools change summary) -->"
END = "<!-- change: end -->"


def rendered(summary: Mapping[str, Any]) -> str:
    """Every table."""
    models = ", ".join(f"{m['name']} {m['version']} ({m['sha256'][:8]})" for m in summary["models"])
    parts = [
        f"Models: {models}. Comparator: {summary['comparator']}. Brackets hold 95 % intervals "
        "(Wilson).",
        _retest(summary["retest"]),
        "### Planted change, made prior",
        _planted(summary["transplant"]),
        "### New lesions planted into the second of two real studies (12, 03)",
        _planted(summary["real_transplant"], new_only=True),
        _real(summary["real"]),
    ]
    return "\n\n".join(parts)


def place(text: str, tables: str) -> str:
    """The page with the tables between its marks.

    Raises
    ------
    ValueError
        If the marks are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError("the page has no marks for the tables")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def write(page: Path, summary: Mapping[str, Any]) -> None:
    """Replace the tables of a page."""
    page.write_text(place(page.read_text(encoding="utf-8"), rendered(summary)), encoding="utf-8")


def percent(part: Mapping[str, Any]) -> str:
    """A proportion as "12 of 15, 80 % (55–93)"."""
    if not part["among"]:
        return "–"
    low, high = part["interval"]
    return (
        f"{part['hits']} of {part['among']}, {100 * part['share']:.0f} % "
        f"({100 * low:.0f}–{100 * high:.0f})"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _spread(part: Mapping[str, Any], unit: str = "", digits: int = 2) -> str:
    if not part["n"]:
        return "–"
    mean, sd, least, most = (part[k] for k in ("mean", "sd", "least", "most"))
    return f"{mean:.{digits}f} ± {sd:.{digits}f}{unit} ({least:.{digits}f} to {most:.{digits}f})"


def _calls(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in found.items()) or "none"


def _retest(part: Mapping[str, Any]) -> str:
    rows = [
        (
            f"false {call}",
            f"{part['false'][call]['mean']:.2f}",
            f"{part['false'][call]['most']:.0f}",
            " ".join(str(n) for n in part["false"][call]["by_trial"]),
        )
        for call in FALSE_CALLS
        if part["false"][call]["n"]
    ]
    by_scan = [
        (scan, *(" ".join(str(n) for n in found[call]) for call in FALSE_CALLS))
        for scan, found in part["by_scan"].items()
    ]
    return "\n\n".join(
        [
            "### A scan against itself (test-retest)",
            f"{part['trials']} trials; at most one false new lesion in "
            f"{part['trials_with_at_most_one_new']} of them. Lesions per trial "
            f"{_spread(part['lesions'], digits=0)}. Change of lesion load "
            f"{_spread(part['load_change_percent'], ' %', 1)}. Registration against the known "
            f"motion, mean over the brain {_spread(part['registration_mean_mm'], ' mm')}, largest "
            f"{_spread(part['registration_max_mm'], ' mm')}.",
            table(("per trial", "mean", "most", "all trials, sorted"), rows),
            table(("scan (patient_study)", *FALSE_CALLS), by_scan),
        ]
    )


def _planted(part: Mapping[str, Any], *, new_only: bool = False) -> str:
    if not part["trials"]:
        return "No trial was run."
    new = part["new_from_5_mm"]
    rows = [
        (
            f"{one['from']:g}–{one['to']:g}",
            percent(one["called"]),
            percent(one["outlined"]),
            _calls(one["calls"]),
        )
        for one in part["new_by_diameter"]
    ]
    contrast = [
        (f"{one['from']:g}–{one['to']:g}", percent(one["called"]), _calls(one["calls"]))
        for one in part["new_from_5_mm_by_contrast"]
    ]
    scans = [
        (
            scan,
            percent(found["called"]),
            _calls(found["calls"]),
            " ".join(str(n) for n in part["false_new_by_scan"][scan]),
        )
        for scan, found in part["new_from_5_mm_by_scan"].items()
    ]
    false_new = part["false_new"]
    lines = [
        f"{part['trials']} trials. New lesions of 5 mm and more called new: "
        f"**{percent(new['called'])}**; outlined at all: {percent(new['outlined'])}. False new "
        f"lesions per case: **{false_new['mean']:.2f}** (most {false_new['most']:.0f}; all trials "
        f"{' '.join(str(n) for n in false_new['by_trial'])}).",
        table(("diameter mm", "called new", "outlined now", "calls"), rows),
        table(("contrast, 5 mm and more", "called new", "calls"), contrast),
        table(("scan", "called new, 5 mm and more", "calls", "false new by trial"), scans),
        "Volume of new lesions, found minus truth: "
        f"{_spread(part['new_volume_error_percent'], ' %', 0)}; "
        f"{_spread(part['new_volume_error_mm3'], ' mm³', 0)}. Truth inside the stated 95 % "
        f"interval: {percent(part['new_volume_in_interval'])}. Other changes called where nothing "
        f"was planted, all trials together: {_calls(part['other_unplanted'])}.",
    ]
    if not new_only:
        ratios = [
            (f"{one['ratio']:g}", percent(one["called"]), _calls(one["calls"]))
            for one in part["enlarging_by_ratio"]
        ]
        lines += [
            table(("volume ratio", "called enlarging", "calls"), ratios),
            "Growth of the enlarging lesions, found minus truth: "
            f"{_spread(part['growth_error_percent_of_growth'], ' % of the growth', 0)}; "
            f"{_spread(part['growth_error_mm3'], ' mm³', 0)}. Lesions planted alike at both time "
            f"points called stable: {percent(part['constant']['called'])} "
            f"({_calls(part['constant']['calls'])}).",
        ]
    return "\n\n".join(lines)


def _real(part: Mapping[str, Any]) -> str:
    rows = [
        (
            scan.split("_")[0],
            percent(one["sensitivity"]),
            percent(one["sensitivity_from_30_mm3"]),
            percent(one["sensitivity_from_65_mm3"]),
            percent(one["precision"]),
            percent(one["precision_of_new"]),
            f"{one['marked_ml']:.2f}",
            f"{one['found_change_ml']:.2f}",
            _calls(one["calls"]),
        )
        for scan, one in part.items()
    ]
    head = (
        "patient",
        "marks found (10 mm³ and more)",
        "from 30 mm³",
        "from 65 mm³ (5 mm)",
        "precision, all changes",
        "precision, new",
        "marked ml",
        "change found ml",
        "calls",
    )
    return "### Real pairs against the data set's change mask\n\n" + table(head, rows)

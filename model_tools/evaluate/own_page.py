"""The results on the project's own validation data set as Markdown, between two marks of a page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model_tools.evaluate.candidates import CLASSICAL
from model_tools.evaluate.loads import ordered
from model_tools.evaluate.regions import REGIONS
from model_tools.evaluate.report import number
from operators.errors import ConfigurationError

BEGIN = "<!-- segmentation: begin (written by python -m model_tools validation page) -->"
END = "<!-- segmentation: end -->"
Row = Mapping[str, str]


def place(text: str, tables: str) -> str:
    """The page with the tables between its marks.

    Raises
    ------
    ConfigurationError
        If the marks are missing.
    """
    if BEGIN not in text or END not in text:
        raise ConfigurationError("the page", "It has no marks for the tables.", f"Add {BEGIN}.")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{rest.split(END, 1)[1]}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _value(row: Row | None, key: str) -> float:
    text = "" if row is None else row.get(key, "")
    return float(text) if text else math.nan


def _found(rows: Mapping[tuple[str, str], Row], case: str, model: str) -> Row | None:
    row = rows.get((case, model))
    return row if row is not None and row["dice"] else None


def _cases(rows: Mapping[tuple[str, str], Row], models: Sequence[str]) -> str:
    """Dice and F1 of each model on each case with a reference, and the mean of each group."""
    names = list(dict.fromkeys(case for case, _ in rows))
    scored = [case for case in names if any(_found(rows, case, model) for model in models)]
    group_of = {case: next(r["group"] for (c, _), r in rows.items() if c == case) for case in names}
    table = [["case", "true ml", *(f"{model}: Dice, F1, ml" for model in models)]]
    for group in dict.fromkeys(group_of[case] for case in scored):
        members = [case for case in scored if group_of[case] == group]
        members.sort(key=lambda case: _truth(rows, case, models))
        for case in members:
            cells = [_cells(_found(rows, case, model)) for model in models]
            table.append([case, number(_truth(rows, case, models), 1), *cells])
        if len(members) > 1:
            means = []
            for model in models:
                known = [row for case in members if (row := _found(rows, case, model))]
                means.append(
                    f"**{_mean(known, 'dice')}, {_mean(known, 'f1')}, "
                    f"{_mean(known, 'outlined_ml', 1)}**"
                    if len(known) == len(members)
                    else "–"
                )
            truths = [_truth(rows, case, models) for case in members]
            table.append([f"**{group}: mean**", number(sum(truths) / len(truths), 1), *means])
    return _table(table)


def _truth(rows: Mapping[tuple[str, str], Row], case: str, models: Sequence[str]) -> float:
    found = next(row for model in models if (row := _found(rows, case, model)))
    return _value(found, "reference_ml")


def _cells(row: Row | None) -> str:
    if row is None:
        return "–"
    return (
        f"{number(_value(row, 'dice'))}, {number(_value(row, 'f1'))}, "
        f"{number(_value(row, 'outlined_ml'), 1)}"
    )


def _mean(rows: Sequence[Row], key: str, digits: int = 2) -> str:
    values = [_value(row, key) for row in rows]
    return number(sum(values) / len(values), digits) if values else "–"


def _against_classical(rows: Mapping[tuple[str, str], Row], models: Sequence[str]) -> str:
    """Where a network does not beat the comparator, in Dice or in F1."""
    lines = []
    for model in models:
        if model.startswith(CLASSICAL):
            continue
        cases = [
            case
            for case in dict.fromkeys(case for case, _ in rows)
            if _found(rows, case, model) and _found(rows, case, CLASSICAL)
        ]
        if not cases:
            continue
        for metric, title in (("dice", "Dice"), ("f1", "lesion F1")):
            worse = []
            for case in cases:
                ours = _value(_found(rows, case, model), metric)
                theirs = _value(_found(rows, case, CLASSICAL), metric)
                if ours <= theirs:
                    worse.append(f"{case} ({number(ours)} against {number(theirs)})")
            text = f"not on {', '.join(worse)}" if worse else "on all of them"
            lines.append(
                f"- {model}, {title}: better than the comparator on {len(cases) - len(worse)} of "
                f"{len(cases)} cases; {text}."
            )
    return "\n".join(lines)


def _by_region(summary: Mapping[str, Any]) -> str:
    models = summary["models"]
    table = [["region", "lesions", *(f"{m}: recall, precision, ml of true ml" for m in models)]]
    for region in REGIONS:
        parts = [model["by_region"][region] for model in models.values()]
        if not any(part["lesions"] or part["outlined"] for part in parts):
            continue
        cells = [
            f"{number(part['recall'])}, {number(part['precision'])}, "
            f"{number(part['outlined_ml'], 1)} of {number(part['reference_ml'], 1)}"
            for part in parts
        ]
        counts = " / ".join(f"{part['lesions']:.0f}" for part in parts)
        table.append([region.replace("_", " "), counts, *cells])
    return _table(table)


def _by_size(summary: Mapping[str, Any]) -> str:
    models = summary["models"]
    table = [["size", *(f"{model}: recall of lesions" for model in models)]]
    for size in next(iter(models.values()))["by_size"]:
        cells = [
            f"{number(model['by_size'][size]['recall'])} of "
            f"{number(model['by_size'][size]['lesions'], 0)}"
            for model in models.values()
        ]
        table.append([size.replace("mm3", "mm³"), *cells])
    return _table(table)


def _by_load(summary: Mapping[str, Any]) -> str:
    models = summary["models"]
    table = [["load", *(f"{model}: Dice, F1 (cases)" for model in models)]]
    for load in ordered({label for model in models.values() for label in model["by_load"]}):
        cells = []
        for model in models.values():
            part = model["by_load"].get(load)
            cells.append(
                "–"
                if part is None
                else f"{number(part['dice']['mean'])}, {number(part['f1']['mean'])} "
                f"({part['dice']['cases']})"
            )
        table.append([load, *cells])
    return _table(table)


def _without_t1(summary: Mapping[str, Any]) -> str:
    table = [["with T1", "without", "metric", "cases", "difference without", "p"]]
    for row in summary["without_t1"]:
        if row["metric"] in ("dice", "f1") and row["cases"]:
            table.append(
                [
                    row["first"],
                    row["second"],
                    row["metric"],
                    str(row["cases"]),
                    f"{number(row['difference'], 3)} [{number(row['low'], 3)}, "
                    f"{number(row['high'], 3)}]",
                    number(row["p"], 3),
                ]
            )
    return _table(table)


def _clinic(summary: Mapping[str, Any]) -> str:
    table = [["case", "model", "lesions", "ml", *(r.replace("_", " ") for r in REGIONS), "remark"]]
    models = summary["models"]
    for case in sorted({case for model in models.values() for case in model["without_reference"]}):
        for name, model in models.items():
            one = model["without_reference"].get(case)
            if one is not None:
                shares = [
                    "–" if one[region] is None else f"{100 * one[region]:.0f} %"
                    for region in REGIONS
                ]
                row = [case, name, f"{one['lesions']:.0f}", number(one["ml"], 1), *shares]
                table.append([*row, str(one["remark"])])
    return _table(table)


def rendered(results: Path) -> str:
    """Every table of an evaluation of the data set.

    Parameters
    ----------
    results
        The output folder of ``python -m model_tools evaluate``.

    Raises
    ------
    ConfigurationError
        If its files are not there.
    """
    for name in ("summary.json", "cases.csv"):
        if not (results / name).is_file():
            raise ConfigurationError(
                results.name, f"{name} is missing.", "Run python -m model_tools evaluate first."
            )
    summary = json.loads((results / "summary.json").read_text(encoding="utf-8"))
    with (results / "cases.csv").open(newline="", encoding="utf-8") as stream:
        rows = {(row["case"], row["model"]): row for row in csv.DictReader(stream)}
    models = list(summary["models"])
    identities = ", ".join(f"{m} ({summary['models'][m]['sha256'][:8]})" for m in models)
    return "\n\n".join(
        [
            f"Models: {identities}.",
            "### Each case",
            "A dash: the model has seen the case, or cannot run on it.",
            _cases(rows, models),
            "### By load",
            _by_load(summary),
            "### Against the classical comparator",
            _against_classical(rows, models),
            "### By region",
            _by_region(summary),
            "### By size of lesion",
            _by_size(summary),
            "### Without the T1",
            _without_t1(summary),
            "### Raw 2D scans without a reference",
            _clinic(summary),
        ]
    )

"""The acceptance report: one content, written as HTML and as PDF."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.units import mm
from reportlab.platypus import Flowable, Image, Paragraph, SimpleDocTemplate, Spacer, Table

from model_tools.evaluate.regions import REGIONS
from model_tools.evaluate.summary import LOADS_ML, METRICS, Answers, load_class
from operators.version import NAME, STATEMENT, VERSION

matplotlib.use("Agg")
TITLES = {
    "dice": "Dice",
    "precision": "Lesion-wise precision",
    "recall": "Lesion-wise recall",
    "f1": "Lesion-wise F1",
    "false_positives": "False lesions a case",
    "volume_difference_ml": "Volume difference, ml",
    "volume_difference_percent": "Volume difference, %",
    "surface_mm": "Mean surface distance, mm",
    "hausdorff95_mm": "95 % Hausdorff distance, mm",
    "volume_correlation": "Correlation of volumes",
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass
class Section:
    """A heading with text, tables and figures, in this order.

    Attributes
    ----------
    tables
        Rows of cells; the first row is the heading.
    figures
        PNG or JPEG images with their captions.
    """

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    figures: list[tuple[bytes, str]] = field(default_factory=list)


def number(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def _mean(summary: Mapping[str, Any]) -> str:
    interval = (
        f" [{number(summary['low'])}, {number(summary['high'])}]"
        if math.isfinite(summary["low"])
        else ""
    )
    deviation = f" ± {number(summary['deviation'])}" if math.isfinite(summary["deviation"]) else ""
    return f"{number(summary['mean'])}{deviation}{interval}"


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    return stream.getvalue()


def volumes_figure(scored: Mapping[str, Answers]) -> bytes:
    """Reference against outlined volume, and their difference with limits of agreement."""
    figure = Figure(figsize=(8.5, 3.8))
    left, right = figure.subplots(1, 2)
    top = 0.1
    for colour, (name, answers) in zip(COLOURS * 9, scored.items(), strict=False):
        reference = np.array([a["scores"]["reference_ml"] for a in answers])
        outlined = np.array([a["scores"]["outlined_ml"] for a in answers])
        top = max(top, *reference, *outlined)
        left.plot(reference, outlined, "o", color=colour, label=name, markersize=4)
        difference, mean = outlined - reference, (outlined + reference) / 2
        right.plot(mean, difference, "o", color=colour, markersize=4)
        right.axhline(difference.mean(), color=colour, linewidth=1)
        if len(difference) > 1:
            spread = 1.96 * difference.std(ddof=1)
            for side in (-spread, spread):
                right.axhline(difference.mean() + side, color=colour, linewidth=1, linestyle="--")
    left.plot([0, top], [0, top], color="0.6", linewidth=1, zorder=0)
    left.set(xlabel="reference, ml", ylabel="outlined, ml", title="Volume")
    right.set(xlabel="mean, ml", ylabel="outlined - reference, ml", title="Limits of agreement")
    left.legend(fontsize=7)
    return _png(figure)


def ordered(labels: Iterable[str]) -> list[str]:
    """Classes of load from low to high, everything else by name."""
    known = [load_class(ml) for ml in (0.0, *LOADS_ML)]
    return sorted(labels, key=lambda one: (known.index(one) if one in known else -1, one))


def groups_figure(models: Mapping[str, Any], key: str) -> bytes:
    """Dice by scanner or load, side by side for the models."""
    labels = ordered({label for model in models.values() for label in model[key]})
    figure = Figure(figsize=(8.5, 3.2))
    axes = figure.subplots()
    width = 0.8 / len(models)
    for place, (colour, (name, model)) in enumerate(zip(COLOURS * 9, models.items(), strict=False)):
        values = [model[key].get(label, {}).get("dice", {}) for label in labels]
        positions = np.arange(len(labels)) + (place - (len(models) - 1) / 2) * width
        axes.bar(
            positions,
            [value.get("mean", np.nan) for value in values],
            width * 0.9,
            yerr=[
                d if math.isfinite(d := value.get("deviation", np.nan)) else 0 for value in values
            ],
            color=colour,
            label=name,
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set(ylabel="Dice (mean, SD)", ylim=(0, 1))
    axes.legend(fontsize=7)
    return _png(figure)


def sizes_figure(models: Mapping[str, Any]) -> bytes:
    """Dice against the number of training cases."""
    figure = Figure(figsize=(5, 3.2))
    axes = figure.subplots()
    points = sorted(
        (model["training_cases"], model["metrics"]["dice"]["mean"], name)
        for name, model in models.items()
        if model["training_cases"] is not None
    )
    axes.plot([p[0] for p in points], [p[1] for p in points], "o-", color=COLOURS[0])
    for count, dice, name in points:
        axes.annotate(name, (count, dice), fontsize=7)
    axes.set(xlabel="training cases", ylabel="Dice (mean)", ylim=(0, 1))
    return _png(figure)


def content(summary: Mapping[str, Any], answers: Answers) -> list[Section]:
    """The report's sections."""
    models: Mapping[str, Any] = summary["models"]
    scored = {name: [a for a in answers if a["model"] == name and a["scores"]] for name in models}
    scored = {name: found for name, found in scored.items() if found}
    first = Section(
        "Result",
        [f"{NAME} {VERSION}. {STATEMENT}"],
        [[["Model", "Cases", "Not processed", "Limits of the site", "Hash"]]],
    )
    for name, model in models.items():
        verdict = "none set" if not model["limits"] else "PASS" if model["passed"] else "FAIL"
        first.tables[0].append(
            [name, str(model["cases"]), str(len(model["failures"])), verdict, model["sha256"][:12]]
        )
    for name, model in models.items():
        if model["limits"]:
            rows = [[f"{name}: limit", "least", "most", "measured", ""]]
            for one in model["limits"]:
                rows.append(
                    [
                        TITLES[one["metric"]],
                        number(one["least"]),
                        number(one["most"]),
                        number(one["value"]),
                        "pass" if one["passed"] else "FAIL",
                    ]
                )
            first.tables.append(rows)
    metrics = Section(
        "Metrics",
        [
            "Mean ± standard deviation over the cases [95 % bootstrap interval of the mean]. A "
            "lesion is a 26-connected component of at least 3 mm³; it counts as found if at least "
            "a tenth of it lies in the other mask."
        ],
        [[["", *models]]],
    )
    for metric in METRICS:
        cells = [_mean(model["metrics"][metric]) for model in models.values()]
        metrics.tables[0].append([TITLES[metric], *cells])
    metrics.tables[0].append(
        [
            "Correlation of volumes",
            *(number(model["volumes"]["correlation"]) for model in models.values()),
        ]
    )
    sections = [first, metrics]
    if scored:
        sections.append(
            Section("Volumes", figures=[(volumes_figure(scored), "Each point is a case.")])
        )
    recall = Section(
        "Lesions by size", ["Share of the reference lesions found."], [[["", *models]]]
    )
    for size in next(iter(models.values()))["by_size"]:
        cells = [
            f"{number(m['by_size'][size]['recall'])} of {m['by_size'][size]['lesions']:.0f}"
            for m in models.values()
        ]
        recall.tables[0].append([size.replace("mm3", "mm³"), *cells])
    sections.append(recall)
    sections.append(_regions(models))
    for key, title in (
        ("load", "load"),
        ("scanner", "scanner"),
        ("field_strength", "field strength"),
        ("group", "group"),
    ):
        if any(model[f"by_{key}"] for model in models.values()):
            sections.append(_groups(models, f"by_{key}", title))
    for title, rows in (
        ("Models compared on the same cases", summary["comparisons"]),
        ("Without the T1", summary["without_t1"]),
        ("Leave one scanner out", summary["left_out"]),
    ):
        if rows:
            sections.append(_comparison(title, rows))
    if any(model["training_cases"] is not None for model in models.values()):
        sections.append(
            Section("Training set", figures=[(sizes_figure(models), "Dice by training cases.")])
        )
    if any(model["without_reference"] for model in models.values()):
        sections.append(_without_reference(models))
    seen = [[name, ", ".join(model["seen"])] for name, model in models.items() if model["seen"]]
    if seen:
        sections.append(
            Section(
                "Cases that a model was trained on",
                ["The data set says so; the model was not run on them."],
                tables=[[["Model", "Cases"], *seen]],
            )
        )
    failures = [
        [name, case, why]
        for name, model in models.items()
        for case, why in model["failures"].items()
    ]
    if failures:
        rows = [["Model", "Case", "Why"], *failures]
        sections.append(Section("Cases that were not processed", tables=[rows]))
    return sections


def _regions(models: Mapping[str, Any]) -> Section:
    section = Section(
        "Lesions by region",
        [
            "By the patient's own ventricles and cortex, as in the application. Recall of the "
            "reference lesions that lie in the region, precision of the outlined ones that do, and "
            "volume outlined of volume in the reference; all cases together."
        ],
    )
    for share, of, title in (
        ("recall", "lesions", "Recall"),
        ("precision", "outlined", "Precision"),
    ):
        rows = [[title, *models]]
        for region in REGIONS:
            parts = [model["by_region"][region] for model in models.values()]
            if any(part["lesions"] or part["outlined"] for part in parts):
                cells = [f"{number(part[share])} of {part[of]:.0f}" for part in parts]
                rows.append([region.replace("_", " "), *cells])
        section.tables.append(rows)
    rows = [["Volume, ml", *models]]
    for region in REGIONS:
        parts = [model["by_region"][region] for model in models.values()]
        if any(part["lesions"] or part["outlined"] for part in parts):
            cells = [
                f"{number(part['outlined_ml'], 1)} of {number(part['reference_ml'], 1)}"
                for part in parts
            ]
            rows.append([region.replace("_", " "), *cells])
    section.tables.append(rows)
    return section


def _groups(models: Mapping[str, Any], key: str, title: str) -> Section:
    rows = [[title, "metric", *models]]
    for label in ordered({label for model in models.values() for label in model[key]}):
        for metric in ("dice", "f1", "volume_difference_ml"):
            cells = []
            for model in models.values():
                part = model[key].get(label)
                cells.append(
                    "–" if part is None else f"{_mean(part[metric])}, n={part['dice']['cases']}"
                )
            rows.append([label, TITLES[metric], *cells])
    figure = (groups_figure(models, key), "Dice, mean and SD.")
    return Section(f"By {title}", tables=[rows], figures=[figure])


def _without_reference(models: Mapping[str, Any]) -> Section:
    section = Section(
        "Cases without a reference",
        [
            "What the models outline, without a statement on accuracy: number and volume of "
            "lesions, and the share of the volume in each region."
        ],
        [[["Case", "Model", "Lesions", "ml", *(r.replace("_", " ") for r in REGIONS), "Remark"]]],
    )
    cases = sorted({case for model in models.values() for case in model["without_reference"]})
    for case in cases:
        for name, model in models.items():
            one = model["without_reference"].get(case)
            if one is None:
                continue
            shares = [
                f"{100 * one[region]:.0f} %" if math.isfinite(one[region]) else "–"
                for region in REGIONS
            ]
            row = [case, name, f"{one['lesions']:.0f}", number(one["ml"], 1), *shares]
            section.tables[0].append([*row, str(one["remark"])])
    return section


def _comparison(title: str, rows: Sequence[Mapping[str, Any]]) -> Section:
    section = Section(
        title,
        ["Second minus first [95 % bootstrap interval], paired t-test."],
        [[["Scanner", "First", "Second", "Metric", "Cases", "Difference", "t", "p"]]],
    )
    for row in rows:
        section.tables[0].append(
            [
                row["scanner"] or "all",
                row["first"],
                row["second"],
                TITLES[row["metric"]],
                str(row["cases"]),
                f"{number(row['difference'], 3)} [{number(row['low'], 3)}, "
                f"{number(row['high'], 3)}]",
                number(row["t"]),
                number(row["p"], 3),
            ]
        )
    return section


STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.3em .6em;
text-align:left}th{background:#f0f3f6}img{max-width:100%}"""


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
                cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
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
    parts.append("</body></html>")
    path.write_text("\n".join(parts) + "\n", encoding="utf-8")


def write_pdf(sections: Sequence[Section], title: str, path: Path) -> None:
    """The same as PDF."""
    styles = getSampleStyleSheet()
    small = styles["BodyText"].clone("small", fontSize=8, leading=10)
    flow: list[Flowable] = [Paragraph(html.escape(title), styles["Title"])]
    for section in sections:
        flow.append(Paragraph(html.escape(section.title), styles["Heading2"]))
        flow += [Paragraph(html.escape(text), styles["BodyText"]) for text in section.text]
        for rows in section.tables:
            cells = [[Paragraph(html.escape(cell), small) for cell in row] for row in rows]
            table = Table(cells, hAlign="LEFT", repeatRows=1)
            table.setStyle(
                [
                    ("GRID", (0, 0), (-1, -1), 0.4, colors.HexColor("#cccccc")),
                    ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#f0f3f6")),
                    ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ]
            )
            flow += [table, Spacer(0, 4 * mm)]
        for image, caption in section.figures:
            picture = Image(io.BytesIO(image))
            scale = min(1.0, 170 * mm / picture.imageWidth)
            picture.drawWidth = picture.imageWidth * scale
            picture.drawHeight = picture.imageHeight * scale
            flow += [picture, Paragraph(html.escape(caption), small)]
    document = SimpleDocTemplate(
        str(path),
        pagesize=A4,
        title=title,
        author=f"{NAME} {VERSION}",
        leftMargin=18 * mm,
        rightMargin=18 * mm,
    )
    document.build(flow)

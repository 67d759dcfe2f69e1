"""The content of the acceptance report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from model_tools.evaluate.documents import FAIL, PASS, Section
from model_tools.evaluate.figures import (
    groups_figure,
    left_out_figure,
    sizes_figure,
    thresholds_figure,
    volumes_figure,
)
from model_tools.evaluate.loads import ordered
from model_tools.evaluate.metrics import METRICS
from model_tools.evaluate.regions import REGIONS
from model_tools.evaluate.store import SECOND_RATER
from model_tools.evaluate.summary import Answers

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
    "lowest_dice": "Lowest Dice of a case",
    "lowest_f1": "Lowest lesion-wise F1 of a case",
    "not_processed": "Cases not processed",
}


def number(value: float | None, digits: int = 2) -> str:
    """A figure for people; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def _interval(low: float, high: float) -> str:
    return f" [{number(low)}, {number(high)}]" if math.isfinite(low) else ""


def _mean(summary: Mapping[str, Any]) -> str:
    deviation = f" ± {number(summary['deviation'])}" if math.isfinite(summary["deviation"]) else ""
    return f"{number(summary['mean'])}{deviation}{_interval(summary['low'], summary['high'])}"


def content(summary: Mapping[str, Any], answers: Answers) -> list[Section]:
    """The report's sections."""
    models: Mapping[str, Any] = summary["models"]
    scored = {name: [a for a in answers if a["model"] == name and a["scores"]] for name in models}
    scored = {name: found for name, found in scored.items() if found}
    sections = [_result(models)]
    if any(model["limits"] for model in models.values()):
        sections.append(_limits(models))
    sections += [_acceptance(summary), _metrics(models)]
    if scored:
        picture = volumes_figure(scored, {name: models[name]["volumes"] for name in scored})
        sections.append(
            Section(
                "Volumes",
                [
                    "Each point is a case. Lines: mean difference, and limits of agreement "
                    "(1.96 standard deviations; Bland and Altman)."
                ],
                figures=[(picture, "Volume outlined against the reference's.")],
                together=True,
            )
        )
    sections += [_sizes(models), _regions(models)]
    if any(model["by_threshold"] for model in models.values()):
        sections.append(_thresholds(models))
    for key, title in (
        ("load", "load"),
        ("scanner", "scanner"),
        ("field_strength", "field strength"),
        ("group", "group"),
    ):
        if any(model[f"by_{key}"] for model in models.values()):
            sections.append(_groups(models, scored, key, title))
    for title, rows in (
        ("Models compared on the same cases", summary["comparisons"]),
        ("Without the T1", summary["without_t1"]),
        ("Leave one scanner out", summary["left_out"]),
    ):
        if rows:
            sections.append(_comparison(title, rows))
    if scored and summary["left_out"]:
        picture = left_out_figure(scored, summary["left_out"])
        legend = "Dice of each case of a scanner: trained with it (left), without it; bar: mean."
        sections[-1].figures.append((picture, legend))
    if any(model["training_cases"] is not None for model in models.values()):
        figure = (sizes_figure(models), "Dice by training cases.")
        sections.append(Section("Training set", figures=[figure], together=True))
    if scored:
        sections.append(_cases(scored))
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


def _result(models: Mapping[str, Any]) -> Section:
    rows = [["Model", "Dice", "Lesion-wise F1", "Cases", "Not processed", "Limits of the site"]]
    for name, model in models.items():
        verdict = (PASS if model["passed"] else FAIL) if model["limits"] else "none set"
        rows.append(
            [
                name,
                _mean(model["metrics"]["dice"]),
                _mean(model["metrics"]["f1"]),
                str(model["cases"]),
                str(len(model["failures"])),
                "not held to them" if name == SECOND_RATER else verdict,
            ]
        )
    return Section("Result", tables=[rows])


def _limits(models: Mapping[str, Any]) -> Section:
    held = {name: model["limits"] for name, model in models.items() if model["limits"]}
    section = Section(
        "Limits of the site",
        ["Measured, and whether the limit is kept. A limit without a measured value is not kept."],
        [[["Limit", "Least", "Most", *(cell for name in held for cell in (name, ""))]]],
    )
    for place, limit in enumerate(next(iter(held.values()))):
        title = TITLES[limit["metric"]]
        if limit["part"]:
            part = limit["label"].replace("_", " ").replace("mm3", "mm³")
            title = f"{title}: {limit['part'].removeprefix('by_').replace('_', ' ')} {part}"
        row = [title, number(limit["least"]), number(limit["most"])]
        for own in held.values():
            row += [number(own[place]["value"]), PASS if own[place]["passed"] else FAIL]
        section.tables[0].append(row)
    return section


def _acceptance(summary: Mapping[str, Any]) -> Section:
    """What was tested with what, and the place to sign."""
    made = [["", "What"], *([key, value] for key, value in summary.get("made", {}).items())]
    models = [["Model", "Package", "Sequences", "Hash (SHA-256, first 16)"]]
    for name, model in summary["models"].items():
        if name != SECOND_RATER:
            models.append(
                [
                    name,
                    str(model.get("package", "")),
                    ", ".join(model["roles"]),
                    model["sha256"][:16],
                ]
            )
    signed = [["", "Name", "Date", "Signature"], *([who, *[" " * 30] * 3] for who in _SIGNED)]
    tables = [made, models, signed] if len(made) > 1 else [models, signed]
    return Section("What was tested", tables=tables, together=True)


_SIGNED = ("Performed by", "Accepted for use by")


def _metrics(models: Mapping[str, Any]) -> Section:
    section = Section(
        "Metrics",
        [
            "Mean ± standard deviation over the cases [95 % bootstrap interval of the mean]. A "
            "lesion is a 26-connected component of at least 3 mm³; it counts as found if at least "
            "a tenth of it lies in the other mask."
        ],
        [[["", *models]]],
    )
    rows = section.tables[0]
    for metric in METRICS:
        rows.append([TITLES[metric], *(_mean(one["metrics"][metric]) for one in models.values())])
    volumes = [model["volumes"] for model in models.values()]
    rows.append(
        [
            TITLES["volume_correlation"],
            *(
                number(one["correlation"])
                + _interval(
                    one.get("correlation_low", math.nan), one.get("correlation_high", math.nan)
                )
                for one in volumes
            ),
        ]
    )
    rows.append(
        [
            "Limits of agreement, ml",
            *(
                f"{number(one['lower'])} to {number(one['upper'])}"
                if math.isfinite(one["lower"])
                else "–"
                for one in volumes
            ),
        ]
    )
    return section


def _share(part: Mapping[str, Any], name: str, count: str) -> str:
    """A share with its interval and of how many; a dash where there is nothing to count."""
    if not part[count] > 0:
        return "–"
    interval = _interval(part[f"{name}_low"], part[f"{name}_high"])
    return f"{number(part[name])}{interval} of {part[count]:.0f}"


def _sizes(models: Mapping[str, Any]) -> Section:
    section = Section(
        "Lesions by size",
        ["Share of the reference lesions found [95 % bootstrap interval over the cases]."],
        [[["", *models]]],
    )
    for size in next(iter(models.values()))["by_size"]:
        cells = [_share(model["by_size"][size], "recall", "lesions") for model in models.values()]
        section.tables[0].append([size.replace("mm3", "mm³"), *cells])
    return section


def _regions(models: Mapping[str, Any]) -> Section:
    section = Section(
        "Lesions by region",
        [
            "By the patient's own ventricles and cortex, as in the application. Recall of the "
            "reference lesions that lie in the region, precision of the outlined ones that do, and "
            "volume outlined of volume in the reference; all cases together [95 % bootstrap "
            "interval over the cases]."
        ],
    )
    shown = [
        region
        for region in REGIONS
        if any(one["by_region"][region][k] for one in models.values() for k in _COUNTED)
    ]
    tables: list[tuple[str, Any]] = [
        ("Recall", lambda part: _share(part, "recall", "lesions")),
        ("Precision", lambda part: _share(part, "precision", "outlined")),
        (
            "Volume, ml",
            lambda part: f"{number(part['outlined_ml'], 1)} of {number(part['reference_ml'], 1)}",
        ),
    ]
    for title, cell in tables:
        rows = [[title, *models]]
        for region in shown:
            cells = [cell(model["by_region"][region]) for model in models.values()]
            rows.append([region.replace("_", " "), *cells])
        section.tables.append(rows)
    return section


def _thresholds(models: Mapping[str, Any]) -> Section:
    """How the result hangs on the threshold, which is part of the package."""
    shown = {name: model for name, model in models.items() if model["by_threshold"]}
    known = ", ".join(f"{name} {model['threshold']:g}" for name, model in shown.items())
    rows = [["Threshold", *shown]]
    for threshold in next(iter(shown.values()))["by_threshold"]:
        cells = [model["by_threshold"][threshold] for model in shown.values()]
        rows.append([threshold, *(f"{number(c['dice'])} / {number(c['f1'])}" for c in cells)])
    return Section(
        "Thresholds",
        [
            "Dice / lesion-wise F1, mean over the cases, had the package another threshold. All "
            f"other figures are at the packages' own: {known}. A threshold chosen on these cases "
            "has to be tested on others."
        ],
        [rows],
        [(thresholds_figure(shown), "Dots: the package's threshold.")],
        together=True,
    )


_COUNTED = ("lesions", "outlined")


def _groups(
    models: Mapping[str, Any], scored: Mapping[str, Answers], key: str, title: str
) -> Section:
    rows = [[title, "metric", *models]]
    for label in ordered({label for model in models.values() for label in model[f"by_{key}"]}):
        for metric in ("dice", "f1", "volume_difference_ml"):
            cells = []
            for model in models.values():
                part = model[f"by_{key}"].get(label)
                cells.append(
                    "–" if part is None else f"{_mean(part[metric])}, n={part['dice']['cases']}"
                )
            rows.append([label, TITLES[metric], *cells])
    figure = (groups_figure(scored, key), "Dice of each case; bar and line: mean, SD.")
    return Section(f"By {title}", tables=[rows], figures=[figure], together=True)


def _cases(scored: Mapping[str, Answers]) -> Section:
    """Every case with a reference: what a physicist looks up when a mean surprises."""
    known = {(a["case"], name): a for name, found in scored.items() for a in found}
    section = Section(
        "Each case",
        ["Dice / lesion-wise F1 / outlined ml. All metrics of every case are in cases.csv."],
        [[["Case", "Scanner", "Reference, ml", *scored]]],
    )
    for case in sorted({case for case, _ in known}):
        own = [known.get((case, name)) for name in scored]
        first = next(one for one in own if one is not None)
        cells = []
        for one in own:
            if one is None:
                cells.append("–")
                continue
            values = one["scores"]
            cells.append(
                f"{number(values['dice'])} / {number(values['f1'])} / "
                f"{number(values['outlined_ml'], 1)}"
            )
        reference = number(first["scores"]["reference_ml"], 1)
        section.tables[0].append([case, str(first["scanner"]), reference, *cells])
    return section


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
        [[["Metric", "Scanner", "First", "Second", "Cases", "Difference", "t", "p"]]],
    )
    for row in rows:
        section.tables[0].append(
            [
                TITLES[row["metric"]],
                row["scanner"] or "all",
                row["first"],
                row["second"],
                str(row["cases"]),
                f"{number(row['difference'], 3)} [{number(row['low'], 3)}, "
                f"{number(row['high'], 3)}]",
                number(row["t"]),
                number(row["p"], 3),
            ]
        )
    return section

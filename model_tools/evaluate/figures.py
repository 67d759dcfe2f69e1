"""The report's figures over cases: volumes, groups of cases, size of the training set."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from model_tools.evaluate.loads import ordered
from model_tools.evaluate.metrics import CURVE_METRICS
from model_tools.evaluate.summary import Answers, group

matplotlib.use("Agg")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
COLUMNS = 3


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    return stream.getvalue()


def _legend(figure: Figure, models: int) -> None:
    """The models' names above the panels."""
    figure.legend(loc="outside upper center", ncols=min(6, models), fontsize=7, frameon=False)


def volumes_figure(scored: Mapping[str, Answers], agreements: Mapping[str, Any]) -> bytes:
    """Reference against outlined volume, and for each model the limits of agreement.

    Parameters
    ----------
    scored
        Answers with scores by model.
    agreements
        By model ``bias``, ``lower`` and ``upper`` in ml, see `Agreement`.
    """
    lines = math.ceil((1 + len(scored)) / COLUMNS)
    figure = Figure(figsize=(8.5, 3.0 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    first = axes[0]
    top, far, wide = 0.1, 0.1, 0.1
    for place, (name, answers) in enumerate(scored.items(), start=1):
        colour, panel = COLOURS[(place - 1) % len(COLOURS)], axes[place]
        reference = np.array([a["scores"]["reference_ml"] for a in answers])
        outlined = np.array([a["scores"]["outlined_ml"] for a in answers])
        difference, mean = outlined - reference, (outlined + reference) / 2
        first.plot(reference, outlined, "o", color=colour, markersize=4, alpha=0.7)
        panel.plot(mean, difference, "o", color=colour, markersize=4, alpha=0.7)
        panel.axhline(0, color="0.8", linewidth=1, zorder=0)
        found = agreements[name]
        for key, style in (("bias", "-"), ("lower", "--"), ("upper", "--")):
            if math.isfinite(found[key]):
                panel.axhline(found[key], color=colour, linewidth=1, linestyle=style)
                text = f"{found[key]:+.2f}"
                panel.annotate(
                    text,
                    (0.99, found[key]),
                    xycoords=("axes fraction", "data"),
                    fontsize=7,
                    ha="right",
                    va="bottom",
                )
                wide = max(wide, abs(found[key]))
        panel.set_title(name, fontsize=9, color=colour)
        panel.set_xlabel("mean of the two, ml", fontsize=8)
        panel.set_ylabel("outlined − reference, ml", fontsize=8)
        top, far = max(top, *reference, *outlined), max(far, *mean)
        wide = max(wide, float(np.abs(difference).max()))
    first.plot([0, top], [0, top], color="0.6", linewidth=1, zorder=0)
    first.set_title("All models", fontsize=9)
    first.set_xlabel("reference, ml", fontsize=8)
    first.set_ylabel("outlined, ml", fontsize=8)
    for panel in axes[1 : 1 + len(scored)]:
        panel.set(xlim=(0, far * 1.08), ylim=(-wide * 1.15, wide * 1.15))
    for panel in axes:
        panel.tick_params(labelsize=7)
    for panel in axes[1 + len(scored) :]:
        panel.set_axis_off()
    return _png(figure)


def groups_figure(scored: Mapping[str, Answers], key: str) -> bytes:
    """Dice of each case by scanner or load, with mean and SD, side by side for the models.

    Parameters
    ----------
    scored
        Answers with scores by model.
    key
        ``load`` or an attribute, see `model_tools.evaluate.summary.group`.
    """
    parts = {name: group(answers, key) for name, answers in scored.items()}
    labels = ordered({label for part in parts.values() for label in part})
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(parts)
    most = [0] * len(labels)
    for place, (name, part) in enumerate(parts.items()):
        colour = COLOURS[place % len(COLOURS)]
        for number, label in enumerate(labels):
            dice = np.array([a["scores"]["dice"] for a in part.get(label, ())])
            if not len(dice):
                continue
            most[number] = max(most[number], len(dice))
            middle = number + (place - (len(parts) - 1) / 2) * width
            spread = np.linspace(-0.25, 0.25, len(dice)) * width if len(dice) > 1 else np.zeros(1)
            axes.plot(middle + spread, dice, "o", color=colour, markersize=4, alpha=0.5)
            deviation = float(dice.std(ddof=1)) if len(dice) > 1 else 0.0
            axes.errorbar(middle, dice.mean(), deviation, color=colour, capsize=3, linewidth=1.2)
            ends = (middle - 0.3 * width, middle + 0.3 * width)
            axes.plot(ends, (dice.mean(), dice.mean()), color=colour, linewidth=2.5)
        axes.plot([], [], "o", color=colour, markersize=4, label=name)
    names = [f"{label}\n(up to {count})" for label, count in zip(labels, most, strict=True)]
    axes.set_xticks(range(len(labels)), names, fontsize=8)
    axes.set(ylabel="Dice", ylim=(0, 1.02), xlim=(-0.5, len(labels) - 0.5))
    axes.grid(axis="y", color="0.9")
    _legend(figure, len(parts))
    return _png(figure)


def left_out_figure(scored: Mapping[str, Answers], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Leave one scanner out: the Dice of each of its cases, with the scanner and without.

    Parameters
    ----------
    scored
        Answers with scores by model.
    rows
        ``scanner``, ``first``, ``second`` and ``metric``, as in the summary's ``left_out``.
    """
    pairs = [row for row in rows if row["metric"] == "dice"]
    figure = Figure(figsize=(8.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(pairs):
        both = [
            {
                a["case"]: a["scores"]["dice"]
                for a in scored.get(row[which], ())
                if a["scanner"] == row["scanner"]
            }
            for which in ("first", "second")
        ]
        ends = (place - 0.2, place + 0.2)
        cases = sorted(both[0].keys() & both[1].keys())
        for case in cases:
            axes.plot(ends, (both[0][case], both[1][case]), "-", color="0.75", linewidth=0.8)
        for side in range(2):
            dice = np.array([both[side][case] for case in cases])
            if not len(dice):
                continue
            colour = COLOURS[side]
            axes.plot(np.full(len(dice), ends[side]), dice, "o", color=colour, markersize=4)
            bar = (ends[side] - 0.08, ends[side] + 0.08)
            axes.plot(bar, (dice.mean(), dice.mean()), color=colour, linewidth=2.5)
    labels = [f"{row['scanner']}\n{row['first']} – {row['second']}" for row in pairs]
    axes.set_xticks(range(len(pairs)), labels, fontsize=8)
    axes.set(ylabel="Dice", ylim=(0, 1.02), xlim=(-0.5, len(pairs) - 0.5))
    axes.grid(axis="y", color="0.9")
    return _png(figure)


def thresholds_figure(models: Mapping[str, Any]) -> bytes:
    """Dice and lesion-wise precision, recall and F1 against the threshold, a panel each.

    Parameters
    ----------
    models
        By network ``by_threshold`` and ``threshold``, the package's own, which is marked.
    """
    figure = Figure(figsize=(8.5, 2.6), layout="constrained")
    panels = figure.subplots(1, len(CURVE_METRICS), sharey=True)
    for panel, metric in zip(panels, CURVE_METRICS, strict=True):
        for place, (name, model) in enumerate(models.items()):
            curve = model["by_threshold"]
            thresholds = [float(text) for text in curve]
            values = [one[metric] for one in curve.values()]
            colour = COLOURS[place % len(COLOURS)]
            label = name if panel is panels[0] else None
            panel.plot(thresholds, values, "-", color=colour, linewidth=1.2, label=label)
            own = float(np.interp(model["threshold"], thresholds, values))
            panel.plot([model["threshold"]], [own], "o", color=colour, markersize=4)
        panel.set_title(metric.capitalize(), fontsize=9)
        panel.set(ylim=(0, 1.02), xlim=(0, 1))
        panel.set_xlabel("threshold", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(axis="y", color="0.9")
    _legend(figure, len(models))
    return _png(figure)


def sizes_figure(models: Mapping[str, Any]) -> bytes:
    """Dice against the number of training cases, with its bootstrap interval."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    points = sorted(
        (model["training_cases"], name)
        for name, model in models.items()
        if model["training_cases"] is not None
    )
    counts = [count for count, _ in points]
    found = [models[name]["metrics"]["dice"] for _, name in points]
    axes.plot(counts, [one["mean"] for one in found], "o-", color=COLOURS[0])
    for (count, name), one in zip(points, found, strict=True):
        if math.isfinite(one["low"]):
            axes.plot([count, count], [one["low"], one["high"]], color=COLOURS[0], linewidth=1)
        axes.annotate(
            name,
            (count, one["mean"]),
            xytext=(0, 8),
            textcoords="offset points",
            fontsize=7,
            ha="center",
        )
    axes.margins(x=0.2)
    axes.set(xlabel="training cases", ylabel="Dice (mean, 95 % interval)", ylim=(0, 1.1))
    axes.grid(axis="y", color="0.9")
    return _png(figure)

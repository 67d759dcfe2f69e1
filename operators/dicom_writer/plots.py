"""The plots of the report, as PNG pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from operators.dicom_writer.colours import CHANGE_COLOURS
from operators.dicom_writer.rendering import BY_IMPORTANCE, DASHED
from operators.dicom_writer.texts import texts
from operators.messages import Lesion

DPI = 260
_INK = "#2b3440"
_FAINT = "#c9d1da"
_BLUE = "#1f5a92"
_CM = 1.0 / 2.54


def volumes_over_time(
    times: Sequence[float],
    names: Sequence[str],
    totals_ml: Sequence[float],
    lesions: Sequence[Lesion],
    size_cm: tuple[float, float],
) -> bytes:
    """Lesion load, and each lesion's volume, at each time point.

    Parameters
    ----------
    times
        Days of the time points, ascending.
    names
        What stands below each time point.
    totals_ml
        Lesion load at each time point.
    lesions
        Lesions with a volume before and now, for the first and last time point.
    size_cm
        Width and height of the picture.

    Returns
    -------
    bytes
        PNG.
    """
    figure, (left, right) = _figure(size_cm, 2)
    left.plot(times, totals_ml, color=_BLUE, linewidth=1.4, marker="o", markersize=4.5)
    for time, total in zip(times, totals_ml, strict=True):
        left.annotate(
            f"{total:.2f}",
            (time, total),
            textcoords="offset points",
            xytext=(0, 6),
            ha="center",
            fontsize=7,
            color=_INK,
        )
    top = max([*totals_ml, 1e-3])
    left.set_ylim(0.0, 1.3 * top)
    words = texts()["report"]
    _finish(left, words["axis_load"])
    for lesion in sorted(lesions, key=lambda one: -BY_IMPORTANCE.index(one.change)):
        colour = np.asarray(CHANGE_COLOURS[lesion.change]) / 255.0 * 0.9
        right.plot(
            (times[0], times[-1]),
            (lesion.prior_volume_ml or 0.0, lesion.volume_ml),
            color=tuple(colour) if lesion.change not in DASHED else "#6b7480",
            linestyle="--" if lesion.change in DASHED else "-",
            linewidth=1.1,
            marker="o",
            markersize=2.8,
        )
    highest = max([max(one.volume_ml, one.prior_volume_ml or 0.0) for one in lesions] or [1e-3])
    key = "axis_lesion"
    if highest > 1.0:
        key = "axis_lesion_log"
        # Small lesions stay apart although a large one is there.
        right.set_yscale("symlog", linthresh=0.1, linscale=0.6)
        ticks = [tick for tick in (0.0, 0.1, 1.0, 10.0, 100.0) if tick <= 10.0 * highest]
        right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        right.minorticks_off()
        right.set_ylim(-0.01, 1.6 * highest)
    else:
        right.set_ylim(-0.02 * highest, 1.15 * highest)
    _finish(right, words[key])
    span = times[-1] - times[0] or 1.0
    for axes in (left, right):
        axes.set_xlim(times[0] - 0.25 * span, times[-1] + 0.25 * span)
        axes.set_xticks(list(times), list(names))
    return _png(figure)


def lesions_by_diameter(diameters_mm: Sequence[float], size_cm: tuple[float, float]) -> bytes:
    """How many lesions there are of each size; returns a PNG."""
    figure, (axes,) = _figure(size_cm, 1)
    edges = [0, 3, 5, 10, 15, 20, np.inf]
    counts, _ = np.histogram(np.asarray(diameters_mm, dtype=float), bins=edges)
    names = ["< 3", "3–5", "5–10", "10–15", "15–20", "≥ 20"]
    bars = axes.bar(range(len(names)), counts, color=_BLUE, width=0.62)
    axes.bar_label(bars, fontsize=7, color=_INK, padding=1.5)
    axes.set_xticks(range(len(names)), names)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylim(0.0, 1.25 * max(int(counts.max()), 1))
    words = texts()["report"]
    _finish(axes, words["axis_count"])
    axes.set_xlabel(words["axis_diameter"], fontsize=7, color=_INK)
    return _png(figure)


def _figure(size_cm: tuple[float, float], columns: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(size_cm[0] * _CM, size_cm[1] * _CM), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=7.5, color=_INK, loc="left", pad=5)
    axes.tick_params(labelsize=7, colors=_INK, length=2.5, width=0.6)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_linewidth(0.6)
        spine.set_color(_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.4)
    axes.set_axisbelow(True)


def _png(figure: Figure) -> bytes:
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    # without the transparency that a PDF would store as a second picture
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(buffer, format="PNG")
    return buffer.getvalue()

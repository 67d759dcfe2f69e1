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
from operators.dicom_writer.texts import DEFAULT_LANGUAGE, number, texts
from operators.dicom_writer.timeline import Moment
from operators.messages import Lesion

DPI = 260
_INK = "#2b3440"
_FAINT = "#c9d1da"
_BLUE = "#1f5a92"
_CM = 1.0 / 2.54


def volumes_over_time(
    moments: Sequence[Moment],
    names: Sequence[str],
    lesions: Sequence[Lesion],
    size_cm: tuple[float, float],
    language: str,
) -> bytes:
    """Lesion load with its 95 % interval, and each lesion's volume, at each time point.

    Parameters
    ----------
    moments
        The compared studies, oldest first.
    names
        What stands below each of them.
    lesions
        The lesions that the moments' volumes belong to.
    size_cm
        Width and height of the picture.
    language
        Of the texts.

    Returns
    -------
    bytes
        PNG.
    """
    figure, (left, right) = _figure(size_cm, 2)
    words = texts(language)["report"]
    times = [moment.days for moment in moments]
    loads = [moment.load_ml for moment in moments]
    intervals = [moment.load_interval_ml for moment in moments]
    highest = max([*loads, *(one[1] for one in intervals if one is not None), 1e-3])
    left.plot(times, loads, color=_BLUE, linewidth=1.4, marker="o", markersize=4.0)
    for time, load, interval in zip(times, loads, intervals, strict=True):
        top = load
        if interval is not None:
            top = max(interval[1], load)
            errors = [[max(load - interval[0], 0.0)], [top - load]]
            left.errorbar([time], [load], errors, color=_BLUE, linewidth=0.9, capsize=2.5)
        left.annotate(
            number(load, 2, language),
            (time, top),
            textcoords="offset points",
            xytext=(0, 3.5),
            ha="center",
            fontsize=6.5,
            color=_INK,
        )
    left.set_ylim(0.0, 1.25 * highest)
    known = any(interval is not None for interval in intervals)
    _finish(left, words["axis_load_interval" if known else "axis_load"])
    _lesion_lines(right, moments, lesions)
    volumes = [v for moment in moments for v in moment.volumes_ml if v is not None]
    highest = max([*volumes, 1e-3])
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
    margin = 0.25 if len(times) < 3 else 0.12
    shown = _apart(times, 0.3 * span if len(times) > 2 else 0.0)
    for axes in (left, right):
        axes.set_xlim(times[0] - margin * span, times[-1] + margin * span)
        axes.set_xticks([times[n] for n in shown], [names[n] for n in shown])
    if language != DEFAULT_LANGUAGE:
        for axes in (left, right):
            _localised(axes, language)
    return _png(figure)


def _lesion_lines(axes: Axes, moments: Sequence[Moment], lesions: Sequence[Lesion]) -> None:
    order = sorted(
        range(len(lesions)), key=lambda index: -BY_IMPORTANCE.index(lesions[index].change)
    )
    times = [moment.days for moment in moments]
    for index in order:
        change = lesions[index].change
        colour = np.asarray(CHANGE_COLOURS[change]) / 255.0 * 0.9
        volumes = [moment.volumes_ml[index] for moment in moments]
        axes.plot(
            times,
            [np.nan if volume is None else volume for volume in volumes],
            color=tuple(colour) if change not in DASHED else "#6b7480",
            linestyle="--" if change in DASHED else "-",
            linewidth=1.1,
            marker="o",
            markersize=2.6,
        )


def _apart(times: Sequence[float], least: float) -> list[int]:
    """The positions whose labels can stand without touching; the last one always is one."""
    shown = [len(times) - 1]
    for position in range(len(times) - 1):
        if all(abs(times[position] - times[other]) >= least for other in shown):
            shown.append(position)
    return sorted(shown)


def _localised(axes: Axes, language: str) -> None:
    """Decimal signs of the vertical axis in the language."""
    ticks = [float(tick) for tick in axes.get_yticks()]
    low, high = axes.get_ylim()
    sign = str(texts(language)["decimal_sign"])
    axes.set_yticks(ticks, [f"{tick:g}".replace(".", sign) for tick in ticks])
    axes.set_ylim(low, high)


def lesions_by_diameter(
    diameters_mm: Sequence[float], size_cm: tuple[float, float], language: str
) -> bytes:
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
    words = texts(language)["report"]
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

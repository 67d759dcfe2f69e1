"""Slices of each case with the reference's and the models' contours."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import highdicom as hd
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model_tools.evaluate.dataset import Case
from model_tools.evaluate.documents import Section
from model_tools.evaluate.examination import read_image
from model_tools.evaluate.report import number
from model_tools.evaluate.store import REFERENCE, Store

LEVELS = 4
"""Slices of each case."""
APART_MM = 9.0
"""Two shown slices are at least so far apart."""
REFERENCE_COLOUR, MODEL_COLOUR = "#ffd400", "#ff2d55"
_ORIENTATION = "LPH"


def oriented(volume: hd.Volume) -> tuple[NDArray[Any], int, tuple[float, float, float]]:
    """A volume along the patient's axes, the axis of its slices and its spacing.

    Returns
    -------
    ndarray
        (i, j, k) towards left, posterior and head, along the closest of the image's own axes.
    int
        Axis across the acquired slices: the thickest voxels', or k (axial) where all are equal to
        a tenth.
    tuple
        Millimetres.
    """
    turned = volume.to_patient_orientation(_ORIENTATION)
    spacing = tuple(float(s) for s in turned.spacing)
    across = int(np.argmax(spacing)) if max(spacing) > 1.1 * min(spacing) else 2
    return np.asarray(turned.array), across, (spacing[0], spacing[1], spacing[2])


def plane(array: NDArray[Any], across: int, level: int) -> NDArray[Any]:
    """One slice as rows and columns in the radiological convention.

    Axial: patient's right on the left, anterior on top; coronal likewise with the head on top;
    sagittal: anterior on the left.
    """
    part = np.take(array, level, axis=across).T
    return np.asarray(part if across == 2 else part[::-1])


def levels_of(area: NDArray[np.float64], step_mm: float) -> list[int]:
    """The slices with most lesion, apart from each other, from low to high.

    Parameters
    ----------
    area
        Lesion area by slice.
    step_mm
        From slice to slice.
    """
    chosen: list[int] = []
    for level in np.argsort(-area, kind="stable"):
        if area[level] <= 0 or len(chosen) == LEVELS:
            break
        if all(abs(int(level) - other) * step_mm >= APART_MM for other in chosen):
            chosen.append(int(level))
    return sorted(chosen)


def case_figure(
    flair: hd.Volume, reference: hd.Volume | None, outlines: Mapping[str, hd.Volume]
) -> bytes | None:
    """FLAIR slices, a row for each model, as PNG; None where nothing is outlined anywhere.

    Parameters
    ----------
    flair
        As acquired.
    reference
        Mask on the same grid, or None.
    outlines
        Model to mask on the same grid.
    """
    image, across, spacing = oriented(flair)
    masks = {name: oriented(mask)[0] > 0 for name, mask in outlines.items()}
    truth = None if reference is None else oriented(reference)[0] > 0
    others = tuple(axis for axis in range(3) if axis != across)
    shown = [*masks.values()] if truth is None else [*masks.values(), *[truth] * len(masks)]
    area = np.sum([mask.sum(axis=others) for mask in shown], axis=0, dtype=np.float64)
    levels = levels_of(np.asarray(area), spacing[across])
    if not levels:
        return None
    inside = np.argwhere(image > np.percentile(image, 60))
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    window = tuple(
        slice(None) if axis == across else slice(low[axis], high[axis]) for axis in range(3)
    )
    dark, bright = np.percentile(image[image > np.percentile(image, 40)], [1, 99.7])
    columns, rows = ([a for a in range(3) if a != across][place] for place in (0, 1))
    aspect = spacing[rows] / spacing[columns]
    width = (high - low)[columns] * spacing[columns]
    height = (high - low)[rows] * spacing[rows]
    side = 2.1
    figure = Figure(figsize=(side * LEVELS, side * height / width * len(masks) + 0.2 * len(masks)))
    axes = figure.subplots(len(masks), LEVELS, squeeze=False)
    for row, (name, mask) in zip(axes, masks.items(), strict=True):
        for place, one in enumerate(row):
            one.set_axis_off()
            if place >= len(levels):
                continue
            level = levels[place]
            one.imshow(
                plane(image[window], across, level),
                cmap="gray",
                vmin=dark,
                vmax=bright,
                aspect=aspect,
                interpolation="bilinear",
            )
            if truth is not None:
                _contour(one, plane(truth[window], across, level), REFERENCE_COLOUR)
            _contour(one, plane(mask[window], across, level), MODEL_COLOUR)
            one.set_title(name if place == 0 else "", fontsize=7, loc="left", pad=2)
    figure.subplots_adjust(0, 0, 1, 0.97, wspace=0.02, hspace=0.08)
    stream = io.BytesIO()
    figure.savefig(stream, format="jpeg", dpi=130, facecolor="white", pil_kwargs={"quality": 85})
    return stream.getvalue()


def _contour(axes: Any, mask: NDArray[np.bool_], colour: str) -> None:
    if mask.any():
        axes.contour(mask.astype(float), levels=[0.5], colors=colour, linewidths=0.7)


def case_pictures(
    cases: Sequence[Case],
    answers: Sequence[Mapping[str, Any]],
    store: Store,
    models: Sequence[str],
    most: int,
) -> list[Section]:
    """A section for each case: those without a reference first, then from low Dice to high.

    Parameters
    ----------
    cases
        The data set.
    answers, store
        What the models gave.
    models
        Their names in the report's order; the first one's Dice orders the cases.
    most
        Cases shown.
    """
    known = {(a["case"], a["model"]): a for a in answers}

    def order(case: Case) -> tuple[bool, float, str]:
        dice = [
            known[case.name, m]["scores"].get("dice") for m in models if (case.name, m) in known
        ]
        values = [value for value in dice if value is not None]
        return case.reference is not None, values[0] if values else 0.0, case.name

    sections = []
    for case in sorted(cases, key=order)[:most]:
        outlines = {
            model: store.read_mask(model, case.name)
            for model in models
            if (case.name, model) in known
            and known[case.name, model]["shown"]
            and store.mask(model, case.name).is_file()
        }
        if not outlines:
            continue
        reference = None if case.reference is None else store.read_mask(REFERENCE, case.name)
        picture = case_figure(read_image(case.images["flair"]), reference, outlines)
        lines = [_line(known[case.name, model], model) for model in outlines]
        caption = "The levels with the largest area of lesion. Red: model."
        if reference is not None:
            caption += " Yellow: reference."
        sections.append(
            Section(
                f"Case {case.name}" + ("" if reference is not None else " (no reference)"),
                lines,
                figures=[] if picture is None else [(picture, caption)],
                together=True,
            )
        )
    return sections


def _line(answer: Mapping[str, Any], model: str) -> str:
    shown, scores = answer["shown"], answer["scores"]
    text = f"{model}: {shown['lesions']:.0f} lesions, {number(shown['ml'])} ml"
    if scores:
        text += (
            f" (reference {scores['lesions']:.0f}, {number(scores['reference_ml'])} ml), "
            f"Dice {number(scores['dice'])}, F1 {number(scores['f1'])}"
        )
    return f"{text}; {answer['remark']}." if answer["remark"] else f"{text}."

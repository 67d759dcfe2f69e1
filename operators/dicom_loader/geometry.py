"""Whether the slices of a stack form a volume, and if not, what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from highdicom.spatial import get_volume_positions

from operators.dicom_loader.frames import MR_CLASSES, Frame, StackFacts
from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.messages import SeriesProblem

_UNIT_TOLERANCE = 1e-2
_MAXIMUM_GAPS_NAMED = 4


@dataclass(frozen=True)
class StackGeometry:
    """The geometry of a stack as far as its headers define it (None where they do not).

    Attributes
    ----------
    spacing_mm
        Between rows, between columns, between slices.
    orientation
        The plane that the slices are nearest to.
    coverage_mm
        Extent perpendicular to the slices, half a slice beyond the outer centres included.
    slice_count
        Number of different slice positions.
    """

    spacing_mm: tuple[float, float, float] | None
    orientation: Literal["axial", "sagittal", "coronal"] | None
    coverage_mm: float | None
    slice_count: int


def valid_directions(orientation: Sequence[float] | None) -> np.ndarray | None:
    """Row and column direction as a float array (2, 3) if they are orthogonal unit vectors."""
    if orientation is None:
        return None
    directions = np.asarray(orientation, dtype=float).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > _UNIT_TOLERANCE:
        return None
    return directions


def plane_of(normal: np.ndarray) -> Literal["axial", "sagittal", "coronal"]:
    """The anatomical plane whose normal is nearest to a direction in LPS."""
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(normal)))]  # type: ignore[return-value]


def slice_direction(orientation: Sequence[float] | np.ndarray) -> np.ndarray:
    """The direction in which slices are ordered: column direction × row direction.

    With it, (slice, row, column) is a right-handed system, which is highdicom's order.
    """
    directions = np.asarray(orientation, dtype=float).reshape(2, 3)
    cross = np.cross(directions[1], directions[0])
    return np.asarray(cross / np.linalg.norm(cross))


def in_slice_order(frames: Sequence[Frame]) -> list[Frame]:
    """The frames of a stack sorted along :func:`slice_direction`; by number without geometry."""

    def number(frame: Frame) -> tuple[int, str]:
        own = frame.number if frame.number is not None else frame.instance_number
        return (own if own is not None else 0, frame.instance.sop_instance_uid)

    directions = valid_directions(frames[0].facts.orientation)
    if directions is None or any(frame.position is None for frame in frames):
        return sorted(frames, key=number)
    along = slice_direction(directions.ravel())
    distances = {id(frame): float(np.dot(frame.position or (), along)) for frame in frames}
    return sorted(frames, key=lambda frame: (round(distances[id(frame)], 3), number(frame)))


def distances_mm(frames: Sequence[Frame]) -> np.ndarray | None:
    """Distance of every frame along the slice direction from the patient origin, unsorted."""
    directions = valid_directions(frames[0].facts.orientation)
    if directions is None or any(frame.position is None for frame in frames):
        return None
    positions = np.array([frame.position for frame in frames], dtype=float)
    return np.asarray(positions @ slice_direction(directions.ravel()))


def measure(frames: Sequence[Frame]) -> StackGeometry:
    """Spacing, plane, coverage and number of positions of a stack."""
    facts = frames[0].facts
    directions = valid_directions(facts.orientation)
    distances = distances_mm(frames)
    if directions is None or distances is None:
        return StackGeometry(None, None, None, len(frames))
    plane = plane_of(np.cross(directions[0], directions[1]))
    levels = _levels(distances)
    if len(levels) > 1:
        between: float | None = float(np.median(np.diff(levels)))
    else:
        between = facts.spacing_between_slices or facts.slice_thickness
    if facts.pixel_spacing is None or between is None:
        return StackGeometry(None, plane, None, len(levels))
    coverage = float(levels[-1] - levels[0]) + between
    spacing = (*facts.pixel_spacing, round(between, 4))
    return StackGeometry(spacing, plane, round(coverage, 3), len(levels))


def diagnose(
    frames: Sequence[Frame], settings: DICOMLoaderSettings | None = None
) -> list[SeriesProblem]:
    """Everything in the headers of a stack that forbids, or puts in doubt, its use as a volume.

    Parameters
    ----------
    frames
        The frames of one stack, in any order.
    settings
        Limits; the defaults when None.

    Returns
    -------
    list of SeriesProblem
        In the order found; empty for a sound volume. Messages name slice positions as
        millimetres along the slice normal, row direction × column direction.
    """
    settings = settings or DICOMLoaderSettings()
    problems = [*_kind_problems(frames[0].facts), *_frame_of_reference_problems(frames)]
    problems += _spacing_problems(frames, settings)
    missing_orientation = [frame for frame in frames if frame.facts.orientation is None]
    missing_position = [frame for frame in frames if frame.position is None]
    if missing_orientation:
        problems.append(
            _fatal(
                "missing_orientation", f"{_images(len(missing_orientation))} without orientation."
            )
        )
    elif valid_directions(frames[0].facts.orientation) is None:
        problems.append(
            _fatal(
                "invalid_orientation",
                "The row and column directions are not perpendicular unit vectors.",
            )
        )
    if missing_position:
        problems.append(
            _fatal("missing_position", f"{_images(len(missing_position))} without position.")
        )
    distances = distances_mm(frames)
    if distances is None:
        return problems
    levels = _levels(distances)
    if len(levels) < len(frames):
        problems.append(_duplicates(distances, levels))
    if len(levels) == 1:
        problems.append(_fatal("single_slice", "There is only one slice position."))
        return problems
    problems += _shear_problems(frames, distances, settings)
    problems += _regularity_problems(frames[0].facts, levels, settings)
    return problems


def _fatal(code: str, message: str) -> SeriesProblem:
    return SeriesProblem(code, message, fatal=True)


def _warning(code: str, message: str) -> SeriesProblem:
    return SeriesProblem(code, message, fatal=False)


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count} images are"


def _levels(distances: np.ndarray) -> np.ndarray:
    """Sorted distances without repetitions closer than 0.01 mm."""
    ordered = np.sort(distances)
    keep = np.concatenate(([True], np.diff(ordered) > 0.01))
    return np.asarray(ordered[keep])


def _kind_problems(facts: StackFacts) -> list[SeriesProblem]:
    problems = []
    if facts.sop_class_uid not in MR_CLASSES:
        problems.append(
            _fatal("not_mr_image", "The images are not MR images but captures or derived objects.")
        )
    if (facts.samples_per_pixel or 1) > 1:
        problems.append(_fatal("colour_image", "The images are in colour."))
    if "MOSAIC" in facts.attributes.image_type:
        problems.append(
            _fatal("mosaic", "Each image is a mosaic of slices, whose positions are not stated.")
        )
    if facts.concatenated:
        problems.append(
            _fatal("concatenation", "The multi-frame image is split into several files.")
        )
    if not facts.rows or not facts.columns:
        problems.append(_fatal("missing_size", "The number of rows or columns is not stated."))
    return problems


def _frame_of_reference_problems(frames: Sequence[Frame]) -> list[SeriesProblem]:
    uids = {frame.facts.frame_of_reference_uid for frame in frames}
    if None in uids:
        return [_fatal("missing_frame_of_reference", "The frame of reference is not stated.")]
    if len(uids) > 1:
        return [
            _fatal(
                "mixed_frames_of_reference",
                f"The slices refer to {len(uids)} different frames of reference.",
            )
        ]
    return []


def _spacing_problems(
    frames: Sequence[Frame], settings: DICOMLoaderSettings
) -> list[SeriesProblem]:
    spacings = {frame.facts.pixel_spacing for frame in frames}
    if None in spacings:
        return [_fatal("missing_spacing", "The pixel spacing is not stated as two numbers.")]
    stated = np.array(sorted(spacing for spacing in spacings if spacing is not None))
    low, high = settings.minimum_spacing_mm, settings.maximum_spacing_mm
    if stated.min() < low or stated.max() > high:
        return [
            _fatal(
                "absurd_spacing",
                f"The pixel spacing of {stated.min():g} to {stated.max():g} mm is not within "
                f"{low:g} to {high:g} mm.",
            )
        ]
    if np.ptp(stated, axis=0).max() > 1e-4:
        return [
            _fatal(
                "inconsistent_spacing",
                f"The pixel spacing differs between slices ({stated.min():g} to "
                f"{stated.max():g} mm).",
            )
        ]
    return []


def _duplicates(distances: np.ndarray, levels: np.ndarray) -> SeriesProblem:
    nearest = np.abs(distances[:, None] - levels[None, :]).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(levels))
    repeated = levels[counts > 1]
    named = ", ".join(f"{-level:.1f}" for level in repeated[:_MAXIMUM_GAPS_NAMED])
    more = "" if len(repeated) <= _MAXIMUM_GAPS_NAMED else " and others"
    return _fatal(
        "duplicate_positions",
        f"{len(repeated)} of {len(levels)} slice positions hold more than one image "
        f"(at {named}{more} mm).",
    )


def _shear_problems(
    frames: Sequence[Frame], distances: np.ndarray, settings: DICOMLoaderSettings
) -> list[SeriesProblem]:
    facts = frames[0].facts
    if facts.pixel_spacing is None or facts.orientation is None:
        return []
    directions = np.asarray(facts.orientation, dtype=float).reshape(2, 3)
    positions = np.array([frame.position for frame in frames], dtype=float)
    order = np.argsort(distances)
    offsets = (positions - positions[order[0]]) @ directions.T
    furthest = float(np.linalg.norm(offsets, axis=1).max())
    if furthest <= settings.shear_tolerance_pixels * max(facts.pixel_spacing):
        return []
    span = float(np.ptp(distances))
    last = float(np.linalg.norm(offsets[order[-1]]))
    angle = np.degrees(np.arctan2(last, span))
    return [
        _fatal(
            "sheared_stack",
            f"The slices do not lie above each other: they shift by up to {furthest:.1f} mm within "
            f"their plane ({angle:.1f} degrees between the stack and the slice normal).",
        )
    ]


def _regularity_problems(
    facts: StackFacts, levels: np.ndarray, settings: DICOMLoaderSettings
) -> list[SeriesProblem]:
    gaps = np.diff(levels)
    tolerance = settings.slice_spacing_tolerance
    along = slice_direction(facts.orientation or ())
    points = levels[:, None] * along[None, :]
    spacing, _ = get_volume_positions(points, facts.orientation or (), rtol=tolerance)
    stated = abs(facts.spacing_between_slices or 0.0)
    if spacing is None:
        gap_problem = _missing_slices(points, levels, facts, stated, tolerance)
        if gap_problem is not None:
            return [gap_problem]
        return [
            _fatal(
                "uneven_spacing",
                f"The distances between slices differ ({gaps.min():.2f} to {gaps.max():.2f} mm).",
            )
        ]
    low, high = settings.minimum_spacing_mm, settings.maximum_spacing_mm
    if not low <= spacing <= high:
        return [
            _fatal(
                "absurd_spacing",
                f"The slices are {spacing:.2f} mm apart, which is not within {low:g} to "
                f"{high:g} mm.",
            )
        ]
    return _stated_spacing_problems(facts, spacing, stated, len(levels))


def _missing_slices(
    points: np.ndarray,
    levels: np.ndarray,
    facts: StackFacts,
    stated: float,
    tolerance: float,
) -> SeriesProblem | None:
    gaps = np.diff(levels)
    hints = [stated] if stated > 0 and gaps.min() > stated * (1 - tolerance) else []
    for hint in (*hints, None):
        found, _ = get_volume_positions(
            points,
            facts.orientation or (),
            rtol=tolerance,
            allow_missing_positions=True,
            spacing_hint=hint,
        )
        if found is None:
            continue
        missing = np.rint(gaps / found).astype(int) - 1
        total = int(missing.sum())
        where = [
            f"{count} between {-levels[index + 1]:.1f} and {-levels[index]:.1f} mm"
            for index, count in reversed(list(enumerate(missing)))
            if count > 0
        ]
        if not where:
            continue
        more = "" if len(where) <= _MAXIMUM_GAPS_NAMED else ", and others"
        return _fatal(
            "missing_slices",
            f"{total} of {total + len(levels)} slices are missing "
            f"({', '.join(where[:_MAXIMUM_GAPS_NAMED])}{more}; slices are {found:.2f} mm apart).",
        )
    return None


def _stated_spacing_problems(
    facts: StackFacts, spacing: float, stated: float, count: int
) -> list[SeriesProblem]:
    """Compare the positions with SpacingBetweenSlices, which many writers use loosely."""
    if stated <= 0 or abs(spacing - stated) <= 0.05 * spacing:
        return []
    ratio = spacing / stated
    thickness = facts.slice_thickness or 0.0
    every_nth = round(ratio)
    if every_nth >= 2 and abs(ratio - every_nth) < 0.05 and 0 < thickness <= 1.1 * stated:
        return [
            _fatal(
                "missing_slices",
                f"Only every {every_nth}. slice is there: the slices are {spacing:.2f} mm apart, "
                f"the header states {stated:.2f} mm.",
            )
        ]
    return [
        _warning(
            "spacing_mismatch",
            f"The header states {stated:.2f} mm between slices, the positions give "
            f"{spacing:.2f} mm for {count} slices; the positions are used.",
        )
    ]

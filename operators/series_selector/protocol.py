"""How the studies' protocols differ, and what that means for their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom import Dataset

from operators.messages import (
    QualityNote,
    SelectedSeries,
    SelectedStudy,
    SeriesAttributes,
    Severity,
)
from operators.series_selector.settings import ProtocolTolerances

_TIMES = (
    ("echo time", "echo_time_ms", "echo_time_ratio", "ms"),
    ("repetition time", "repetition_time_ms", "repetition_time_ratio", "ms"),
    ("inversion time", "inversion_time_ms", "inversion_time_ratio", "ms"),
)


@dataclass(frozen=True)
class Difference:
    """One respect in which an earlier study differs from the current one."""

    code: str
    severity: Severity
    what: str
    """What differs, as "field strength"."""
    before: str
    now: str
    effect: str
    """What it means for the comparison."""


def compare_protocols(
    current: SelectedStudy,
    earlier: Sequence[tuple[str, SelectedStudy]],
    tolerances: ProtocolTolerances,
) -> list[QualityNote]:
    """A note for each respect in which earlier studies differ from the current one.

    Parameters
    ----------
    current
        The current study.
    earlier
        The studies that it is compared with and their names in notes, as "prior".
    tolerances
        Differences up to these are not mentioned.

    Returns
    -------
    list of QualityNote
        Studies that differ in the same way share a note.
    """
    subjects: dict[Difference, list[str]] = {}
    for name, study in earlier:
        for difference in differences(study, current, tolerances):
            subjects.setdefault(difference, []).append(name)
    return [
        QualityNote(
            one.code,
            one.severity,
            f"{one.what[0].upper()}{one.what[1:]}: {one.before} in the {_listed(names)} "
            f"{'study' if len(names) == 1 else 'studies'}, {one.now} in the current one; "
            f"{one.effect}.",
        )
        for one, names in subjects.items()
    ]


def differences(
    before: SelectedStudy, now: SelectedStudy, tolerances: ProtocolTolerances
) -> list[Difference]:
    """In which respects two studies differ beyond the tolerances."""
    found: list[Difference] = []
    for role, series in now.series.items():
        other = before.series.get(role)
        if other is None:
            continue
        if role == next(iter(now.series)):
            found += _scanner(other, series)
            found += _field(other.series.attributes, series.series.attributes, tolerances)
            found += _dimension(role, other, series)
            found += _resolution(role, other, series, tolerances)
            found += _unknown(role, other, series)
        found += _parameters(role, other, series, tolerances, main=role == next(iter(now.series)))
    return found


def slice_thickness_mm(series: SelectedSeries) -> float | None:
    """Nominal slice thickness from the first header, of classic or multi-frame images."""
    if not series.headers:
        return None
    header = series.headers[0]
    value = header.get("SliceThickness")
    if value is None:
        value = _shared_measures(header).get("SliceThickness")
    return float(value) if value else None


def _shared_measures(header: Dataset) -> Dataset:
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for item in (header.get(groups) or [])[:1]:
            measures = item.get("PixelMeasuresSequence")
            if measures:
                return measures[0]
    return Dataset()


def _scanner(before: SelectedSeries, now: SelectedSeries) -> Iterator[Difference]:
    was, is_ = _model(before.series.attributes), _model(now.series.attributes)
    if was is None or is_ is None:
        return
    effect = (
        "contrast and distortion differ between scanners, so that small changes of volume cannot "
        "be told from the change of scanner"
    )
    if was.casefold() != is_.casefold():
        yield Difference("protocol_scanner", "warning", "scanner", was, is_, effect)
        return
    stations = [_station(series) for series in (before, now)]
    if None not in stations and stations[0] != stations[1]:
        yield Difference(
            "protocol_scanner",
            "info",
            "scanner",
            f"another {is_}",
            "this one",
            "calibration differs between scanners of one model by about a percent of length",
        )


def _model(attributes: SeriesAttributes) -> str | None:
    parts = [attributes.manufacturer, attributes.manufacturer_model_name]
    words = " ".join(part.strip() for part in parts if part and part.strip())
    return words or None


def _station(series: SelectedSeries) -> str | None:
    """The serial number, or the name, of the scanner."""
    if not series.headers:
        return None
    header = series.headers[0]
    value = header.get("DeviceSerialNumber") or header.get("StationName")
    return str(value).strip() or None if value else None


def _field(
    before: SeriesAttributes, now: SeriesAttributes, tolerances: ProtocolTolerances
) -> Iterator[Difference]:
    was, is_ = before.magnetic_field_strength_t, now.magnetic_field_strength_t
    if was is None or is_ is None or abs(was - is_) <= tolerances.field_strength_t:
        return
    effect = (
        "the higher field shows more and larger lesions, so that new lesions and growth may be "
        "overstated"
        if is_ > was
        else "the lower field shows fewer and smaller lesions, so that resolved lesions may be "
        "overstated and new ones missed"
    )
    yield Difference(
        "protocol_field_strength", "warning", "field strength", f"{was:g} T", f"{is_:g} T", effect
    )


def _dimension(role: str, before: SelectedSeries, now: SelectedSeries) -> Iterator[Difference]:
    was = before.series.attributes.mr_acquisition_type
    is_ = now.series.attributes.mr_acquisition_type
    if not was or not is_ or was == is_:
        return
    yield Difference(
        "protocol_dimension",
        "warning",
        f"{role.upper()} acquisition",
        was,
        is_,
        "3D shows small and juxtacortical lesions that 2D misses, so that "
        + ("new" if is_ == "3D" else "resolved")
        + " lesions may be overstated",
    )


def _resolution(
    role: str, before: SelectedSeries, now: SelectedSeries, tolerances: ProtocolTolerances
) -> Iterator[Difference]:
    spacings = [series.series.attributes.spacing_mm for series in (before, now)]
    if spacings[0] is None or spacings[1] is None:
        return
    sides = [max(spacing) for spacing in (spacings[0], spacings[1])]
    if _apart(sides[0], sides[1], tolerances.slice_spacing_ratio):
        yield Difference(
            "protocol_slice_spacing",
            "warning",
            f"{role.upper()} slice spacing",
            f"{sides[0]:.3g} mm",
            f"{sides[1]:.3g} mm",
            _smallest(max(sides)),
        )
    thickness = [slice_thickness_mm(series) for series in (before, now)]
    if (
        thickness[0] is not None
        and thickness[1] is not None
        and _apart(thickness[0], thickness[1], tolerances.slice_thickness_ratio)
    ):
        yield Difference(
            "protocol_slice_thickness",
            "warning",
            f"{role.upper()} slice thickness",
            f"{thickness[0]:.3g} mm",
            f"{thickness[1]:.3g} mm",
            _smallest(max(thickness[0], thickness[1])),
        )
    planes = [min(spacing[0] * spacing[1], 1e3) ** 0.5 for spacing in (spacings[0], spacings[1])]
    if _apart(planes[0], planes[1], tolerances.pixel_ratio):
        yield Difference(
            "protocol_pixel_size",
            "info",
            f"{role.upper()} pixel size",
            f"{planes[0]:.2g} mm",
            f"{planes[1]:.2g} mm",
            "edges are drawn less exactly in the coarser image",
        )
    ways = [series.series.attributes.orientation for series in (before, now)]
    flat = any(series.series.attributes.mr_acquisition_type != "3D" for series in (before, now))
    if flat and ways[0] and ways[1] and ways[0] != ways[1]:
        yield Difference(
            "protocol_orientation",
            "warning",
            f"{role.upper()} slices",
            ways[0],
            ways[1],
            "a lesion is blurred in different directions, and " + _smallest(max(sides)),
        )


def _smallest(length_mm: float) -> str:
    """What the coarser image cannot measure: a ball that is no longer than its voxel."""
    volume_ml = math.pi / 6 * length_mm**3 / 1000
    return (
        f"volumes below {volume_ml:.2g} ml (lesions under {length_mm:.2g} mm across) cannot be "
        "compared"
    )


def _parameters(
    role: str,
    before: SelectedSeries,
    now: SelectedSeries,
    tolerances: ProtocolTolerances,
    *,
    main: bool,
) -> Iterator[Difference]:
    """Sequence timing and flip angle in one note for each role."""
    was, is_ = before.series.attributes, now.series.attributes
    pairs = []
    for name, attribute, limit, unit in _TIMES:
        first, second = getattr(was, attribute), getattr(is_, attribute)
        if first and second and _apart(first, second, getattr(tolerances, limit)):
            pairs.append((name, f"{first:.5g} {unit}", f"{second:.5g} {unit}"))
    if was.flip_angle_deg is not None and is_.flip_angle_deg is not None:
        apart = abs(was.flip_angle_deg - is_.flip_angle_deg)
        if apart > tolerances.flip_angle_deg:
            pairs.append(("flip angle", f"{was.flip_angle_deg:g}°", f"{is_.flip_angle_deg:g}°"))
    if not pairs:
        return
    yield Difference(
        "protocol_parameters",
        "warning" if main else "info",
        f"{role.upper()} {', '.join(name for name, _, _ in pairs)}",
        ", ".join(first for _, first, _ in pairs),
        ", ".join(second for _, _, second in pairs),
        "lesions have another contrast, so that faint ones and their volumes are compared with "
        "less certainty"
        if main
        else "it supports the finding of lesions less evenly",
    )


def _unknown(role: str, before: SelectedSeries, now: SelectedSeries) -> Iterator[Difference]:
    """Important attributes that only some headers state: nothing can be said about them."""
    missing = [_missing(series.series.attributes) for series in (before, now)]
    if not any(missing):
        return
    first, second = (", ".join(one) or "complete" for one in missing)
    yield Difference(
        "protocol_unknown",
        "info",
        f"attributes that the {role.upper()} headers lack",
        first,
        second,
        "differences in these are not known",
    )


def _missing(attributes: SeriesAttributes) -> list[str]:
    asked = {
        "scanner": _model(attributes),
        "field strength": attributes.magnetic_field_strength_t,
        "2D or 3D": attributes.mr_acquisition_type,
        "echo time": attributes.echo_time_ms,
        "repetition time": attributes.repetition_time_ms,
    }
    return [name for name, value in asked.items() if not value]


def _apart(first: float, second: float, ratio: float) -> bool:
    return max(first, second) > ratio * min(first, second) + 1e-9


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

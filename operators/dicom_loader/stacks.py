"""Splitting a series into stacks: one orientation, echo, b-value, time and kind of image each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from operators.dicom_loader.frames import Frame
from operators.dicom_loader.geometry import (
    distances_mm,
    in_slice_order,
    measure,
    plane_of,
    valid_directions,
)
from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.messages import Series, SeriesProblem

_ECHO_TIME_TOLERANCE_MS = 0.05
_INVERSION_TIME_TOLERANCE_MS = 1.0
_B_VALUE_TOLERANCE = 20.0
_FIELDS = (
    *("orientation", "size", "class", "image type", "echo number", "echo time"),
    *("inversion time", "b-value", "time", "stack", "instance"),
)


@dataclass
class Stack:
    """Frames that belong together, with the values that set them apart in their series."""

    frames: list[Frame]
    key: dict[str, Hashable]
    label: str = ""
    problems: list[SeriesProblem] = field(default_factory=list)


def _cluster(values: Sequence[float | None], tolerance: float) -> dict[float | None, float | None]:
    """Each value to the first of its run of neighbours closer than a tolerance."""
    clusters: dict[float | None, float | None] = {None: None}
    start = previous = -np.inf
    for value in sorted({value for value in values if value is not None}):
        if value - previous > max(tolerance, 1e-9):
            start = value
        clusters[value] = start
        previous = value
    return clusters


def _orientation_clusters(
    orientations: Sequence[tuple[float, ...] | None], tolerance_deg: float
) -> dict[tuple[float, ...] | None, int | None]:
    """Each orientation to the number of the cluster of directions that it belongs to."""
    counts = Counter(orientations)
    centres: list[np.ndarray] = []
    clusters: dict[tuple[float, ...] | None, int | None] = {None: None}
    limit = np.cos(np.radians(tolerance_deg))
    for orientation, _ in counts.most_common():
        if orientation is None:
            continue
        directions = np.asarray(orientation, dtype=float).reshape(2, 3)
        norms = np.linalg.norm(directions, axis=1, keepdims=True)
        unit = directions / np.where(norms > 0, norms, 1)
        near = [
            index
            for index, centre in enumerate(centres)
            if bool((np.sum(centre * unit, axis=1) >= limit).all())
        ]
        if not near:
            centres.append(unit)
        clusters[orientation] = near[0] if near else len(centres) - 1
    return clusters


def split_series(
    frames: Sequence[Frame], settings: DICOMLoaderSettings | None = None
) -> list[Stack]:
    """Split the frames of one series into stacks, each in slice order and with a label.

    Frames are told apart by orientation, size, image type, echo, inversion time, b-value,
    temporal position, stack identifier and multi-frame file. Where slice positions still repeat,
    gradient direction, acquisition number, trigger time or acquisition time separate complete
    sets of slices; if none of them does, the repetition stays in the stack for
    :func:`~operators.dicom_loader.geometry.diagnose` to name.
    """
    settings = settings or DICOMLoaderSettings()
    facts = {id(frame.facts): frame.facts for frame in frames}.values()
    orientations = _orientation_clusters(
        [frame.facts.orientation for frame in frames], settings.orientation_tolerance_deg
    )
    echoes = _cluster([f.attributes.echo_time_ms for f in facts], _ECHO_TIME_TOLERANCE_MS)
    inversions = _cluster(
        [f.attributes.inversion_time_ms for f in facts], _INVERSION_TIME_TOLERANCE_MS
    )
    b_values = _cluster([f.attributes.b_value for f in facts], _B_VALUE_TOLERANCE)
    keys: dict[int, dict[str, Hashable]] = {}
    for fact in facts:
        attributes = fact.attributes
        values: tuple[Hashable, ...] = (
            orientations[fact.orientation],
            (fact.rows, fact.columns),
            fact.sop_class_uid,
            (*attributes.image_type, fact.component),
            fact.echo_number,
            echoes[attributes.echo_time_ms],
            inversions[attributes.inversion_time_ms],
            b_values[attributes.b_value],
            fact.temporal_index,
            fact.stack_id,
            fact.multi_frame_uid,
        )
        keys[id(fact)] = dict(zip(_FIELDS, values, strict=True))
    groups: dict[tuple[Hashable, ...], list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[tuple(keys[id(frame.facts)].values())].append(frame)
    stacks = []
    for members in groups.values():
        key = keys[id(members[0].facts)]
        parts = _separate_repetitions(members)
        for extra, part in parts:
            stacks.append(Stack(in_slice_order(part), {**key, "repetition": extra}))
    stacks.sort(key=_order)
    _name(stacks)
    return stacks


_SEPARATORS: tuple[tuple[str, Callable[[Frame], Hashable]], ...] = (
    ("gradient direction", lambda frame: frame.gradient),
    ("acquisition", lambda frame: frame.acquisition_number),
    ("trigger time", lambda frame: frame.trigger_time),
    ("acquisition time", lambda frame: frame.acquisition_time),
)


def _separate_repetitions(frames: list[Frame]) -> list[tuple[Hashable, list[Frame]]]:
    """Split frames that repeat their positions into complete sets, if an attribute tells them."""
    distances = distances_mm(frames)
    if distances is None or len(frames) < 2:
        return [(None, frames)]
    levels = np.rint(distances * 20).astype(int)
    repeats = Counter(levels.tolist())
    times = max(repeats.values())
    if times == 1:
        return [(None, frames)]
    for name, value_of in _SEPARATORS:
        parts: dict[Hashable, list[Frame]] = defaultdict(list)
        at: dict[Hashable, list[int]] = defaultdict(list)
        for frame, level in zip(frames, levels.tolist(), strict=True):
            parts[value_of(frame)].append(frame)
            at[value_of(frame)].append(level)
        if len(parts) == times and all(len(set(own)) == len(own) for own in at.values()):
            ordered = sorted(parts.items(), key=lambda item: str(item[0]).zfill(24))
            return [((name, number), part) for number, (_, part) in enumerate(ordered, start=1)]
    return [(None, frames)]


def _order(stack: Stack) -> tuple[str, ...]:
    values = dict(stack.key)
    instance = values.pop("instance")
    number = stack.frames[0].facts.multi_frame_number
    return tuple(
        f"{value:020.6f}" if isinstance(value, int | float) else str(value).zfill(20)
        for value in (*values.values(), number, instance)
    )


def _name(stacks: Sequence[Stack]) -> None:
    """Label each stack by the fields in which the stacks of its series differ."""
    varying = [
        name
        for name in stacks[0].key
        if len({stack.key[name] for stack in stacks}) > 1 and name != "class"
    ]
    if "echo number" in varying and "echo time" in varying:
        pairs = {(stack.key["echo number"], stack.key["echo time"]) for stack in stacks}
        numbers = {number for number, _ in pairs}
        varying.remove("echo time" if len(pairs) == len(numbers) else "echo number")
    if "instance" in varying and any(
        len({stack.key[name] for stack in stacks}) == len(stacks)
        for name in varying
        if name != "instance"
    ):
        varying.remove("instance")
    for stack in stacks:
        stack.label = ", ".join(
            part for part in (_describe(name, stack, stacks) for name in varying) if part
        )
    used: Counter[str] = Counter(stack.label for stack in stacks)
    seen: Counter[str] = Counter()
    for stack in stacks:
        if len(stacks) > 1 and used[stack.label] > 1:
            seen[stack.label] += 1
            stack.label = f"{stack.label or 'part'} #{seen[stack.label]}"


def _describe(name: str, stack: Stack, stacks: Sequence[Stack]) -> str:
    value = stack.key[name]
    facts = stack.frames[0].facts
    if name == "orientation":
        directions = valid_directions(facts.orientation)
        return "no plane" if directions is None else plane_of(np.cross(*directions))
    if value is None:
        return "" if name == "repetition" else f"no {name}"
    if name == "size":
        return f"{facts.rows} × {facts.columns}"
    if name == "image type":
        common = set.intersection(*[set(_terms(other)) for other in stacks])
        return "\\".join(term for term in _terms(stack) if term not in common)
    if name == "echo number":
        return f"echo {value}"
    if name == "echo time":
        return f"TE {value:g} ms"
    if name == "inversion time":
        return f"TI {value:g} ms"
    if name == "b-value":
        return f"b {value:g}"
    if name == "time":
        return f"temporal position {value}"
    if name == "instance":
        return f"instance {facts.multi_frame_number}"
    if name == "repetition" and isinstance(value, tuple):
        return f"{value[0]} {value[1]}"
    return f"{name} {value}"


def _terms(stack: Stack) -> tuple[str, ...]:
    value = stack.key["image type"]
    return tuple(str(term) for term in value) if isinstance(value, tuple) else ()


def to_series(stack: Stack, temporal_positions: int) -> Series:
    """The message for one stack."""
    facts = stack.frames[0].facts
    geometry = measure(stack.frames)
    attributes = replace(
        facts.attributes,
        slice_count=geometry.slice_count,
        temporal_positions=temporal_positions,
        spacing_mm=geometry.spacing_mm,
        orientation=geometry.orientation,
        coverage_mm=geometry.coverage_mm,
    )
    frame_numbers: tuple[int, ...] | None = None
    instances = tuple(frame.instance for frame in stack.frames)
    if facts.multi_frame_uid is not None:
        instances = instances[:1]
        numbers = tuple(frame.number or 1 for frame in stack.frames)
        whole_in_order = numbers == tuple(range(1, facts.frame_count + 1))
        frame_numbers = None if whole_in_order else numbers
    return Series(
        series_uid=facts.series_uid,
        stack=stack.label,
        study_uid=facts.study_uid,
        frame_of_reference_uid=facts.frame_of_reference_uid,
        attributes=attributes,
        instances=instances,
        frame_numbers=frame_numbers,
        problems=tuple(sorted(stack.problems, key=lambda problem: not problem.fatal)),
    )


def count_times(stacks: Sequence[Stack]) -> list[int]:
    """For each stack of a series, how many differ from it in time alone, itself included."""
    fields = ("time", "repetition", "instance")
    others = [
        tuple(value for key, value in stack.key.items() if key not in fields) for stack in stacks
    ]
    counts = Counter(others)
    return [counts[other] for other in others]

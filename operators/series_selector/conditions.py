"""Conditions of the rules, decided in three values: holds, does not hold, not known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operators.series_selector.facts import Facts
from operators.series_selector.settings import Condition

_RANGES: tuple[tuple[str, str, str], ...] = (
    ("echo_time_ms", "TE", " ms"),
    ("repetition_time_ms", "TR", " ms"),
    ("inversion_time_ms", "TI", " ms"),
    ("flip_angle_deg", "flip angle", "°"),
    ("echo_train_length", "echo train", ""),
    ("b_value", "b", " s/mm²"),
    ("magnetic_field_strength_t", "field", " T"),
    ("slice_count", "slice count", ""),
    ("temporal_positions", "time point count", ""),
    ("coverage_mm", "coverage", " mm"),
    ("in_plane_mm", "pixel spacing", " mm"),
    ("slice_spacing_mm", "slice spacing", " mm"),
)


@dataclass(frozen=True)
class Verdict:
    """Whether a condition holds (None: the headers do not tell), and the attributes that tell."""

    holds: bool | None
    because: tuple[str, ...]
    """What holds, when it holds; what is contradicted, when it does not; what is absent, when
    that is not known."""


@dataclass(frozen=True)
class _Test:
    holds: bool | None
    text: str
    """The attribute's value, or its name where it is absent."""
    demand: str = ""


def evaluate(condition: Condition, facts: Facts) -> Verdict:
    """Decide a condition.

    It holds when every part of it holds, does not hold when one part is contradicted, and is
    undecided when parts of it concern attributes that the headers lack (Kleene's strong
    three-valued logic).
    """
    tests = [*_numbers(condition, facts), *_tokens(condition, facts), *_texts(condition, facts)]
    broken = [test for test in tests if test.holds is False]
    if broken:
        return Verdict(False, tuple(f"{test.text} is not {test.demand}" for test in broken))
    unknown = [test for test in tests if test.holds is None]
    if unknown:
        return Verdict(None, tuple(dict.fromkeys(test.text for test in unknown)))
    return Verdict(True, tuple(dict.fromkeys(test.text for test in tests if test.text)))


def _numbers(condition: Condition, facts: Facts) -> list[_Test]:
    tests = []
    for field, name, unit in _RANGES:
        limits = getattr(condition, field)
        if limits is None:
            continue
        value = facts.measure(field)
        if value is None:
            tests.append(_Test(None, name))
            continue
        low, high = limits
        holds = (low is None or value >= low) and (high is None or value <= high)
        if low is None:
            demand = f"at most {high:g}{unit}"
        elif high is None:
            demand = f"at least {low:g}{unit}"
        else:
            demand = f"within {low:g} to {high:g}{unit}"
        tests.append(_Test(holds, f"{name} {value:.5g}{unit}", demand))
    return tests


def _tokens(condition: Condition, facts: Facts) -> list[_Test]:
    attributes = facts.attributes
    tests = []
    for patterns, values, name in (
        (condition.scanning_sequence_any, attributes.scanning_sequence, "scanning sequence"),
        (condition.sequence_variant_any, attributes.sequence_variant, "sequence variant"),
        (condition.image_type_any, attributes.image_type, "image type"),
        (condition.modality, _single(attributes.modality), "modality"),
        (condition.body_part, _single(attributes.body_part_examined), "body part"),
        (condition.sequence_name, _single(attributes.sequence_name), "sequence name"),
    ):
        if patterns:
            tests.append(_any_of(patterns, values, name, any))
    for patterns, values, name in (
        (condition.scanning_sequence_none, attributes.scanning_sequence, "scanning sequence"),
        (condition.sequence_variant_none, attributes.sequence_variant, "sequence variant"),
        (condition.image_type_none, attributes.image_type, "image type"),
    ):
        if patterns:
            tests.append(_any_of(patterns, values, name, _none))
    return tests


def _texts(condition: Condition, facts: Facts) -> list[_Test]:
    attributes = facts.attributes
    tests = []
    if condition.acquisition is not None:
        kind = attributes.mr_acquisition_type
        holds = None if not kind else kind.upper() == condition.acquisition
        text = f"{kind} acquisition" if kind else "acquisition type"
        tests.append(_Test(holds, text, condition.acquisition))
    if condition.orientation:
        where = attributes.orientation
        tests.append(
            _Test(
                None if where is None else where in condition.orientation,
                f"{where} slices" if where else "orientation",
                " or ".join(condition.orientation),
            )
        )
    if condition.inversion is not None:
        inversion = facts.inversion
        tests.append(
            _Test(
                None if inversion is None else inversion == condition.inversion,
                {True: "inversion pulse", False: "no inversion pulse", None: "inversion pulse"}[
                    inversion
                ],
                "so in this kind of image",
            )
        )
    if condition.contrast is not None:
        given = facts.contrast is not None
        tests.append(
            _Test(
                given == condition.contrast,
                facts.contrast or "no sign of contrast agent",
                "so in this kind of image",
            )
        )
    if condition.words:
        found = [facts.words[name] for name in condition.words if name in facts.words]
        tests.append(
            _Test(
                bool(found),
                f'described as "{found[0]}"' if found else "the description",
                " or ".join(condition.words),
            )
        )
    if condition.no_words:
        found = [facts.words[name] for name in condition.no_words if name in facts.words]
        tests.append(
            _Test(
                not found,
                f'described as "{found[0]}"' if found else "",
                "so in this kind of image",
            )
        )
    return tests


def _single(value: str | None) -> tuple[str, ...]:
    cleaned = (value or "").strip().lstrip("*").strip()
    return (cleaned,) if cleaned else ()


def _none(matches: list[bool]) -> bool:
    return not any(matches)


def _any_of(
    patterns: Sequence[str],
    values: Sequence[str],
    name: str,
    decide: Callable[[list[bool]], bool],
) -> _Test:
    if not values:
        return _Test(None, name)
    matches = [
        re.fullmatch(pattern, value.strip(), re.IGNORECASE) is not None
        for pattern in patterns
        for value in values
    ]
    demand = f"{'none' if decide is _none else 'one'} of {', '.join(patterns)}"
    return _Test(decide(matches), f"{name} {'/'.join(values)}", demand)

"""The site's limits: what a model must reach to be accepted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from model_tools.evaluate.loads import LOADS
from model_tools.evaluate.metrics import METRICS, SIZES_MM3, size_name
from model_tools.evaluate.regions import REGIONS
from operators.errors import ConfigurationError

LOWEST = ("dice", "f1")
"""Metrics whose lowest case can be limited, as ``lowest_dice``."""
WHOLE = (*METRICS, *(f"lowest_{one}" for one in LOWEST), "volume_correlation", "not_processed")
"""What can be limited over all cases."""
PARTS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "by_load": (LOADS, METRICS),
    "by_scanner": (None, METRICS),
    "by_field_strength": (None, METRICS),
    "by_group": (None, METRICS),
    "by_size": (tuple(f"{size_name(*one)} mm3" for one in pairwise(SIZES_MM3)), ("recall",)),
    "by_region": (tuple(REGIONS), ("recall", "precision")),
}
"""Parts of the cases or lesions: their names where they are fixed, and what can be limited."""


@dataclass(frozen=True)
class Limit:
    """A limit of the site.

    Attributes
    ----------
    metric
        One of `WHOLE`; of a part, what `PARTS` allows.
    least, most
        Bounds on its mean over the cases; None for none.
    part, label
        As ``by_load`` and ``under 5 ml``; empty for all cases.
    """

    metric: str
    least: float | None
    most: float | None
    part: str = ""
    label: str = ""


def _limit(metric: str, bounds: Any, known: Sequence[str], part: str, label: str) -> Limit:
    if metric not in known:
        raise ValueError(f"{metric} is no metric" + (f" of {part}" if part else ""))
    if not isinstance(bounds, dict) or not bounds or set(bounds) - {"min", "max"}:
        raise ValueError(f"{metric} needs min, max or both")
    values = {key: float(value) for key, value in bounds.items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError(f"{metric} has a bound that is no number")
    return Limit(metric, values.get("min"), values.get("max"), part, label)


def _limits(content: Mapping[str, Any]) -> Iterator[Limit]:
    for key, value in content.items():
        if key not in PARTS:
            yield _limit(key, value, WHOLE, "", "")
            continue
        labels, metrics = PARTS[key]
        for label, found in value.items():
            if labels is not None and label not in labels:
                raise ValueError(f"{key} has no {label}; it has {', '.join(labels)}")
            for metric, bounds in found.items():
                yield _limit(metric, bounds, metrics, key, str(label))


def read_limits(path: Path) -> tuple[Limit, ...]:
    """Read a site's limits (YAML): ``metric: {min: x, max: y}``, or ``part: {label: {metric: …}}``.

    Raises
    ------
    ConfigurationError
        If a metric or part is unknown or a bound is no number.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return tuple(_limits(content))
    except (OSError, AttributeError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(
            path.name,
            f"It is no table of limits ({error}).",
            "Write lines such as: dice: {min: 0.6}.",
        ) from error


def _value(model: Mapping[str, Any], limit: Limit) -> float:
    """What a limit is held against; nan where there is none."""
    if limit.part:
        found = model[limit.part].get(limit.label, {}).get(limit.metric, math.nan)
        return float(found["mean"] if isinstance(found, dict) else found)
    if limit.metric == "volume_correlation":
        return float(model["volumes"]["correlation"])
    if limit.metric == "not_processed":
        return float(len(model["failures"]))
    if limit.metric.startswith("lowest_"):
        return float(model["lowest"][limit.metric.removeprefix("lowest_")])
    return float(model["metrics"][limit.metric]["mean"])


def check(model: Mapping[str, Any], limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Each limit with the measured value and whether it is kept; no value counts as not kept."""
    result = []
    for limit in limits:
        value = _value(model, limit)
        passed = (
            math.isfinite(value)
            and (limit.least is None or value >= limit.least)
            and (limit.most is None or value <= limit.most)
        )
        result.append({**asdict(limit), "value": value, "passed": passed})
    return result

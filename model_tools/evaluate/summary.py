"""What the answers of all cases come to: summary.json and cases.csv."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from model_tools.evaluate.dataset import ATTRIBUTES
from model_tools.evaluate.limits import LOWEST, Limit, check
from model_tools.evaluate.loads import load_class
from model_tools.evaluate.metrics import CURVE_METRICS, METRICS, SIZES_MM3, size_name
from model_tools.evaluate.regions import REGIONS
from model_tools.evaluate.statistics import agreement, compare_paired, pool, summarise
from model_tools.evaluate.store import SECOND_RATER

COMPARED = ("dice", "f1", "precision", "recall")
Answers = Sequence[Mapping[str, Any]]


def group(answers: Answers, key: str) -> dict[str, list[Mapping[str, Any]]]:
    """Answers with scores by an attribute or ``load``; cases without a value left out."""
    result: dict[str, list[Mapping[str, Any]]] = {}
    for answer in answers:
        name = load_class(answer["scores"]["reference_ml"]) if key == "load" else answer[key]
        if name:
            result.setdefault(str(name), []).append(answer)
    return dict(sorted(result.items()))


def _column(answers: Iterable[Mapping[str, Any]], metric: str) -> list[float]:
    return [_number(answer["scores"].get(metric)) for answer in answers]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def table(answers: Answers) -> dict[str, dict[str, float]]:
    """Every metric's summary over these answers."""
    return {metric: asdict(summarise(_column(answers, metric))) for metric in METRICS}


def by_size(answers: Answers) -> dict[str, dict[str, float]]:
    """Lesions of all cases together by size: how many, and the share that was found."""
    result = {}
    for low, high in pairwise(SIZES_MM3):
        name = size_name(low, high)
        counts = _column(answers, f"count_{name}")
        found = pool(_column(answers, f"recall_{name}"), counts)
        result[f"{name} mm3"] = {
            "lesions": sum(counts),
            "recall": found.share,
            "recall_low": found.low,
            "recall_high": found.high,
        }
    return result


def by_region(answers: Answers) -> dict[str, dict[str, float]]:
    """Lesions of all cases together by region; see `model_tools.evaluate.regions`."""

    def total(name: str) -> float:
        return sum(value for value in _column(answers, name) if math.isfinite(value))

    result: dict[str, dict[str, float]] = {}
    for region in REGIONS:
        entry = {
            "lesions": total(f"count_{region}"),
            "outlined": total(f"outlined_count_{region}"),
            "reference_ml": total(f"reference_ml_{region}"),
            "outlined_ml": total(f"outlined_ml_{region}"),
        }
        for name, count in (("recall", "count"), ("precision", "outlined_count")):
            found = pool(
                _column(answers, f"{name}_{region}"), _column(answers, f"{count}_{region}")
            )
            entry[name] = found.share
            entry[f"{name}_low"], entry[f"{name}_high"] = found.low, found.high
        result[region] = entry
    return result


def by_threshold(answers: Answers) -> dict[str, dict[str, float]]:
    """Mean over the cases at each threshold; empty for what has no probabilities."""
    curves = [answer["curve"] for answer in answers if answer["curve"]]
    return {
        threshold: {
            metric: float(np.mean([curve[threshold][metric] for curve in curves]))
            for metric in CURVE_METRICS
        }
        for threshold in (curves[0] if curves else ())
    }


def shown_alone(answers: Answers) -> dict[str, dict[str, float | str]]:
    """What a model shows in each case without a reference: lesions, ml, shares of volume."""
    result: dict[str, dict[str, float | str]] = {}
    for answer in answers:
        shown = answer["shown"]
        if answer["scores"] or not shown:
            continue
        regional = sum(shown[f"ml_{region}"] for region in REGIONS)
        result[answer["case"]] = {
            "lesions": shown["lesions"],
            "ml": shown["ml"],
            **{
                region: shown[f"ml_{region}"] / regional if regional else float("nan")
                for region in REGIONS
            },
            "remark": answer["remark"],
        }
    return result


def without_t1(models: Sequence[str], roles: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """Pairs of models of which the second uses the first one's sequences but for the T1."""
    known = {name: set(roles.get(name, ())) for name in models}
    return [
        (full, part)
        for full in models
        for part in models
        if "t1" in known[full] and known[part] == known[full] - {"t1"}
    ]


def summarise_all(
    answers: Answers,
    models: Sequence[str],
    limits: Sequence[Limit] = (),
    *,
    left_out: Mapping[str, str] | None = None,
    training_sizes: Mapping[str, int] | None = None,
    roles: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Everything that the report shows, as plain values.

    Parameters
    ----------
    answers
        As `model_tools.evaluate.store.Store.answers`.
    models
        Their names; the first one is what the others are compared with.
    limits
        The site's limits, for every model; the second rater is not held to them.
    left_out
        Scanner to the name of the model that was trained without it (leave-one-scanner-out).
    training_sizes
        Model to number of training cases.
    roles
        Model to the sequences it uses: which pairs show what the T1 is worth.
    """
    scored = {name: [a for a in answers if a["model"] == name and a["scores"]] for name in models}
    result: dict[str, Any] = {
        "models": {},
        "comparisons": [],
        "left_out": [],
        "without_t1": [],
    }
    for name in models:
        own = scored[name]
        entry: dict[str, Any] = {
            "sha256": next(
                (a["sha256"] for a in answers if a["model"] == name and a["sha256"]), ""
            ),
            "cases": len(own),
            "failures": {
                a["case"]: a["failure"]
                for a in answers
                if a["model"] == name and a["failure"] and not a["seen"]
            },
            "seen": [a["case"] for a in answers if a["model"] == name and a["seen"]],
            "roles": list((roles or {}).get(name, ())),
            "training_cases": (training_sizes or {}).get(name),
            "metrics": table(own),
            "lowest": {
                metric: min((a["scores"][metric] for a in own), default=float("nan"))
                for metric in LOWEST
            },
            "volumes": asdict(agreement(_column(own, "reference_ml"), _column(own, "outlined_ml")))
            if own
            else {key: float("nan") for key in ("bias", "lower", "upper", "correlation")},
            "by_size": by_size(own),
            "by_region": by_region(own),
            "by_threshold": by_threshold(own),
            **{
                f"by_{key}": {label: table(part) for label, part in group(own, key).items()}
                for key in ("load", *ATTRIBUTES)
            },
            "without_reference": shown_alone([a for a in answers if a["model"] == name]),
        }
        entry["limits"] = check(entry, () if name == SECOND_RATER else limits)
        entry["passed"] = (
            bool(entry["limits"]) and bool(own) and all(one["passed"] for one in entry["limits"])
        )
        result["models"][name] = entry
    for other in models[1:]:
        result["comparisons"] += _compare(scored, models[0], other, None)
    for full, part in without_t1(models, roles or {}):
        result["without_t1"] += _compare(scored, full, part, None)
    for scanner, model in (left_out or {}).items():
        result["left_out"] += _compare(scored, models[0], model, scanner)
    return result


def _compare(
    scored: Mapping[str, Answers], first: str, second: str, scanner: str | None
) -> list[dict[str, Any]]:
    one = {a["case"]: a for a in scored[first] if scanner in (None, a["scanner"])}
    two = {a["case"]: a for a in scored[second]}
    names = sorted(set(one) & set(two))
    return [
        {
            "scanner": scanner,
            "first": first,
            "second": second,
            "metric": metric,
            **asdict(
                compare_paired(
                    _column([one[n] for n in names], metric),
                    _column([two[n] for n in names], metric),
                )
            ),
        }
        for metric in COMPARED
    ]


def finite(value: Any) -> Any:
    """Plain values with None for nan, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_cases(answers: Answers, path: Path) -> None:
    """One line for each case and model."""
    columns = sorted({key for answer in answers for key in answer["scores"]})
    alone = sorted({key for answer in answers for key in answer["shown"]})
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        head = ["case", "model", *ATTRIBUTES, "failure", "remark"]
        writer.writerow([*head, *columns, *(f"shown_{key}" for key in alone)])
        for answer in answers:
            values = [_number(answer["scores"].get(key)) for key in columns]
            values += [_number(answer["shown"].get(key)) for key in alone]
            writer.writerow(
                [
                    answer["case"],
                    answer["model"],
                    *(answer[attribute] for attribute in ATTRIBUTES),
                    answer["failure"],
                    answer["remark"],
                    *("" if math.isnan(value) else f"{value:.6g}" for value in values),
                ]
            )

"""From the trials' scores to the numbers of docs/evaluation.md and of the noise floor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

Scores = Sequence[Mapping[str, Any]]
DIAMETERS = ((2.9, 3.5), (3.5, 4.5), (4.5, 5.5), (5.5, 6.5), (6.5, 7.5), (7.5, 9.0), (9.0, 11.0),
             (11.0, 13.0))  # fmt: skip
"""Classes of the planted lesions' diameters in mm: one for each that is planted."""
COUNTED_MM = 4.9
"""The target counts lesions from 5 mm on; a hundredth is lost in the sampling."""
CONTRASTS = ((0.0, 0.4), (0.4, 0.5), (0.5, 2.0))
"""Classes of contrast: FLAIR over white matter, minus 1."""
FALSE_CALLS = ("new", "enlarging", "shrinking", "resolved", "merged", "split")


def read_scores(work: Path) -> list[dict[str, Any]]:
    """Every trial's scores in a work folder, by name."""
    return [json.loads(p.read_text()) for p in sorted((work / "scores").glob("*.json"))]


def share(hits: int, among: int) -> dict[str, Any]:
    """A proportion with its 95 % interval (Wilson)."""
    if not among:
        return {"hits": 0, "among": 0, "share": None, "interval": None}
    interval = binomtest(hits, among).proportion_ci(method="wilson")
    return {
        "hits": hits,
        "among": among,
        "share": round(hits / among, 3),
        "interval": [round(float(interval.low), 3), round(float(interval.high), 3)],
    }


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Number, mean, standard deviation, median and extremes."""
    array = np.array(list(values), dtype=float)
    if not array.size:
        return {"n": 0}
    return {
        "n": int(array.size),
        "mean": round(float(array.mean()), 3),
        "sd": round(float(array.std(ddof=1)), 3) if array.size > 1 else 0.0,
        "median": round(float(np.median(array)), 3),
        "least": round(float(array.min()), 3),
        "most": round(float(array.max()), 3),
    }


def calls(rows: Scores) -> dict[str, int]:
    """How often each change was called, the most frequent first."""
    found: dict[str, int] = {}
    for row in rows:
        found[row["call"]] = found.get(row["call"], 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def detection(rows: Scores, call: str) -> dict[str, Any]:
    """How many planted lesions were outlined, and called what they are."""
    return {
        "called": share(sum(r["call"] == call for r in rows), len(rows)),
        "outlined": share(sum(r["found"] for r in rows), len(rows)),
        "calls": calls(rows),
    }


def _classes(
    rows: Scores, key: str, limits: Sequence[tuple[float, float]], call: str
) -> list[dict[str, Any]]:
    return [
        {"from": low, "to": high, **detection([r for r in rows if low <= r[key] < high], call)}
        for low, high in limits
    ]


def _retest(trials: Scores) -> dict[str, Any]:
    def false(call: str, some: Scores = trials) -> list[int]:
        return [t["counts"].get(call, 0) for t in some]

    load = [
        100 * (t["lesion_ml"] / t["prior_lesion_ml"] - 1) for t in trials if t["prior_lesion_ml"]
    ]
    return {
        "trials": len(trials),
        "false": {
            call: {**spread(false(call)), "by_trial": sorted(false(call))} for call in FALSE_CALLS
        },
        "trials_with_at_most_one_new": sum(n <= 1 for n in false("new")),
        "load_change_percent": spread(load),
        "registration_mean_mm": spread(t["registration_error_mm"]["mean"] for t in trials),
        "registration_max_mm": spread(t["registration_error_mm"]["max"] for t in trials),
        "by_scan": _by_scan(trials, lambda some: {call: false(call, some) for call in FALSE_CALLS}),
        "lesions": spread(sum(t["counts"].values()) for t in trials),
    }


def _by_scan(trials: Scores, of: Callable[[Scores], Any]) -> dict[str, Any]:
    names = sorted({t["scan"] for t in trials})
    return {name: of([t for t in trials if t["scan"] == name]) for name in names}


def _planted(trials: Scores) -> dict[str, Any]:
    rows = [row for t in trials for row in t["planted"]]
    new = [r for r in rows if r["kind"] == "new"]
    counted = [r for r in new if r["diameter_mm"] >= COUNTED_MM]
    grown = [r for r in rows if r["kind"] == "enlarging"]
    constant = [r for r in rows if r["kind"] == "stable"]
    false_new = [
        sum(u["call"] == "new" and not u.get("real", False) for u in t["unplanted"]) for t in trials
    ]
    outlined = [r for r in new if r["call"] == "new"]
    grown_found = [r for r in grown if r["found"] and r.get("found_prior_mm3")]
    return {
        "trials": len(trials),
        "new": detection(new, "new"),
        "new_from_5_mm": detection(counted, "new"),
        "new_by_diameter": _classes(new, "diameter_mm", DIAMETERS, "new"),
        "new_from_5_mm_by_contrast": _classes(counted, "contrast", CONTRASTS, "new"),
        "new_from_5_mm_by_scan": _by_scan(
            trials,
            lambda some: detection(
                [
                    r
                    for t in some
                    for r in t["planted"]
                    if r["kind"] == "new" and r["diameter_mm"] >= COUNTED_MM
                ],
                "new",
            ),
        ),
        "false_new": {**spread(false_new), "by_trial": sorted(false_new)},
        "false_new_by_scan": _by_scan(
            trials,
            lambda some: [
                sum(u["call"] == "new" and not u.get("real", False) for u in t["unplanted"])
                for t in some
            ],
        ),
        "other_unplanted": calls([u for t in trials for u in t["unplanted"] if u["call"] != "new"]),
        "new_volume_error_percent": spread(
            100 * (r["found_mm3"] / r["volume_mm3"] - 1) for r in outlined
        ),
        "new_volume_error_mm3": spread(r["found_mm3"] - r["volume_mm3"] for r in outlined),
        "new_volume_in_interval": share(
            sum(
                r["interval_mm3"][0] <= r["volume_mm3"] <= r["interval_mm3"][1]
                for r in outlined
                if r.get("interval_mm3")
            ),
            sum(bool(r.get("interval_mm3")) for r in outlined),
        ),
        "enlarging": detection(grown, "enlarging"),
        "enlarging_by_ratio": [
            {
                "ratio": ratio,
                **detection(
                    [
                        r
                        for r in grown
                        if abs(r["volume_mm3"] / r["prior_volume_mm3"] - ratio) < 0.1
                    ],
                    "enlarging",
                ),
            }
            for ratio in sorted({round(r["volume_mm3"] / r["prior_volume_mm3"], 1) for r in grown})
        ],
        "growth_error_percent_of_growth": spread(
            100
            * (
                (r["found_mm3"] - r["found_prior_mm3"]) / (r["volume_mm3"] - r["prior_volume_mm3"])
                - 1
            )
            for r in grown_found
        ),
        "growth_error_mm3": spread(
            (r["found_mm3"] - r["found_prior_mm3"]) - (r["volume_mm3"] - r["prior_volume_mm3"])
            for r in grown_found
        ),
        "constant": detection(constant, "stable"),
    }


def _real(trial: Mapping[str, Any]) -> dict[str, Any]:
    marked = trial["marked"]
    marks, lesions = marked["marks"], marked["changed_lesions"]

    def found(least: float) -> dict[str, Any]:
        some = [m for m in marks if m["volume_mm3"] >= least]
        return share(sum(m["found"] for m in some), len(some))

    return {
        "sensitivity": found(0),
        "sensitivity_from_30_mm3": found(30),
        "sensitivity_from_65_mm3": found(65),
        "precision": share(sum(x["right"] for x in lesions), len(lesions)),
        "precision_of_new": share(
            sum(x["right"] for x in lesions if x["call"] == "new"),
            sum(x["call"] == "new" for x in lesions),
        ),
        "marked_ml": marked["marked_ml"],
        "found_change_ml": marked["found_change_ml"],
        "calls": calls(lesions),
        "lesion_ml": trial["lesion_ml"],
        "prior_lesion_ml": trial["prior_lesion_ml"],
    }


def summarise(scores: Scores) -> dict[str, Any]:
    """Everything that docs/evaluation.md shows, from the scores of all trials.

    Raises
    ------
    ValueError
        If the trials were not all scored with one comparator and the same networks.
    """
    for part in ("comparator", "networks"):
        found = sorted({str(s.get(part)) for s in scores})
        if len(found) > 1:
            raise ValueError(f"scored with several {part} ({', '.join(found)}): run again")

    def of(kind: str) -> list[Mapping[str, Any]]:
        return [s for s in scores if s["kind"] == kind]

    models = {(s["model"]["name"], s["model"]["version"], s["model"]["sha256"]) for s in scores}
    return {
        "comparator": scores[0]["comparator"] if scores else None,
        "models": [
            dict(zip(("name", "version", "sha256"), m, strict=True)) for m in sorted(models)
        ],
        "retest": _retest(of("retest")),
        "transplant": _planted(of("transplant")),
        "real_transplant": _planted(of("realtransplant")),
        "real": {s["scan"]: _real(s) for s in of("real")},
        "compare_cpu_s": spread(s["compare_cpu_s"] for s in scores),
    }


def noise_floor(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the report quotes (``operators/dicom_writer/noise_floor.json``)."""
    retest = summary["retest"]
    return {
        "trials": retest["trials"],
        "false_new_mean": round(retest["false"]["new"]["mean"], 2),
        "false_new_max": int(retest["false"]["new"]["most"]),
        "load_change_sd_percent": round(retest["load_change_percent"]["sd"], 1),
    }

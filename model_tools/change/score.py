"""A follow-up against the truth of what was planted, or against a change mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from operators.messages import FollowUp, Lesion

TENTH = 0.1
"""Of a planted lesion that an outline must cover to have found it (weighted by partial volume), and
of an outline that must lie in planted lesions to count as theirs."""
CHANGED = ("new", "enlarging", "shrinking", "resolved", "merged", "split")
Box = tuple[slice, slice, slice]


def planted_outcomes(
    result: FollowUp,
    truth: Sequence[Mapping[str, Any]],
    shares: Mapping[int, tuple[Box, NDArray[np.float32]]],
) -> list[dict[str, Any]]:
    """What became of each planted lesion.

    Parameters
    ----------
    result
        The application's answer.
    truth
        Number, kind, volumes and so on of each planted lesion.
    shares
        By number: a box of the current FLAIR's voxels and how much of each the lesion fills.

    Returns
    -------
    list of dict
        The truth with ``found`` (an outline covers a tenth of it now), ``call`` (the change of the
        outline that covers the most; "missed" without one), ``found_mm3``, ``found_prior_mm3``,
        ``probability`` (the network's largest where it fills a half, or the most), and the call's
        confidence.
    """
    labels = np.asarray(result.labels.array)
    probability = np.asarray(result.probabilities.current.probability.array)
    by_number = {one.segment_number: one for one in result.lesions if one.segment_number}
    rows = []
    for lesion in truth:
        box, share = shares[int(lesion["number"])]
        inside, total = labels[box], float(share.sum())
        weight = {int(k): float(share[inside == k].sum()) / total for k in np.unique(inside) if k}
        covered = sum(weight.values())
        core = share >= min(0.5, float(share.max()))
        row: dict[str, Any] = {
            **lesion,
            "found": bool(covered >= TENTH),
            "covered": round(covered, 3),
            "probability": round(float(probability[box][core].max()), 3),
            "call": "missed",
        }
        if covered >= TENTH:
            best = by_number[max(weight, key=lambda k: weight[k])]
            row.update(_described(best))
            row["call"] = best.change
        rows.append(row)
    return rows


def unplanted_changes(
    result: FollowUp,
    shares: Mapping[int, tuple[Box, NDArray[np.float32]]],
    real_change: NDArray[np.bool_] | None = None,
) -> list[dict[str, Any]]:
    """Lesions called changed where nothing was planted.

    Parameters
    ----------
    result, shares
        As for `planted_outcomes`.
    real_change
        bool on the current FLAIR's grid: change that is really there. A lesion that touches it
        has ``real`` True.
    """
    planted = np.zeros(result.labels.spatial_shape, np.float32)
    for box, share in shares.values():
        planted[box] = np.maximum(planted[box], share)
    rows = []
    for index, lesion in enumerate(result.lesions):
        if lesion.change not in CHANGED:
            continue
        region = _region(result, index, lesion)
        if not region.any():
            continue
        if float(planted[region].mean()) >= TENTH:
            continue
        row = {"call": lesion.change, **_described(lesion)}
        if real_change is not None:
            row["real"] = bool((region & real_change).any())
        rows.append(row)
    return rows


def against_change_mask(
    result: FollowUp, real_change: NDArray[np.bool_], least_mm3: float
) -> dict[str, Any]:
    """Changed lesions against an unsigned mask of changed voxels, lesion by lesion.

    A marked change (26-connected, at least ``least_mm3``) is found if the lesions called changed
    cover a tenth of it; a lesion called changed is right if it covers a tenth of a mark or a tenth
    of it is marked.

    Parameters
    ----------
    result
        The application's answer.
    real_change
        bool on the current FLAIR's grid.
    least_mm3
        Smaller marks are left out of the sensitivity.
    """
    voxel = float(np.prod(result.labels.spacing))
    marks = cc3d.connected_components(real_change.astype(np.uint8), connectivity=26)
    sizes = np.bincount(marks.ravel())
    changed = np.zeros(real_change.shape, dtype=bool)
    lesions = []
    difference = 0.0
    for index, lesion in enumerate(result.lesions):
        if lesion.change not in CHANGED:
            continue
        region = _region(result, index, lesion)
        changed |= region
        hit = np.bincount(marks[region], minlength=len(sizes)).astype(float)
        hit[0] = 0
        right = bool(
            (hit >= TENTH * np.maximum(sizes, 1)).any() or hit.sum() >= TENTH * max(region.sum(), 1)
        )
        right = right and bool(hit.sum() > 0)
        difference += abs(lesion.volume_ml - (lesion.prior_volume_ml or 0.0))
        lesions.append({"call": lesion.change, "right": right, **_described(lesion)})
    covered = np.bincount(marks[changed], minlength=len(sizes))
    rows = [
        {
            "volume_mm3": round(float(sizes[k]) * voxel, 1),
            "found": bool(covered[k] >= TENTH * sizes[k]),
        }
        for k in range(1, len(sizes))
        if sizes[k] * voxel >= least_mm3
    ]
    return {
        "marks": rows,
        "changed_lesions": lesions,
        "marked_ml": round(float(sizes[1:].sum()) * voxel / 1000, 4),
        "found_change_ml": round(difference, 4),
    }


def counts(result: FollowUp) -> dict[str, int]:
    """Number of lesions by change."""
    found: dict[str, int] = {}
    for lesion in result.lesions:
        found[lesion.change] = found.get(lesion.change, 0) + 1
    return found


def _region(result: FollowUp, index: int, lesion: Lesion) -> NDArray[np.bool_]:
    """Where a lesion lies now or lay before, on the current FLAIR's grid."""
    region = np.zeros(result.labels.spatial_shape, dtype=bool)
    if lesion.segment_number is not None:
        region |= np.asarray(result.labels.array) == lesion.segment_number
    if result.prior_labels is not None:
        region |= np.asarray(result.prior_labels.array) == index + 1
    return region


def _described(lesion: Lesion) -> dict[str, Any]:
    now, before = lesion.volume_interval_ml, lesion.prior_volume_interval_ml
    return {
        "found_mm3": round(1000 * lesion.volume_ml, 1),
        "found_prior_mm3": None
        if lesion.prior_volume_ml is None
        else round(1000 * lesion.prior_volume_ml, 1),
        "confidence": round(lesion.confidence, 3),
        "change_confidence": None
        if lesion.change_confidence is None
        else round(lesion.change_confidence, 3),
        "interval_mm3": None if now is None else [round(1000 * v, 1) for v in now],
        "prior_interval_mm3": None if before is None else [round(1000 * v, 1) for v in before],
        "centroid_lps_mm": [round(v, 1) for v in lesion.centroid_lps_mm],
        "region": lesion.region,
    }

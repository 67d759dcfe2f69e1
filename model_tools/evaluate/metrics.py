"""Agreement of an outlined mask with a reference: voxel, lesion, volume and surface.

The one definition of a lesion and of a found lesion in this project: lesions are 26-connected
components of at least 3 mm³; a reference lesion is found, and an outlined one true, if at least a
tenth of its volume (and one voxel) lies in the other mask. Precision, recall and F1 per lesion are
those of Commowick et al., Sci Rep 8:13650 (2018), with this overlap rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cc3d
import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from numpy.typing import NDArray

MINIMUM_MM3 = 3.0
OVERLAP = 0.1
SIZES_MM3 = (3.0, 30.0, 100.0, 500.0, float("inf"))
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
CURVE_METRICS = ("dice", "precision", "recall", "f1")
METRICS = (
    "dice",
    "precision",
    "recall",
    "f1",
    "false_positives",
    "volume_difference_ml",
    "volume_difference_percent",
    "surface_mm",
    "hausdorff95_mm",
)
"""Of a case; what the tables show and a site can limit."""


@dataclass(frozen=True)
class Lesions:
    """The lesions of one mask.

    Attributes
    ----------
    volumes_mm3
        (n,) volume of each.
    hit
        (n,) whether the other mask has it.
    labels
        (n,) its value in ``array``.
    array
        Label image, 0 for none; components that are too small keep their label.
    """

    volumes_mm3: NDArray[np.float64]
    hit: NDArray[np.bool_]
    labels: NDArray[np.int64]
    array: NDArray[np.uint32]


def lesions_of(
    mask: NDArray[np.bool_], other: NDArray[np.bool_], voxel_mm3: float = 1.0
) -> Lesions:
    """The lesions of a mask and which of them another mask has.

    Parameters
    ----------
    mask, other
        Same shape, any three axes.
    voxel_mm3
        Volume of a voxel.
    """
    array = np.asarray(
        cc3d.connected_components(mask.astype(np.uint8), connectivity=26), dtype=np.uint32
    )
    counts = np.bincount(array.ravel())
    overlap = np.bincount(array.ravel(), weights=other.ravel().astype(float), minlength=len(counts))
    labels = np.flatnonzero(counts * voxel_mm3 >= MINIMUM_MM3)
    labels = labels[labels > 0]
    hit = (overlap[labels] >= 1) & (overlap[labels] >= OVERLAP * counts[labels])
    volumes = np.asarray(counts[labels] * voxel_mm3, dtype=np.float64)
    return Lesions(volumes, hit, labels, array)


def size_name(low: float, high: float) -> str:
    """Name of a size class, as ``3-30`` or ``500-``."""
    return f"{low:g}-{'' if np.isinf(high) else f'{high:g}'}"


def lesion_scores(reference: Lesions, outlined: Lesions) -> dict[str, float]:
    """Lesion-wise precision, recall, F1 and recall by size.

    Returns
    -------
    dict
        ``precision``, ``recall``, ``f1``, ``false_positives``, ``lesions`` and, for each size
        class, ``count_LOW-HIGH`` and ``recall_LOW-HIGH`` (nan without lesions).
    """
    recall = float(reference.hit.mean()) if len(reference.hit) else 1.0
    precision = float(outlined.hit.mean()) if len(outlined.hit) else 1.0
    result = {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
        "false_positives": float((~outlined.hit).sum()),
        "lesions": float(len(reference.hit)),
    }
    for low, high in pairwise(SIZES_MM3):
        chosen = (reference.volumes_mm3 >= low) & (reference.volumes_mm3 < high)
        name = size_name(low, high)
        result[f"count_{name}"] = float(chosen.sum())
        result[f"recall_{name}"] = (
            float(reference.hit[chosen].mean()) if chosen.any() else float("nan")
        )
    return result


def surface_scores(
    reference: NDArray[np.bool_], outlined: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Mean symmetric surface distance and its 95th percentile (MONAI's implementation).

    Parameters
    ----------
    reference, outlined
        Masks.
    spacing_mm
        Along each axis.

    Returns
    -------
    dict
        ``surface_mm`` and ``hausdorff95_mm``; nan where a mask is empty.
    """
    if not (reference.any() and outlined.any()):
        return {"surface_mm": float("nan"), "hausdorff95_mm": float("nan")}
    hits = np.argwhere(reference | outlined)
    box = tuple(
        slice(max(0, low - 1), high + 2) for low, high in zip(hits.min(0), hits.max(0), strict=True)
    )
    pair = [
        torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None].float()
        for mask in (outlined, reference)
    ]
    mean = compute_average_surface_distance(
        *pair, include_background=True, symmetric=True, spacing=list(spacing_mm)
    )
    far = compute_hausdorff_distance(
        *pair, include_background=True, percentile=95, spacing=list(spacing_mm)
    )
    return {"surface_mm": float(mean), "hausdorff95_mm": float(far)}


def _overlap_scores(
    reference: NDArray[np.bool_], outlined: NDArray[np.bool_], voxel_mm3: float
) -> dict[str, float]:
    """``dice`` and those of `lesion_scores`."""
    total = reference.sum() + outlined.sum()
    return {
        "dice": float(2 * (reference & outlined).sum() / total) if total else 1.0,
        **lesion_scores(
            lesions_of(reference, outlined, voxel_mm3), lesions_of(outlined, reference, voxel_mm3)
        ),
    }


def threshold_scores(
    reference: NDArray[np.bool_],
    probability: NDArray[np.float32],
    voxel_mm3: float,
    valid: NDArray[np.bool_],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, dict[str, float]]:
    """What other thresholds would have given.

    Parameters
    ----------
    reference
        bool mask.
    probability
        On the same grid.
    voxel_mm3
        Volume of a voxel.
    valid
        Where to look.
    thresholds
        A voxel above one is outlined.

    Returns
    -------
    dict
        By threshold `CURVE_METRICS`, with the definitions of `scores`.
    """
    reference = reference & valid
    result = {}
    for threshold in thresholds:
        found = _overlap_scores(reference, (probability > threshold) & valid, voxel_mm3)
        result[f"{threshold:g}"] = {name: found[name] for name in CURVE_METRICS}
    return result


def scores(
    reference: NDArray[np.bool_],
    outlined: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    valid: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Every metric of one case.

    Parameters
    ----------
    reference, outlined
        bool masks on the same grid.
    spacing_mm
        Along each axis.
    valid
        Where to look; voxels outside count nowhere.

    Returns
    -------
    dict
        ``dice``, ``reference_ml``, ``outlined_ml``, ``volume_difference_ml``,
        ``volume_difference_percent`` (nan for an empty reference), those of `lesion_scores` and
        `surface_scores`.
    """
    if valid is not None:
        reference, outlined = reference & valid, outlined & valid
    voxel = float(np.prod(spacing_mm))
    true_ml, found_ml = reference.sum() * voxel / 1000, outlined.sum() * voxel / 1000
    return {
        "reference_ml": float(true_ml),
        "outlined_ml": float(found_ml),
        "volume_difference_ml": float(found_ml - true_ml),
        "volume_difference_percent": (
            float(100 * (found_ml - true_ml) / true_ml) if true_ml else float("nan")
        ),
        **_overlap_scores(reference, outlined, voxel),
        **surface_scores(reference, outlined, spacing_mm),
    }

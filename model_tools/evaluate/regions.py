"""Where lesions lie, with the application's own regions, and how well each region is outlined."""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray

from model_tools.evaluate.examination import Examination
from model_tools.evaluate.metrics import Lesions
from operators.longitudinal_comparator.atlas import load_atlas
from operators.longitudinal_comparator.patient_anatomy import PatientAnatomy, find_anatomy
from operators.longitudinal_comparator.regions import body_points, place_of
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import Region

REGIONS: tuple[Region, ...] = get_args(Region)


def anatomy_of(examination: Examination, lesions: NDArray[np.bool_]) -> PatientAnatomy:
    """The patient's ventricles and cortex, as the application finds them.

    Parameters
    ----------
    examination
        The case.
    lesions
        bool on the FLAIR's grid: where not to look for healthy tissue.
    """
    flair = examination.study.selected.series["flair"].volume
    return find_anatomy(examination.study, flair.with_array(lesions), load_atlas())


def regions_of(
    lesions: Lesions,
    affine: NDArray[np.float64],
    anatomy: PatientAnatomy,
    settings: LongitudinalComparatorSettings,
) -> list[Region]:
    """The region of each lesion, in the order of ``lesions.labels``.

    Parameters
    ----------
    lesions
        As `model_tools.evaluate.metrics.lesions_of` finds them.
    affine
        4×4, voxels to LPS millimetres.
    anatomy, settings
        See `operators.longitudinal_comparator.regions`.
    """
    order = np.argsort(lesions.array, axis=None, kind="stable")
    values = lesions.array.ravel()[order]
    found: list[Region] = []
    for label in lesions.labels:
        first, last = np.searchsorted(values, [label, label + 1])
        indices = np.stack(np.unravel_index(order[first:last], lesions.array.shape), axis=-1)
        points = indices @ affine[:3, :3].T + affine[:3, 3]
        found.append(place_of(body_points(points, affine), anatomy, settings).region)
    return found


def region_counts(lesions: Lesions, regions: list[Region]) -> dict[str, float]:
    """``count_REGION`` and ``ml_REGION`` of the lesions of one mask."""
    result = {}
    for region in REGIONS:
        chosen = np.array([one == region for one in regions], dtype=bool)
        result[f"count_{region}"] = float(chosen.sum())
        result[f"ml_{region}"] = float(lesions.volumes_mm3[chosen].sum() / 1000)
    return result


def region_scores(
    reference: Lesions,
    reference_regions: list[Region],
    outlined: Lesions,
    outlined_regions: list[Region],
) -> dict[str, float]:
    """Recall, precision and volume by region.

    A reference lesion counts for recall where it lies, an outlined one for precision where it
    lies; an outline that joins two regions counts where the joined lesion lies.

    Returns
    -------
    dict
        For each region ``count_``, ``recall_``, ``outlined_count_``, ``precision_``,
        ``reference_ml_`` and ``outlined_ml_`` followed by its name; recall and precision are nan
        where there is nothing to count.
    """
    result = {}
    for region in REGIONS:
        for name, share, ml, lesions, regions in (
            ("count", "recall", "reference_ml", reference, reference_regions),
            ("outlined_count", "precision", "outlined_ml", outlined, outlined_regions),
        ):
            chosen = np.array([one == region for one in regions], dtype=bool)
            result[f"{name}_{region}"] = float(chosen.sum())
            result[f"{share}_{region}"] = (
                float(lesions.hit[chosen].mean()) if chosen.any() else float("nan")
            )
            result[f"{ml}_{region}"] = float(lesions.volumes_mm3[chosen].sum() / 1000)
    return result

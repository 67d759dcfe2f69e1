"""Where in the brain a lesion lies, by the patient's own ventricles and cortex.

The regions are those of the McDonald criteria (Thompson et al., Lancet Neurol 17:162, 2018, and the
MAGNIMS recommendations, Filippi et al., Lancet Neurol 15:292, 2016), asked in this order:

1. **infratentorial**: at least half of the lesion lies in the brainstem or the cerebellum;
2. **periventricular**: it touches a lateral ventricle, with no white matter in between, or at least
   half of it lies in the corpus callosum; not if most of it lies in deep grey matter;
3. **juxtacortical**: it touches the cortex or lies in it;
4. **deep white matter**: everything else, the rare lesions of deep grey matter included.

Touching means that the gap between the outer faces of the lesion's voxels and the ventricle or the
cortex is at most ``periventricular_mm`` or ``juxtacortical_mm``: by default 1.5 mm, about one voxel
of what a scanner resolves and the error of the tissue borders. A lesion touches the cortex only if
``juxtacortical_share`` of it is that near, because the cortex is everywhere and its border noisy.

Infratentorial parts, corpus callosum and deep grey matter come from the atlas; ventricles and
cortex from the patient's images (see ``patient_anatomy``). Where those do not show them, the atlas
stands in, with ``atlas_error_mm`` added to the limit of the ventricles, and no distance is stated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.atlas import Label, load_atlas
from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.patient_anatomy import (
    STEP_MM,
    PatientAnatomy,
    find_anatomy,
)
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import AlignedStudy, Region

_OUTSIDE_MM = 1000.0
_DEEP_GREY_SHARE = 0.7


@dataclass(frozen=True)
class Place:
    """Where one lesion lies.

    Attributes
    ----------
    region
        One of the McDonald regions; ``unspecified`` if less than half of it lies on the atlas.
    distance_to_ventricle_mm, distance_to_cortex_mm
        From the lesion's nearest edge to the patient's own lateral ventricles and cortex; 0 for
        contact; None where the images do not show them.
    """

    region: Region
    distance_to_ventricle_mm: float | None = None
    distance_to_cortex_mm: float | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Lesions of another study, to be located in this one.

    Attributes
    ----------
    lesions
        In the other study.
    study
        The other study.
    matrix_lps
        float64 (4, 4): points of this study's FLAIR to points of the other one's.
    """

    lesions: Sequence[LesionObject]
    study: AlignedStudy
    matrix_lps: np.ndarray


def locate(
    lesions: Sequence[LesionObject],
    study: AlignedStudy,
    settings: LongitudinalComparatorSettings,
    elsewhere: Elsewhere | None = None,
) -> tuple[Place, ...]:
    """The place of each lesion, in the order of the lesions.

    Parameters
    ----------
    lesions
        All lesions of one study, their points in its FLAIR's patient space.
    study
        The study that they were found in.
    settings
        What counts as touching.
    elsewhere
        Further lesions, found in another study and resolved since; they come last.
    """
    if not lesions and (elsewhere is None or not elsewhere.lesions):
        return ()
    flair = study.selected.series["flair"].volume
    taken = np.zeros(flair.spatial_shape, dtype=bool)
    for lesion in lesions:
        taken[tuple(lesion.indices.T)] = True
    anatomy = find_anatomy(study, flair.with_array(taken), load_atlas())
    bodies = [body_points(lesion.points, flair.affine) for lesion in lesions]
    if elsewhere is not None:
        there = elsewhere.study.selected.series["flair"].volume.affine
        back = np.linalg.inv(np.asarray(elsewhere.matrix_lps, dtype=float))
        bodies += [
            transform_points(back, body_points(lesion.points, there))
            for lesion in elsewhere.lesions
        ]
    return tuple(place_of(body, anatomy, settings) for body in bodies)


def body_points(centres: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Points that fill the voxels of a lesion, at most ``STEP_MM`` apart; float (m, 3).

    Parameters
    ----------
    centres
        float (n, 3): centres of the voxels, LPS millimetres.
    affine
        float (4, 4): the voxels' grid.
    """
    axes = np.asarray(affine, dtype=float)[:3, :3]
    counts = np.maximum(np.ceil(np.linalg.norm(axes, axis=0) / STEP_MM - 1e-6).astype(int), 1)
    parts = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    offsets = np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 3) @ axes.T
    return np.asarray((centres[:, None] + offsets[None]).reshape(-1, 3))


def place_of(
    points: np.ndarray, anatomy: PatientAnatomy, settings: LongitudinalComparatorSettings
) -> Place:
    """The place of one lesion.

    Parameters
    ----------
    points
        float (n, 3): see ``body_points``, in the anatomy's patient space.
    anatomy
        The patient, or the atlas itself.
    settings
        What counts as touching.
    """
    inverse = np.linalg.inv(anatomy.labels.affine)
    index = transform_points(inverse, points).T
    labels = _at(anatomy.labels, index, order=0, outside=255).astype(int)
    known = labels != 255
    if known.mean() < 0.5:
        return Place("unspecified")
    labels, index = labels[known], index[:, known]
    to_ventricle = _gap(anatomy.ventricle_mm, index)
    to_cortex = _gap(anatomy.cortex_mm, index)
    ventricle_limit = settings.periventricular_mm
    cortex_limit = settings.juxtacortical_mm
    if anatomy.ventricles is None:
        ventricle_limit += settings.atlas_error_mm
    deep_grey = (labels == Label.DEEP_GREY_MATTER).mean() >= _DEEP_GREY_SHARE
    callosal = (labels == Label.CORPUS_CALLOSUM).mean() >= 0.5
    region: Region = "deep_white_matter"
    if (labels == Label.INFRATENTORIAL).mean() >= 0.5:
        region = "infratentorial"
    elif not deep_grey and (callosal or to_ventricle.min() <= ventricle_limit):
        region = "periventricular"
    elif (to_cortex <= cortex_limit).mean() >= settings.juxtacortical_share:
        region = "juxtacortical"
    return Place(
        region,
        None if anatomy.ventricles is None else _millimetres(to_ventricle),
        None if anatomy.cortex is None else _millimetres(to_cortex),
    )


def _at(volume: hd.Volume, index: np.ndarray, *, order: int, outside: float) -> np.ndarray:
    """Values at voxel indices (3, n)."""
    return np.asarray(
        ndimage.map_coordinates(
            volume.array, index, order=order, mode="constant", cval=outside, prefilter=False
        )
    )


def _gap(distance: hd.Volume, index: np.ndarray) -> np.ndarray:
    """From the surface around each point to the surface of what the distance is to.

    The distance runs from centre to centre, and half a step on either side is not a gap.
    """
    values = _at(distance, index, order=1, outside=_OUTSIDE_MM)
    return np.asarray(np.maximum(np.minimum(values, _OUTSIDE_MM) - STEP_MM, 0.0))


def _millimetres(gap: np.ndarray) -> float | None:
    nearest = float(gap.min())
    return None if nearest >= _OUTSIDE_MM - STEP_MM else round(nearest, 3)

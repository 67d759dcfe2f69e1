"""Two time points with lesions of known place and size, on different oblique grids."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np

from operators.longitudinal_comparator.follow_up import compare
from operators.longitudinal_comparator.regions import Place
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import (
    FollowUp,
    InstanceRef,
    LesionProbabilities,
    LesionProbability,
    ModelIdentity,
)
from tests.operators.lesion_segmentation.builders import (
    aligned_studies,
    aligned_study,
    empty_volume,
    points_of,
    rigid,
)

Ball = tuple[tuple[float, float, float], float]
"""Centre in the current study's LPS millimetres, radius in millimetres."""

SETTINGS = LongitudinalComparatorSettings()


def nowhere(lesions, study, settings, elsewhere=None):
    """In the place of ``regions.locate``: the same region for every lesion, and no anatomy."""
    more = elsewhere.lesions if elsewhere else ()
    return tuple(Place("deep_white_matter") for _ in (*lesions, *more))


MODEL = ModelIdentity("test", "1", "00", "none", "fp32")
CURRENT_GRID = empty_volume(
    (26, 90, 76), (2.6, 0.8, 1.1), (8, -5, 3), (3, -11, 20), ((0, 0, 1), (0, 1, 0), (1, 0, 0))
)
PRIOR_GRID = empty_volume(
    (80, 64, 30), (1.0, 1.3, 2.2), (-3, 4, -6), (8, -2, 31), frame_of_reference_uid="1.2.4"
)
MOTION = rigid((6, -4, 5), (6.0, 9.5, 12.0))
"""Current points to prior points."""


def probability(
    grid: hd.Volume,
    balls: Sequence[Ball],
    motion: np.ndarray | None = None,
    *,
    peak: float = 0.9,
    threshold: float = 0.5,
    error_mm: Sequence[float] = (0, 0, 0),
) -> LesionProbability:
    """Balls with a soft rim; half the peak lies on the radius where the peak is 1."""
    points = points_of(grid)
    values = np.zeros(grid.spatial_shape)
    for centre, radius in balls:
        where = np.asarray(centre, dtype=float)
        if motion is not None:
            where = motion[:3, :3] @ where + motion[:3, 3]
        distance = np.linalg.norm(points - where - np.asarray(error_mm), axis=-1)
        values = np.maximum(values, np.clip(radius - distance + threshold / peak, 0, 1) * peak)
    return LesionProbability(grid.with_array(values.astype(np.float32)), threshold, MODEL)


def flair_of(part: LesionProbability) -> hd.Volume:
    """A FLAIR in which lesions are as bright as their probability, with noise."""
    noise = np.random.default_rng(7).normal(0, 3, part.probability.spatial_shape)
    return part.probability.with_array(
        (100 + noise + 60 * part.probability.array).astype(np.float32)
    )


def follow(
    now: Sequence[Ball] | LesionProbability,
    before: Sequence[Ball] | LesionProbability | None = None,
    *,
    accepted: bool = True,
    settings: LongitudinalComparatorSettings = SETTINGS,
    prior_segmentations: tuple[InstanceRef, ...] = (),
    template_to_flair: np.ndarray | None = None,
    error_mm: Sequence[float] = (0, 0, 0),
    flair_now: hd.Volume | None = None,
    flair_before: hd.Volume | None = None,
    brain_now: np.ndarray | None = None,
    brain_before: np.ndarray | None = None,
) -> FollowUp:
    """Run the comparison; ``error_mm`` moves the prior's lesions against the registration.

    The brain is the whole image and the FLAIR as ``flair_of`` makes it, unless given.
    """
    if not isinstance(now, LesionProbability):
        now = probability(CURRENT_GRID, now)
    if before is not None and not isinstance(before, LesionProbability):
        before = probability(PRIOR_GRID, before, MOTION, error_mm=error_mm)
    back = np.linalg.inv(MOTION)
    template = np.eye(4) if template_to_flair is None else template_to_flair
    current = aligned_study(
        {"flair": flair_of(now) if flair_now is None else flair_now},
        _brain(now, brain_now),
        study_uid="1.2.826.1",
        template_to_flair=template,
    )
    prior = None
    if before is not None:
        prior = aligned_study(
            {"flair": flair_of(before) if flair_before is None else flair_before},
            _brain(before, brain_before),
            study_uid="1.2.826.2",
            template_to_flair=template @ back,
            interval_days=400,
        )
    aligned = aligned_studies(
        current, prior, MOTION, accepted=accepted, prior_segmentations=prior_segmentations
    )
    return compare(LesionProbabilities(aligned=aligned, current=now, prior=before), settings)


def _brain(part: LesionProbability, mask: np.ndarray | None) -> hd.Volume:
    whole = np.ones(part.probability.spatial_shape, dtype=bool)
    return part.probability.with_array(whole if mask is None else mask)


def prior_alone(before: Sequence[Ball]) -> FollowUp:
    """A baseline run of the prior study, as it was made at its own time."""
    part = probability(PRIOR_GRID, before, MOTION)
    study = aligned_study({"flair": flair_of(part)}, _brain(part, None), study_uid="1.2.826.2")
    return compare(
        LesionProbabilities(aligned=aligned_studies(study), current=part, prior=None), SETTINGS
    )


def ball_ml(radius: float) -> float:
    """Volume of a ball."""
    return 4 / 3 * np.pi * radius**3 / 1000

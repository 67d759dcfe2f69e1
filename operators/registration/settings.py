"""Settings of the registration stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from operators.settings import Settings

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RegistrationSettings(Settings):
    """How images are matched and when a match is refused.

    The limits of similarity lie between what right and wrong pairs of real studies reach
    (open_ms_data, patients 03, 04, 09, 12 and 20).
    """

    seed: int = 20160406
    """Seed of the metric's sampling; the same seed gives the same result to the last bit."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Images that are matched at the same time; None for as many as this process has processors.
    The result does not depend on it."""
    bins: Annotated[int, Field(ge=8, le=256)] = 32
    """Histogram bins of Mattes mutual information."""
    fine_spacing_mm: Positive = 1.5
    """Voxel size of the finest level; coarser axes are left alone."""
    samples: Annotated[int, Field(ge=2000)] = 150_000
    """Voxels at which the metric is evaluated at the finest level, at most."""
    affine: bool = True
    """Refine the rigid result to an affine one: scanners differ by up to 2 % in scale along an
    axis (gradient calibration, slice spacing), which is 1 mm at the brain's edge."""
    max_scale_change: Positive = 0.04
    """Bound of the stretch along an axis."""
    scale_deviation: Positive = 0.0025
    """Standard deviation of the stretch that is expected."""
    effective_samples: Positive = 1000.0
    """Independent samples that the mutual information over a brain counts for, against the
    expected stretch."""

    min_similarity_within_study: Annotated[float, Field(ge=1, le=2)] = 1.022
    """Least normalised mutual information over the brain, after local normalisation, of T1 or T2
    with FLAIR. Measured: right pairs 1.030 to 1.051, mirrored ones at most 1.016, another
    patient's at most 1.010."""
    min_similarity_between_studies: Annotated[float, Field(ge=1, le=2)] = 1.06
    """The same of the prior and the current FLAIR. Measured: same patient 1.11 to 1.18, another
    patient at most 1.020, the same patient mirrored at most 1.037."""
    max_translation_within_study_mm: Positive = 30.0
    max_rotation_within_study_deg: Positive = 20.0
    max_rotation_between_studies_deg: Positive = 45.0
    """Larger rotations are taken for a failure; translations between studies are unlimited, since
    each study has its own origin."""
    min_brain_overlap: Fraction = 0.85
    """Least Dice of the prior and the current brain mask after alignment."""

    min_brain_volume_ml: Positive = 700.0
    max_brain_volume_ml: Positive = 2200.0
    max_brain_cut: Fraction = 0.1
    """Larger parts of the brain outside the field of view are noted."""
    min_template_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.5
    """Least correlation of the FLAIR with the template's expected FLAIR contrast. Measured: brains
    0.84 to 0.97."""

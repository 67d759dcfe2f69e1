"""Settings of the comparison, from the section ``longitudinal_comparator`` of app.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from operators.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Millimetres = Annotated[float, Field(ge=0)]


class LongitudinalComparatorSettings(Settings):
    """What counts as a lesion, as the same lesion, as a change, and as a region."""

    minimum_volume_mm3: Annotated[float, Field(ge=0)] = 10.0
    """A lesion has at least this volume, …"""
    minimum_extent_mm: Millimetres = 3.0
    """… and its longest diameter is at least this. Both are measured on a lattice of 0.5 mm, so
    that the voxels of the acquisition do not decide what counts."""

    change_ratio: Annotated[float, Field(gt=0)] = 0.30
    """A lesion is enlarging from (1 + ratio) times its prior volume on, and shrinking from
    1 / (1 + ratio) times on, if the images show it: its signal (contrast summed over its volume)
    must have changed by half of this ratio at least, and its growth, from outlines and signal each
    weighted by how exactly it is known, must be larger than its interval."""
    minimum_evidence: Annotated[float, Field(ge=0)] = 3.0
    """A lesion that is new or resolved must show it in the two matched FLAIR images with at least
    this many standard deviations of the noise of their difference, …"""
    growth_evidence: Annotated[float, Field(ge=0)] = 2.0
    """… and one that has grown or shrunk, which its outlines must say too, with this many."""
    visible_contrast: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """A lesion is new only if, in the prior FLAIR, its place has less than this share of today's
    contrast against its surroundings; resolved likewise the other way round."""
    comparison_evidence: Annotated[float, Field(gt=0)] = 6.0
    """A lesion that the network did not outline counts if its place has changed in the matched
    FLAIR images by this many standard deviations of the noise of their difference, …"""
    suspected_evidence: Annotated[float, Field(gt=0)] = 4.5
    """… or by this many where the network finds it suspicious in the one study and not in the
    other: …"""
    suspicion: Share = 0.1
    """… at least this probability there, and in the other study at most ``visible_contrast`` of
    it."""
    faint_threshold: Share = 0.5
    """Where the images show at both time points a lesion that the network found at one only, it is
    outlined at the other one at this fraction of the threshold, or else with the same outline."""

    minimum_overlap: Share = 0.15
    """Two lesions are the same if at least this share of the smaller lies inside the other, …"""
    tolerance_mm: Millimetres = 1.5
    """… or if ``minimum_near`` of the smaller lies inside or at most this far from the other, so
    that a small error of the registration does not make one new and one resolved lesion."""
    minimum_near: Share = 0.5
    """See ``tolerance_mm``."""
    lineage_share: Share = 0.10
    """A lesion is merged or split only if at least two of its parts hold this share of their common
    volume; smaller crumbs leave it enlarging, stable or shrinking."""

    periventricular_mm: Millimetres = 1.5
    """A lesion touches a lateral ventricle, and is periventricular, if the gap between them is at
    most this wide."""
    juxtacortical_mm: Millimetres = 1.5
    """A lesion touches the cortex, and is juxtacortical, if ``juxtacortical_share`` of it comes
    this close to it or lies in it."""
    juxtacortical_share: Share = 0.20
    """See ``juxtacortical_mm``."""
    atlas_error_mm: Millimetres = 1.5
    """Added to ``periventricular_mm`` where the images do not show the patient's own ventricles and
    those of the atlas are used instead."""

"""Settings of the comparison, from the section ``longitudinal_comparator`` of app.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from operators.settings import Settings

Share = Annotated[float, Field(gt=0, le=1)]
Millimetres = Annotated[float, Field(ge=0)]


class LongitudinalComparatorSettings(Settings):
    """What counts as a lesion, as the same lesion, as a change, and as a region."""

    minimum_voxels: Annotated[int, Field(ge=1)] = 3
    """A lesion has at least this many voxels of the FLAIR."""
    minimum_extent_mm: Millimetres = 3.0
    """A lesion is at least this long, from outer face to outer face of its farthest voxels. (The
    diameter that is reported runs from voxel centre to voxel centre.)"""

    change_ratio: Annotated[float, Field(gt=0)] = 0.30
    """A lesion is enlarging from (1 + ratio) times its prior volume on, and shrinking from
    1 / (1 + ratio) times on."""
    minimum_change_ml: Annotated[float, Field(ge=0)] = 0.014
    """A smaller difference of volume is stable: by default that of a ball of 3 mm, the smallest
    lesion that counts."""
    minimum_signal_change: Annotated[float, Field(ge=0)] = 0.15
    """A lesion is enlarging or shrinking only if its signal (contrast summed over its volume) in
    the FLAIR images has changed by at least this ratio in the same direction; 0 asks for the
    direction only."""
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
    faint_threshold: Share = 0.5
    """A lesion found at one time point only is looked for at the other one with this fraction of
    the threshold, so that it is not new or resolved by noise alone; 1 turns this off."""
    visible_contrast: Annotated[float, Field(gt=0)] = 0.4
    """A lesion found at one time point only is neither new nor resolved if, in the other FLAIR
    image, it has at least this share of its contrast against its surroundings."""

    periventricular_mm: Millimetres = 3.0
    """A lesion is periventricular if it comes this close to a lateral ventricle of the atlas."""
    juxtacortical_mm: Millimetres = 2.0
    """A lesion is juxtacortical if ``juxtacortical_share`` of it comes this close to the cortex of
    the atlas."""
    juxtacortical_share: Share = 0.20
    """See ``juxtacortical_mm``."""

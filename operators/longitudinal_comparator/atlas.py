"""The atlas of the regions, derived from the ICBM 152 maps; see ``derive_atlas`` for how."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from importlib import resources

import highdicom as hd
import numpy as np

ATLAS_FILE = "atlas.npz"
PRIOR_STEP = 3
"""The priors hold every third voxel of the labels' grid."""


class Label(IntEnum):
    """What a voxel of the template is."""

    NOTHING = 0
    WHITE_MATTER = 1
    CORTEX = 2
    DEEP_GREY_MATTER = 3
    CORPUS_CALLOSUM = 4
    TEMPORAL_HORN = 5
    """Where the temporal horns of the lateral ventricles may lie, brain around them included."""
    LATERAL_VENTRICLE = 6
    INFRATENTORIAL = 7


@dataclass(frozen=True)
class Atlas:
    """Maps of the template.

    Attributes
    ----------
    labels
        uint8, see ``Label``; 1 mm, the template's points in LPS millimetres.
    grey, white
        float32 in [0, 1]: prior probabilities of the tissues; 3 mm. The rest is fluid.
    """

    labels: hd.Volume
    grey: hd.Volume
    white: hd.Volume


@cache
def load_atlas() -> Atlas:
    """Read the atlas that comes with the application, once a process."""
    file = resources.files(__package__).joinpath(ATLAS_FILE)
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
        affine, labels, priors = arrays["affine_lps"], arrays["labels"], arrays["priors"]
    coarse = affine.copy()
    coarse[:3, :3] *= PRIOR_STEP
    grey, white = (
        hd.Volume(
            part.astype(np.float32) / np.float32(255), affine=coarse, coordinate_system="PATIENT"
        )
        for part in priors
    )
    return Atlas(
        labels=hd.Volume(labels, affine=affine, coordinate_system="PATIENT"),
        grey=grey,
        white=white,
    )

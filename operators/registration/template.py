"""The ICBM 152 template that nilearn ships, as volumes in LPS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import highdicom as hd
import nibabel as nib
import numpy as np
from nilearn.datasets import (
    load_mni152_gm_template,
    load_mni152_template,
    load_mni152_wm_template,
)

_MASK_THRESHOLD = 0.2
"""nilearn's own threshold for its brain mask."""


@dataclass(frozen=True)
class Template:
    """ICBM 152 nonlinear symmetric 2009a, 1 mm (Fonov et al. 2011), in ICBM space, LPS."""

    flair: hd.Volume
    """float32, what a FLAIR of it would look like: grey matter 1, white matter 0.8, CSF 0."""
    t1: hd.Volume
    """float32 in [0, 1], skull-stripped T1."""
    mask: hd.Volume
    """bool, the brain."""


@cache
def load_template() -> Template:
    """Read the template from nilearn's package (no download), once per process."""
    t1 = _volume(load_mni152_template(resolution=1))
    grey = _volume(load_mni152_gm_template(resolution=1))
    white = _volume(load_mni152_wm_template(resolution=1))
    return Template(
        flair=t1.with_array(grey.array + np.float32(0.8) * white.array),
        t1=t1,
        mask=t1.with_array(t1.array > _MASK_THRESHOLD),
    )


def _volume(image: nib.Nifti1Image) -> hd.Volume:
    """A NIfTI image (RAS) as a volume in LPS."""
    return hd.Volume(
        np.ascontiguousarray(np.asarray(image.dataobj), dtype=np.float32),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine,
        coordinate_system="PATIENT",
    )

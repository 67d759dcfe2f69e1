"""Bright places of a FLAIR that are no lesions: what a network must learn to leave out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.train.resample import gaussian, noise_field

_MIDLINE = 98
"""Index along x of the atlas's middle plane."""
_BETWEEN_MM = 4
"""The lateral ventricles are at most twice this far apart where the septum lies between them."""


def midline_sheet(ventricles: NDArray[np.float32]) -> NDArray[np.float32]:
    """The thin sheet between the lateral ventricles, and the middle of the third and fourth.

    Parameters
    ----------
    ventricles
        (z, y, x) map of the atlas.

    Returns
    -------
    ndarray
        (z, y, x) float32, 1 within 1 mm of the middle plane.
    """
    across = np.ones((1, 1, 2 * _BETWEEN_MM + 1), dtype=bool)
    closed = ndimage.binary_closing(ventricles > 0.5, across)
    x = np.arange(ventricles.shape[2])
    return np.asarray(closed & (abs(x - _MIDLINE) <= 1), dtype=np.float32)


def bright_fluid(
    fluid: torch.Tensor, sheet: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """How much of each voxel of a FLAIR is brightened by a septum or by fluid that flows.

    A 3D FLAIR shows the septum pellucidum and moving fluid (third and fourth ventricle, cisterns)
    as bright as a lesion. T2 and T1 show fluid there, which is how a reader knows them.

    Parameters
    ----------
    fluid
        (z, y, x) share of fluid, 0 to 1.
    sheet
        (z, y, x) `midline_sheet` in this scan.
    rng
        Decides which of the two there are, if any.

    Returns
    -------
    torch.Tensor
        (z, y, x), 0 to 1.
    """
    result = torch.zeros_like(fluid)
    if rng.random() < 0.4:
        spread = gaussian(sheet[None], float(rng.uniform(0.5, 1.2)))[0]
        uneven = noise_field(rng, tuple(fluid.shape), 10.0, device=fluid.device)[0]
        along = (1 + 0.5 * uneven).clamp(0, 1.5)
        result = result + spread * along * float(rng.uniform(0.8, 1.8))
    if rng.random() < 0.4:
        scale_mm = float(rng.uniform(3, 9))
        spots = noise_field(rng, tuple(fluid.shape), scale_mm, device=fluid.device)[0]
        spots = (spots - float(rng.uniform(1.0, 1.8))).clamp(0, 1)
        near = gaussian(fluid[None], float(rng.uniform(0.4, 1.0)))[0]
        result = result + spots * near * float(rng.uniform(0.8, 2.0))
    return result.clamp(0, 1)

"""The classical comparator: lesion growth on FLAIR, without a network.

Seeds lie 3.5 robust standard deviations above grey matter inside a white-matter prior and grow to
1.5, after the idea of Schmidt et al., NeuroImage 59 (2012) 3774-3783, on a slightly smoothed image.
The numbers are the best of a grid on the real case, so its result there is optimistic. The priors
have to be registered to the patient, and the image has to be free of its bias field.
"""

from __future__ import annotations

import cc3d
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

SEED, GROW, SMALLEST = 3.5, 1.5, 5
SMOOTHING = 0.7


def without_bias(flair: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image divided by its bias field (N4; Tustison et al., IEEE TMI 29 (2010) 1310-1320).

    A rule on intensities needs it on raw scans, whose cortex is brighter near the coils.

    Parameters
    ----------
    flair
        Any three axes, 1 mm, positive in the brain.
    brain
        Where the field is estimated.
    """
    image = sitk.GetImageFromArray(flair)
    small = [4, 4, 4]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([30, 30, 20])
    n4.Execute(
        sitk.Shrink(image, small),
        sitk.Shrink(sitk.GetImageFromArray(brain.astype(np.uint8)), small),
    )
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    return np.asarray(flair / np.exp(field), dtype=np.float32)


def lesion_growth(
    flair: NDArray[np.float32],
    white: NDArray[np.float32],
    grey: NDArray[np.float32],
    seed: float = SEED,
    grow: float = GROW,
) -> NDArray[np.bool_]:
    """Segment hyperintensities.

    Parameters
    ----------
    flair
        (z, y, x), 0 outside the brain, any scale; 1 mm.
    white, grey
        Prior probabilities on the same grid (registered ICBM maps).
    seed, grow
        Robust SDs above the median of grey matter.

    Returns
    -------
    ndarray
        (z, y, x) bool.
    """
    brain = ndimage.binary_erosion(flair != 0, iterations=3)
    flair = ndimage.gaussian_filter(flair, SMOOTHING)
    sample = flair[brain & (grey > 0.8)]
    centre = float(np.median(sample))
    spread = 1.4826 * float(np.median(np.abs(sample - centre)))
    score = (flair - centre) / spread
    seeds = brain & (white > 0.5) & (score > seed)
    allowed = brain & (white > 0.25) & (score > grow)
    grown = ndimage.binary_propagation(seeds, mask=allowed & (score > grow))
    labels = cc3d.connected_components(grown.astype(np.uint8), connectivity=26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(sizes[labels] >= SMALLEST)

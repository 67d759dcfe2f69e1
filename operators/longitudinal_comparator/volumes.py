"""How exactly a lesion's volume is known.

Two answers of a network to the same lesion differ at its rim, where the probability is neither high
nor low: the softer the rim, the less the volume is known. The engine returns the mean of its
ensemble, whose probability is soft where the members disagree and where voxels are partly lesion,
so that one measure holds both. How far volumes then differ when nothing has changed was measured on
real scans compared with themselves (see ``docs/evaluation.md``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage

from operators.longitudinal_comparator.lesions import LesionObject

NORMAL_95 = 1.96
_RIM_SHARE = 0.75
"""Standard deviation of a small lesion's volume, as a share of its rim."""
_PATCH_ML = 0.2
"""Parts of this size of a large lesion err on their own, so that their errors cancel in part."""
_LEAST_RELATIVE = 0.04
_COMMON_SHARE = 0.2
"""Correlation of the errors of two lesions of one study: the threshold, the contrast and the blur
of the study move all outlines together."""


@dataclass(frozen=True)
class Measured:
    """A volume and how exactly it is known.

    Attributes
    ----------
    ml
        Volume in millilitres.
    deviation_ml
        Its standard deviation.
    """

    ml: float
    deviation_ml: float

    @property
    def relative(self) -> float:
        """Standard deviation of the volume's logarithm."""
        return self.deviation_ml / self.ml if self.ml > 0 else 0.0

    @property
    def interval_ml(self) -> tuple[float, float]:
        """95 % interval; of a volume of 0, from 0 to what could have been overlooked."""
        if self.ml <= 0:
            return 0.0, NORMAL_95 * self.deviation_ml
        factor = float(np.exp(NORMAL_95 * self.relative))
        return self.ml / factor, self.ml * factor

    def widened(self, factor: float) -> Measured:
        """The same volume with a larger standard deviation."""
        return Measured(self.ml, self.deviation_ml * factor)

    def part(self, share: float) -> Measured:
        """A share of the volume, as exactly known as the whole."""
        return Measured(self.ml * share, self.deviation_ml * share)


def measured(lesion: LesionObject, probability: hd.Volume) -> Measured:
    """A lesion's volume and its standard deviation.

    Parameters
    ----------
    lesion
        The lesion.
    probability
        float32 in [0, 1] on its grid.
    """
    volume = lesion.volume_ml
    deviation = _RIM_SHARE * rim_ml(lesion, probability) / np.sqrt(1 + volume / _PATCH_ML)
    deviation = max(float(deviation), _LEAST_RELATIVE * volume)
    return Measured(lesion.volume_ml, deviation)


def rim_ml(lesion: LesionObject, probability: hd.Volume) -> float:
    """The volume that is neither surely lesion nor surely not: the sum of ``p (1 - p)``.

    Summed over the lesion's voxels and their neighbours, in millilitres.
    """
    affine = np.asarray(probability.affine, dtype=float)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    low = np.maximum(lesion.indices.min(axis=0) - 1, 0)
    high = np.minimum(lesion.indices.max(axis=0) + 2, probability.spatial_shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    own = np.zeros(high - low, dtype=bool)
    own[tuple((lesion.indices - low).T)] = True
    near = ndimage.binary_dilation(own, np.ones((3, 3, 3), dtype=bool))
    p = probability.array[box][near].astype(np.float64)
    return float((p * (1 - p)).sum() * voxel_ml)


def total(parts: Iterable[Measured]) -> Measured:
    """The sum of the volumes of lesions of one study, whose errors are partly common."""
    parts = list(parts)
    deviations = np.asarray([one.deviation_ml for one in parts], dtype=float)
    independent = float((deviations**2).sum())
    common = float(deviations.sum()) ** 2
    variance = _COMMON_SHARE * common + (1 - _COMMON_SHARE) * independent
    return Measured(float(sum(one.ml for one in parts)), float(np.sqrt(variance)))

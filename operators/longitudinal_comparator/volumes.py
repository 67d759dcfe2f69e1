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
_DRAWN_SHARE = 0.1
"""Standard deviation of what the comparison has drawn and the network has not, as a share of it."""
_EDGE_MM, _MOST_OUTLINE = 0.35, 0.5
"""Standard deviation of the place of an outline against a lesion's true edge, measured with planted
lesions (see ``docs/evaluation.md``), and the most that this makes of a small lesion's volume."""
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
        Standard deviation from one answer to the next: what two studies of one lesion differ by.
    outline_ml
        Standard deviation of what all answers to a lesion have in common: where its edge is said
        to be. It is a part of the interval, but not of the comparison of two volumes.
    """

    ml: float
    deviation_ml: float
    outline_ml: float = 0.0

    @property
    def relative(self) -> float:
        """Standard deviation of the volume's logarithm from one answer to the next."""
        return self.deviation_ml / self.ml if self.ml > 0 else 0.0

    @property
    def interval_ml(self) -> tuple[float, float]:
        """95 % interval; of a volume of 0, from 0 to what could have been overlooked."""
        if self.ml <= 0:
            return 0.0, NORMAL_95 * self.deviation_ml
        relative = np.hypot(self.deviation_ml, self.outline_ml) / self.ml
        factor = float(np.exp(NORMAL_95 * relative))
        return self.ml / factor, self.ml * factor

    def widened(self, factor: float) -> Measured:
        """The same volume with a larger standard deviation."""
        return Measured(self.ml, self.deviation_ml * factor, self.outline_ml)

    def part(self, share: float) -> Measured:
        """A share of the volume, as exactly known as the whole."""
        return Measured(self.ml * share, self.deviation_ml * share, self.outline_ml * share)


def measured(lesion: LesionObject, probability: hd.Volume, threshold: float) -> Measured:
    """A lesion's volume and its standard deviation.

    Parameters
    ----------
    lesion
        The lesion.
    probability
        float32 in [0, 1] on its grid.
    threshold
        From which on the network calls a voxel lesion.
    """
    volume = lesion.volume_ml
    deviation = _RIM_SHARE * rim_ml(lesion, probability) / np.sqrt(1 + volume / _PATCH_ML)
    drawn = _DRAWN_SHARE * (1 - outlined_share(lesion, probability, threshold)) * volume
    deviation = max(float(np.hypot(deviation, drawn)), _LEAST_RELATIVE * volume)
    radius_mm = (750 * volume / np.pi) ** (1 / 3)
    outline = min(3 * _EDGE_MM / radius_mm, _MOST_OUTLINE) * volume
    return Measured(volume, deviation, float(outline))


def outlined_share(lesion: LesionObject, probability: hd.Volume, threshold: float) -> float:
    """Share of a lesion's voxels that the network itself calls lesion.

    Parameters
    ----------
    lesion, probability, threshold
        See ``measured``.
    """
    return float((probability.array[tuple(lesion.indices.T)] >= threshold).mean())


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
    return Measured(
        float(sum(one.ml for one in parts)),
        _combined([one.deviation_ml for one in parts]),
        _combined([one.outline_ml for one in parts]),
    )


def _combined(deviations: list[float]) -> float:
    values = np.asarray(deviations, dtype=float)
    independent, common = float((values**2).sum()), float(values.sum()) ** 2
    return float(np.sqrt(_COMMON_SHARE * common + (1 - _COMMON_SHARE) * independent))

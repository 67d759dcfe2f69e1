"""The class of a lesion's change, and how sure it is.

A class other than stable needs both: outlines that reach the limit, and images whose difference
says so beyond its noise. How exactly the growth is known, outlines and images tell together. The
confidence of a change is the probability that outlines and signals lie beyond the class's limit,
given normal errors; for stable, that they do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from operators.longitudinal_comparator.evidence import Evidence
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.volumes import NORMAL_95, Measured
from operators.messages import Change

UNKNOWN = 0.5
"""Confidence of a change that the images say nothing about."""
_EXACT = 1 - 1e-9
"""A value that is exactly the limit must not fail by rounding."""


@dataclass(frozen=True)
class Verdict:
    """A class of change and how sure it is, in [0, 1]."""

    change: Change
    confidence: float


def appeared(found: Evidence, settings: LongitudinalComparatorSettings) -> Verdict | None:
    """Whether a region that is lesion now was none before; None if it was, or if it is unsure.

    ``Evidence`` with its two images exchanged answers whether a lesion has gone.
    """
    if found.now <= 0 or found.z < settings.minimum_evidence * _EXACT:
        return None
    margin = settings.visible_contrast * found.now - found.before
    if margin < 0:
        return None
    return Verdict("new", confidence_of(margin, found.noise))


def confidence_of(margin: float, noise: float) -> float:
    """Probability that a quantity is beyond its limit, observed so far beyond it."""
    return float(norm.cdf(margin / noise))


def by_volume(now_ml: float, before_ml: float, change_ratio: float) -> Change:
    """Enlarging, shrinking or stable, by the same ratio in both directions.

    With a ratio of 0.3 (the rule of the source paper): enlarging from 1.3 times the volume on,
    shrinking from 1/1.3 of it on, so that exchanging the studies exchanges the two words.
    """
    limit = (1 + change_ratio) * _EXACT
    if now_ml >= limit * before_ml:
        return "enlarging"
    if before_ml >= limit * now_ml:
        return "shrinking"
    return "stable"


def grown(
    now: Measured,
    before: Measured,
    found: Evidence | None,
    settings: LongitudinalComparatorSettings,
) -> Verdict:
    """Enlarging, shrinking or stable.

    Parameters
    ----------
    now, before
        The volumes.
    found
        The wide signal of the lesion in both images; None where they give no answer: the volumes
        then decide alone.
    settings
        Limits.
    """
    growth = float(np.log(now.ml / before.ml))
    spread = max(float(np.hypot(now.relative, before.relative)), 1e-6)
    change = by_volume(now.ml, before.ml, settings.change_ratio)
    outlines = growth, spread
    if found is not None:
        growth, spread = _with_signal(growth, spread, found)
    chances = []
    for sign in (1, -1):
        limit = float(np.log(1 + settings.change_ratio))
        chance = confidence_of(sign * growth - limit, spread)
        chance = min(chance, confidence_of(sign * outlines[0] - limit, outlines[1]))
        if found is not None:
            chance = min(chance, _signal_chance(found if sign > 0 else found.exchanged, settings))
        chances.append(chance)
    larger, smaller = chances
    if abs(growth) <= NORMAL_95 * spread:
        change = "stable"
    if found is not None and change != "stable":
        seen = found if change == "enlarging" else found.exchanged
        half = 1 + settings.change_ratio / 2
        shown = seen.now >= half * max(seen.before, 0.0) and seen.now > 0
        if not shown or seen.z < settings.growth_evidence * _EXACT:
            change = "stable"
    if change == "enlarging":
        return Verdict(change, larger)
    if change == "shrinking":
        return Verdict(change, smaller)
    return Verdict("stable", 1 - max(larger, smaller))


def _with_signal(growth: float, spread: float, found: Evidence) -> tuple[float, float]:
    """The logarithm of a growth and its standard deviation, from the outlines and the images.

    A lesion's signal over one and the same region is its volume times its contrast, partial volume
    included, so that the ratio of the two signals is the ratio of the volumes if its contrast has
    stayed; the errors of the outlines do not enter. The two estimates are weighted by precision.
    """
    least = min(found.now, found.before)
    if least <= found.noise:
        # no ratio can be formed with nothing
        return growth, spread
    signal = float(np.log(found.now / found.before))
    deviation = found.noise * float(np.sqrt((found.now**-2 + found.before**-2) / 2))
    weight = spread**-2 / (spread**-2 + deviation**-2)
    return weight * growth + (1 - weight) * signal, float((spread**-2 + deviation**-2) ** -0.5)


def _signal_chance(found: Evidence, settings: LongitudinalComparatorSettings) -> float:
    half = 1 + settings.change_ratio / 2
    return confidence_of(found.now - half * max(found.before, 0.0), found.noise)

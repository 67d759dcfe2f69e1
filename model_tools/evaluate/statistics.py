"""Figures over cases: means with intervals, agreement of volumes, paired comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """A metric over cases; nan where it has no value in any case.

    Attributes
    ----------
    mean, deviation
        Mean and sample standard deviation of the cases that have a value.
    low, high
        95 % bootstrap interval of the mean (percentile method, cases drawn with replacement).
    cases
        How many have a value.
    """

    mean: float
    deviation: float
    low: float
    high: float
    cases: int


def bootstrap(
    values: Values, statistic: Callable[[Values], Values], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of the rows (Efron 1979); nan for under two rows.

    Parameters
    ----------
    values
        (n, …): a row for each case.
    statistic
        Maps all samples at once, (resamples, n, …), to their statistics, (resamples,).
    seed
        Of the samples.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    found = statistic(values[rng.integers(len(values), size=(RESAMPLES, len(values)))])
    if not np.isfinite(found).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def _mean(samples: Values) -> Values:
    return np.asarray(samples.mean(axis=1))


def _correlation(samples: Values) -> Values:
    """Pearson's r of (…, n, 2); nan where one of the two does not vary."""
    varies = (np.ptp(samples, axis=-2) > 0).all(axis=-1)
    centred = samples - samples.mean(axis=-2, keepdims=True)
    product = (centred[..., 0] * centred[..., 1]).sum(axis=-1)
    size = np.sqrt((centred**2).sum(axis=-2).prod(axis=-1))
    return np.where(varies, product / np.where(varies, size, 1), np.nan)


@dataclass(frozen=True)
class Share:
    """A share of all cases' lesions together.

    Attributes
    ----------
    share
        Hits of lesions; nan without lesions.
    low, high
        95 % bootstrap interval; whole cases are drawn, as lesions of one patient belong together.
    """

    share: float
    low: float
    high: float


def pool(shares: Sequence[float], counts: Sequence[float]) -> Share:
    """The share over all cases, from each case's share and count; cases without any do not count.

    Parameters
    ----------
    shares
        Of each case; whatever where its count is 0.
    counts
        Lesions of each case.
    """
    pairs = [(s * n, n) for s, n in zip(shares, counts, strict=True) if n > 0]
    nan = float("nan")
    if not pairs:
        return Share(nan, nan, nan)
    rows = np.asarray(pairs, dtype=np.float64)
    low, high = bootstrap(rows, lambda drawn: drawn[..., 0].sum(axis=1) / drawn[..., 1].sum(axis=1))
    return Share(float(rows[:, 0].sum() / rows[:, 1].sum()), low, high)


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and interval of a metric."""
    known = np.asarray([v for v in values if np.isfinite(v)], dtype=np.float64)
    if not len(known):
        nan = float("nan")
        return Summary(nan, nan, nan, nan, 0)
    low, high = bootstrap(known, _mean)
    deviation = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return Summary(float(known.mean()), deviation, low, high, len(known))


@dataclass(frozen=True)
class Agreement:
    """Agreement of volumes (Bland and Altman, Lancet 1986; 327: 307-310).

    Attributes
    ----------
    bias, lower, upper
        Mean difference and its limits of agreement (1.96 SD), in ml.
    correlation
        Pearson's r.
    correlation_low, correlation_high
        95 % bootstrap interval of r.
    """

    bias: float
    lower: float
    upper: float
    correlation: float
    correlation_low: float
    correlation_high: float


def agreement(reference_ml: Sequence[float], outlined_ml: Sequence[float]) -> Agreement:
    """Bias, limits of agreement and correlation; nan where there are too few cases."""
    pairs: Values = np.column_stack([reference_ml, outlined_ml]).astype(np.float64)
    difference = pairs[:, 1] - pairs[:, 0]
    nan = float("nan")
    spread = float(difference.std(ddof=1)) if len(pairs) > 1 else nan
    known = float(_correlation(pairs)) if len(pairs) > 2 else nan
    low, high = bootstrap(pairs, _correlation) if np.isfinite(known) else (nan, nan)
    bias = float(difference.mean())
    return Agreement(bias, bias - 1.96 * spread, bias + 1.96 * spread, known, low, high)


@dataclass(frozen=True)
class Comparison:
    """Two models on the same cases: b minus a.

    Attributes
    ----------
    difference, low, high
        Mean difference and its 95 % bootstrap interval.
    t, p
        Paired t-test; nan for fewer than two cases or equal results.
    cases
        How many both have.
    """

    difference: float
    low: float
    high: float
    t: float
    p: float
    cases: int


def compare_paired(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Paired comparison of a metric over the cases that have both values."""
    pairs = np.column_stack([a, b]).astype(np.float64)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    difference = pairs[:, 1] - pairs[:, 0]
    nan = float("nan")
    if not len(difference):
        return Comparison(nan, nan, nan, nan, nan, 0)
    low, high = bootstrap(difference, _mean)
    t = p = nan
    if len(difference) > 1 and difference.std() > 0:
        test = stats.ttest_rel(pairs[:, 1], pairs[:, 0])
        t, p = float(test.statistic), float(test.pvalue)
    return Comparison(float(difference.mean()), low, high, t, p, len(difference))

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
    values: Values, statistic: Callable[[Values], float], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of the rows (Efron 1979); nan for under two rows."""
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = [
        statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(RESAMPLES)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def summarise(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and interval of a metric."""
    known = np.asarray([v for v in values if np.isfinite(v)], dtype=np.float64)
    if not len(known):
        nan = float("nan")
        return Summary(nan, nan, nan, nan, 0)
    low, high = bootstrap(known, lambda rows: float(rows.mean()))
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

    def correlation(rows: Values) -> float:
        if len(rows) < 3 or not bool(np.all(rows.std(axis=0) > 0)):
            return nan
        return float(np.atleast_2d(np.corrcoef(rows.T))[0, 1])

    known = correlation(pairs)
    low, high = bootstrap(pairs, correlation) if np.isfinite(known) else (nan, nan)
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
    low, high = bootstrap(difference, lambda rows: float(rows.mean()))
    t = p = nan
    if len(difference) > 1 and difference.std() > 0:
        test = stats.ttest_rel(pairs[:, 1], pairs[:, 0])
        t, p = float(test.statistic), float(test.pvalue)
    return Comparison(float(difference.mean()), low, high, t, p, len(difference))

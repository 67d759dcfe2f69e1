"""Statistics against closed forms and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from model_tools.evaluate.statistics import agreement, compare_paired, pool, summarise


def test_summary_leaves_out_what_has_no_value() -> None:
    found = summarise([1.0, 3.0, float("nan")])
    assert (found.mean, found.cases) == (2.0, 2)
    assert found.deviation == pytest.approx(math.sqrt(2))
    assert 1 <= found.low <= found.mean <= found.high <= 3
    nothing = summarise([float("nan")])
    assert nothing.cases == 0
    assert math.isnan(nothing.mean)
    assert math.isnan(summarise([0.5]).low)


def test_bootstrap_interval_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(10, 2, 200)
    found = summarise(list(values))
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.06)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06)
    assert found == summarise(list(values)), "the same every time"


def test_agreement() -> None:
    reference = [1.0, 2.0, 4.0, 8.0]
    found = agreement(reference, [1.5, 2.0, 5.0, 8.5])
    difference = np.array([0.5, 0, 1, 0.5])
    assert found.bias == pytest.approx(0.5)
    assert found.upper == pytest.approx(0.5 + 1.96 * difference.std(ddof=1))
    assert found.lower == pytest.approx(0.5 - 1.96 * difference.std(ddof=1))
    assert found.correlation == pytest.approx(stats.pearsonr(reference, [1.5, 2, 5, 8.5])[0])
    assert found.correlation_low <= found.correlation
    assert math.isnan(agreement([1.0], [1.0]).correlation)


def test_paired_comparison() -> None:
    a, b = [0.5, 0.6, 0.7, float("nan")], [0.6, 0.65, 0.9, 0.1]
    found = compare_paired(a, b)
    expected = stats.ttest_rel(b[:3], a[:3])
    assert found.cases == 3
    assert found.difference == pytest.approx(np.mean([0.1, 0.05, 0.2]))
    assert (found.t, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert math.isnan(compare_paired([1.0, 2.0], [1.0, 2.0]).p)
    assert compare_paired([float("nan")], [1.0]).cases == 0


def test_a_share_of_all_lesions_draws_whole_cases() -> None:
    # 1 of 1, 0 of 3, 2 of 4; a case without any lesion says nothing
    found = pool([1.0, 0.0, 0.5, float("nan")], [1, 3, 4, 0])
    assert found.share == pytest.approx(3 / 8)
    assert found.low == 0, "the second case alone may be drawn"
    assert found.share < found.high <= 1
    nothing = pool([float("nan")], [0])
    assert np.isnan([nothing.share, nothing.low, nothing.high]).all()
    alone = pool([0.5], [4])
    assert (alone.share, np.isnan(alone.low)) == (0.5, True)

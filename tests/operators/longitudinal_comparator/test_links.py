"""Which lesions of two studies are one."""

from __future__ import annotations

import numpy as np
import pytest

from operators.longitudinal_comparator.lesions import LesionObject, find_lesions
from operators.longitudinal_comparator.links import KnownLinks, Shape, find_links
from operators.longitudinal_comparator.size import LeastSize
from tests.operators.longitudinal_comparator.scenes import (
    CURRENT_GRID,
    MOTION,
    PRIOR_GRID,
    SETTINGS,
    Ball,
    probability,
)

A: Ball = ((-12.0, -6.0, 22.0), 4.2)
B: Ball = ((8.0, -4.0, 30.0), 4.0)
LEAST = LeastSize(10.0, 3.0)
CURRENT_AFFINE, PRIOR_AFFINE = np.asarray(CURRENT_GRID.affine), np.asarray(PRIOR_GRID.affine)


def _lesions(balls: list[Ball], *, prior: bool) -> tuple[LesionObject, ...]:
    part = probability(PRIOR_GRID, balls, MOTION) if prior else probability(CURRENT_GRID, balls)
    return find_lesions(part.probability, 0.5, LEAST)


def _links(now, before, known: KnownLinks | None = None) -> list[tuple[int, int]]:
    found = find_links(now, before, CURRENT_AFFINE, PRIOR_AFFINE, MOTION, SETTINGS, known)
    return [(link.current, link.prior) for link in found]


def test_what_overlaps_is_linked_whatever_the_grids() -> None:
    now, before = _lesions([A, B], prior=False), _lesions([B, A], prior=True)
    found = _links(now, before)
    assert len(found) == 2
    for c, p in found:
        there = MOTION[:3, :3] @ now[c].centroid + MOTION[:3, 3]
        np.testing.assert_allclose(there, before[p].centroid, atol=1.0)
    assert _links((), before) == _links(now, ()) == []


def test_known_pairs_are_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now, before = _lesions([A, B], prior=False), _lesions([A, B], prior=True)
    known: KnownLinks = {}
    first = _links(now, before, known)
    assert sum(near is not None for near in known.values()) == 2

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Shape, "distance", never)
    assert _links(now, before, known) == first
    # positions are those of the lists asked about, not those of the lists first seen
    assert _links(now[1:], before, known) == [(c - 1, p) for c, p in first if c == 1]
    with pytest.raises(AssertionError, match="measured again"):
        _links(now, before, {})

"""Bright places that are no lesions lie in fluid and at the middle plane, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_tools.train.atlas import Atlas, load_atlas
from model_tools.train.negatives import bright_fluid, midline_sheet


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas()


def test_the_sheet_is_thin_and_lies_between_the_lateral_ventricles(atlas: Atlas) -> None:
    sheet = midline_sheet(atlas.ventricles) > 0
    x = np.flatnonzero(sheet.any((0, 1)))
    assert list(x) == [97, 98, 99]
    # MNI (0, 10, 15): the septum pellucidum, with a ventricle at 10 mm on each side
    k, j = 72 + 15, 98 - 10
    assert sheet[k, j, 98]
    assert not atlas.ventricles[k, j, 98]
    assert atlas.ventricles[k, j, 88:109].any()


def _drawn(fluid: torch.Tensor, sheet: torch.Tensor, count: int = 24) -> list[torch.Tensor]:
    return [bright_fluid(fluid, sheet, np.random.default_rng(seed)) for seed in range(count)]


def test_some_scans_have_it_and_some_do_not() -> None:
    fluid = torch.zeros(24, 30, 28)
    fluid[4:20, 6:24, 5:23] = 1
    sheet = torch.zeros_like(fluid)
    sheet[6:18, 8:20, 14] = 1
    amounts = [float(one.sum()) for one in _drawn(fluid, sheet)]
    assert min(amounts) == 0
    assert sum(amount > 0 for amount in amounts) > len(amounts) / 3


def test_it_stays_within_2_mm_of_fluid_and_sheet_and_within_one() -> None:
    fluid = torch.zeros(30, 34, 32)
    fluid[4:14, 6:24, 5:15] = 1
    sheet = torch.zeros_like(fluid)
    sheet[4:14, 8:20, 10] = 1
    for one in _drawn(fluid, sheet):
        assert float(one.min()) >= 0
        assert float(one.max()) <= 1
        far = one.clone()
        far[2:17, 3:28, 2:18] = 0
        assert float(far.max()) < 0.05

"""The project's own validation set: what is painted, what thick slices see of it, its table."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from model_tools.evaluate.dataset import read_dataset
from model_tools.evaluate.examination import read_image, read_mask
from model_tools.evaluate.own_cases import acquired, make_scans_of_26, paint, write_table
from model_tools.train.atlas import load_atlas, load_lesion_masks
from model_tools.train.generate import Sources
from tests.model_tools.train.conftest import sources  # noqa: F401


def test_painted_lesions_have_the_load_and_are_bright(sources: Sources) -> None:  # noqa: F811
    background = sources.backgrounds["99_1"]
    lesions = paint(sources, background, 0.25, seed=1)
    inside = lesions.occupancy >= 0.5
    assert lesions.ml == pytest.approx(0.25, rel=0.5)
    assert set(lesions.change) == {"flair", "t2", "t1"}
    assert lesions.change["flair"][inside].mean() > 0.1 * background.white_local[0].mean()
    assert lesions.change["t1"][inside].mean() < 0
    assert np.abs(lesions.change["flair"])[lesions.occupancy == 0].max() < 0.5 * (
        lesions.change["flair"].max()
    )
    again = paint(sources, background, 0.25, seed=1)
    assert np.array_equal(lesions.occupancy, again.occupancy)
    assert not np.array_equal(lesions.occupancy, paint(sources, background, 0.25, 2).occupancy)


def test_thick_slices_see_the_mean_of_what_they_cover() -> None:
    angle = 0.25
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    fine_affine, thick_affine = np.eye(4), np.eye(4)
    fine_affine[:3, :3] = turn
    thick_affine[:3, :3] = turn * np.array([0.8, 0.9, 4.0])
    array = np.zeros((40, 44, 60), np.float32)
    array[10:30, 10:30, 30:32] = 1.0  # a plate of 2 mm
    fine = hd.Volume(array, affine=fine_affine, coordinate_system="PATIENT")
    grid = hd.Volume(
        np.zeros((40, 40, 14), np.uint8), affine=thick_affine, coordinate_system="PATIENT"
    )
    seen = acquired(fine, grid, np.eye(4), thickness=1.0)
    profile = seen[25, 22] * 4.0  # mm of plate in each slice
    assert profile.sum() == pytest.approx(2.0, abs=0.25)
    assert 0 < seen.max() <= 0.55, "half of a slice at most"
    away = np.eye(4)
    away[2, 3] = 8.0  # two slices
    moved = acquired(fine, grid, away, thickness=1.0)
    assert np.allclose(moved[:, :, :12], seen[:, :, 2:], atol=1e-4)


def test_case_26_is_written_as_it_is(open_ms: Path, tmp_path: Path) -> None:
    atlas = load_atlas()
    made = Sources(atlas, load_lesion_masks(open_ms, without=("patient26",)), {})
    rows = make_scans_of_26(open_ms, made, tmp_path, ("full",), added_ml=())
    write_table(rows, tmp_path / "cases.csv")
    (case,) = read_dataset(tmp_path / "cases.csv")
    assert case.aligned
    assert case.seen_by == ("full",)
    flair = read_image(case.images["flair"])
    assert case.reference is not None
    truth = read_mask(case.reference, flair)
    assert truth.sum() / 1000 == pytest.approx(8.23, abs=0.01)
    original = next((open_ms / "cross_sectional/MNI/patient26").glob("GOLD_STANDARD*"))
    assert np.array_equal(read_mask(original, flair), truth), "at the same millimetres"

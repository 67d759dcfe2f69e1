"""The brain is found on other grids and turned heads, and its absence is told."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from operators.errors import InputError
from operators.geometry import resample_to
from operators.registration.brain_mask import find_brain
from operators.registration.similarity import dice
from operators.registration.template import load_template
from tests.operators.registration.real_data import SETTINGS, brain_of, patient
from tests.operators.registration.test_rigid import moved_scan


def test_a_turned_head_on_a_sagittal_grid_has_the_same_brain(open_ms: Path) -> None:
    who = patient(open_ms, "12", 2)
    scan, motion = moved_scan(who.volume("flair"), (12.0, -5.0, 8.0), (40.0, -90.0, 70.0))
    found = find_brain(scan, SETTINGS, "scan")
    expected = resample_to(brain_of(who).mask, scan, np.linalg.inv(motion), nearest=True)
    assert dice(found.mask.array, expected.array) > 0.94
    # The same anatomical point must be given the same place in the template.
    point = np.array([0.0, 0.0, 0.0, 1.0])
    in_flair = np.linalg.inv(brain_of(who).template_to_flair) @ point
    apart = np.linalg.norm((found.template_to_flair @ motion @ in_flair - point)[:3])
    assert apart < 5


def test_the_matrix_takes_the_brain_to_the_template(open_ms: Path) -> None:
    who = patient(open_ms, "12", 1)
    found = brain_of(who)
    template = load_template().mask
    moved = resample_to(template, found.mask, found.template_to_flair, nearest=True)
    assert dice(moved.array, found.mask.array) > 0.93
    assert np.linalg.det(found.template_to_flair[:3, :3]) > 0


def test_a_field_of_view_that_cuts_the_brain_is_measured(open_ms: Path) -> None:
    flair = patient(open_ms, "12", 1).volume("flair")
    upper = flair[:, :, 20:]
    found = find_brain(upper, SETTINGS, "upper half")
    assert found.cut_fraction > SETTINGS.max_brain_cut
    whole = brain_of(patient(open_ms, "12", 1)).mask.array[:, :, 20:]
    assert dice(found.mask.array, whole) > 0.93


@pytest.mark.parametrize("what", ["noise", "constant", "not finite"])
def test_an_image_without_a_brain_is_an_error(what: str) -> None:
    affine = np.diag([0.9, 1.1, 3.0, 1.0])
    shape = (200, 170, 50)
    array = {
        "noise": np.random.default_rng(2).random(shape, dtype=np.float32),
        "constant": np.ones(shape, np.float32),
        "not finite": np.full(shape, np.nan, np.float32),
    }[what]
    volume = hd.Volume(array, affine=affine, coordinate_system="PATIENT")
    with pytest.raises(InputError, match="series 7"):
        find_brain(volume, SETTINGS, "series 7")


def test_a_box_is_no_brain() -> None:
    array = np.zeros((200, 170, 50), np.float32)
    array[40:160, 30:60, 5:45] = 100
    volume = hd.Volume(array, affine=np.diag([0.9, 1.1, 3.0, 1.0]), coordinate_system="PATIENT")
    with pytest.raises(InputError, match="likeness"):
        find_brain(volume, SETTINGS, "series 7")


def test_a_slab_is_too_little(open_ms: Path) -> None:
    flair = patient(open_ms, "12", 1).volume("flair")
    with pytest.raises(InputError, match="less than half"):
        find_brain(flair[:, :, 20:32], SETTINGS, "slab")
    with pytest.raises(InputError, match="voxels along every axis"):
        find_brain(flair[:, :, 20:23], SETTINGS, "three slices")

"""Any number of earlier studies: which becomes the prior, what is noted, what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest

from operators.errors import InputError
from operators.messages import InstanceRef, Registration, SelectedStudies, SelectedStudy
from operators.registration import align
from operators.registration.brain_mask import BrainMask
from operators.registration.settings import RegistrationSettings
from tests.operators.registration.real_data import selected_study

SETTINGS = RegistrationSettings(threads=2)
AFFINE = np.array([[0.8, 0, 1.44, 3], [0, 1.2, 0, -4], [-0.6, 0, 1.92, 7], [0, 0, 0, 1]])


def study(days: int, *roles: str) -> SelectedStudy:
    """A study whose voxels all hold its days."""
    volume = hd.Volume(
        np.full((6, 7, 8), days, np.float32), affine=AFFINE, coordinate_system="PATIENT"
    )
    made = selected_study(dict.fromkeys(("flair", *roles), volume))
    uid = f"1.2.{days}"
    objects = (InstanceRef(Path("s"), f"{uid}.1", "66"), InstanceRef(Path("r"), f"{uid}.2", "88"))
    whole = replace(made.study, study_uid=uid, segmentations=objects[:1])
    return replace(made, study=whole, interval_days=days, lesion_objects=objects)


def studies(*days: int) -> SelectedStudies:
    current, *earlier = [study(day, "t2") for day in (0, *days)]
    return SelectedStudies(current, earlier[0], earlier[0].lesion_objects[:1], tuple(earlier[1:]))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Brain and registrations by fiat; the sets name the studies (by days) that fail."""
    fails: dict[str, set[int]] = {"brain": set(), "flair": set(), "t2": set()}

    def find_brain(flair: hd.Volume, settings: Any, subject: str) -> BrainMask:
        if int(flair.array[0, 0, 0]) in fails["brain"]:
            raise InputError(subject, "No brain was found.", "Check the series.")
        mask = flair.with_array(np.ones(flair.spatial_shape, bool))
        return BrainMask(mask, np.eye(4), 1.0, 1300.0, 0.0)

    def register_rigid(fixed: hd.Volume, moving: hd.Volume, *_: Any, **how: Any) -> Registration:
        days = int(moving.array[0, 0, 0])
        kind = "flair" if "starts" in how else "t2"
        return Registration(np.eye(4), float(days), 0.0, 1.2, days not in fails[kind])

    monkeypatch.setattr(align, "find_brain", find_brain)
    monkeypatch.setattr(align, "register_rigid", register_rigid)
    return fails


def test_every_study_is_related_newest_first(stub: dict[str, set[int]]) -> None:
    aligned = align.align_studies(studies(300, 700, 1100, 1500), SETTINGS)
    assert aligned.comparable
    assert aligned.prior is not None
    assert aligned.prior.selected.interval_days == 300
    assert [one.aligned.selected.interval_days for one in aligned.earlier] == [700, 1100, 1500]
    assert [one.to_current.translation_mm for one in aligned.earlier] == [700.0, 1100.0, 1500.0]
    assert all(set(one.aligned.to_flair) == {"t2"} for one in aligned.earlier)
    assert aligned.quality == ()


def test_the_latest_comparable_study_becomes_the_prior_with_a_note(
    stub: dict[str, set[int]],
) -> None:
    stub["flair"] = {300, 1100}
    selected = studies(300, 700, 1100)
    aligned = align.align_studies(selected, SETTINGS)
    assert aligned.comparable
    assert aligned.prior is not None
    assert aligned.prior.selected.interval_days == 700
    assert aligned.selected.prior is aligned.prior.selected
    assert aligned.selected.prior_segmentations == aligned.prior.selected.lesion_objects[:1]
    assert [one.aligned.selected.interval_days for one in aligned.earlier] == [300, 1100]
    assert [one.to_current.accepted for one in aligned.earlier] == [False, False]
    assert [one.interval_days for one in aligned.selected.earlier] == [300, 1100]
    assert [note.code for note in aligned.quality] == [
        "prior_registration_refused",
        "earlier_registration_refused",
        "prior_not_the_latest",
    ]
    assert "1100 days before" in aligned.quality[1].message
    assert "700 days" in aligned.quality[2].message


def test_without_a_comparable_study_the_latest_stays_and_nothing_is_compared(
    stub: dict[str, set[int]],
) -> None:
    stub["flair"] = {300, 700}
    aligned = align.align_studies(studies(300, 700), SETTINGS)
    assert not aligned.comparable
    assert aligned.prior is not None
    assert aligned.prior.selected.interval_days == 300


def test_a_study_without_a_brain_is_left_out_with_a_note(stub: dict[str, set[int]]) -> None:
    stub["brain"] = {300}
    aligned = align.align_studies(studies(300, 700), SETTINGS)
    assert aligned.prior is not None
    assert aligned.prior.selected.interval_days == 700
    assert aligned.selected.prior is aligned.prior.selected
    assert aligned.earlier == ()
    assert [(note.code, note.severity) for note in aligned.quality] == [
        ("brain_not_found", "warning")
    ]
    stub["brain"] = {300, 700}
    alone = align.align_studies(studies(300, 700), SETTINGS)
    assert alone.prior is None
    assert alone.selected.prior is None
    assert len(alone.quality) == 2


def test_a_current_study_without_a_brain_is_an_error(stub: dict[str, set[int]]) -> None:
    stub["brain"] = {0}
    with pytest.raises(InputError, match="current FLAIR"):
        align.align_studies(studies(300), SETTINGS)


def test_notes_come_in_the_order_of_the_studies(stub: dict[str, set[int]]) -> None:
    stub["t2"] = {0, 300, 700}
    aligned = align.align_studies(studies(300, 700), SETTINGS)
    assert [note.code for note in aligned.quality] == ["t2_registration_refused"] * 3
    for note, name in zip(aligned.quality, ("current", "prior", "700 days before"), strict=True):
        assert name in note.message

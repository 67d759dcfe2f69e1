"""The whole stage on real studies: what is accepted, what is refused and noted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from operators.messages import SelectedStudies
from operators.registration.align import align_studies
from tests.operators.registration.real_data import (
    SETTINGS,
    distances,
    patient,
    selected_study,
)


def test_two_studies_are_aligned_without_a_note(open_ms: Path) -> None:
    prior, current = patient(open_ms, "12", 1), patient(open_ms, "12", 2)
    selected = SelectedStudies(current.selected(), prior.selected(), ())
    aligned = align_studies(selected, SETTINGS)
    assert aligned.comparable
    assert aligned.quality == ()
    assert aligned.prior is not None
    for study in (aligned.current, aligned.prior):
        flair = study.selected.series["flair"].volume
        assert set(study.to_flair) == {"t1", "t2"}
        assert all(found.accepted for found in study.to_flair.values())
        assert study.brain_mask.array.dtype == np.bool_
        assert np.array_equal(study.brain_mask.affine, flair.affine)
        assert study.brain_mask.spatial_shape == flair.spatial_shape
    assert aligned.prior_to_current is not None
    truth = prior.common_to_flair() @ np.linalg.inv(current.common_to_flair())
    mean, _ = distances(aligned.prior_to_current.matrix_lps, truth, aligned.current.brain_mask)
    assert mean <= 0.5


def test_another_patients_prior_stops_the_comparison(open_ms: Path) -> None:
    current = selected_study({"flair": patient(open_ms, "12", 2).volume("flair")})
    prior = selected_study({"flair": patient(open_ms, "04", 1).volume("flair")})
    aligned = align_studies(SelectedStudies(current, prior, ()), SETTINGS)
    assert not aligned.comparable
    assert aligned.prior is not None
    assert [note.code for note in aligned.quality] == ["prior_registration_refused"]
    assert aligned.quality[0].severity == "warning"


def test_a_mirrored_t2_is_refused_and_the_rest_goes_on(open_ms: Path) -> None:
    who = patient(open_ms, "04", 1)
    t2 = who.volume("t2")
    study = selected_study(
        {
            "flair": who.volume("flair"),
            "t1": who.volume("t1"),
            "t2": t2.with_array(np.ascontiguousarray(t2.array[::-1])),
        }
    )
    aligned = align_studies(SelectedStudies(study, None, ()), SETTINGS)
    assert aligned.prior_to_current is None
    assert not aligned.comparable
    assert aligned.current.to_flair["t1"].accepted
    assert not aligned.current.to_flair["t2"].accepted
    assert [note.code for note in aligned.quality] == ["t2_registration_refused"]
    assert "series 3" in aligned.quality[0].message

"""Accuracy on real studies against the data set's own transforms and brain masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from operators.registration.rigid import register_rigid
from operators.registration.similarity import dice
from tests.operators.registration.real_data import SETTINGS, brain_of, distances, patient


@pytest.mark.parametrize("number, study", [("12", 1), ("12", 2), ("04", 1), ("09", 2), ("20", 2)])
def test_brain_mask_agrees_with_the_data_set(open_ms: Path, number: str, study: int) -> None:
    who = patient(open_ms, number, study)
    found = brain_of(who)
    assert dice(found.mask.array, who.reference_mask()) >= 0.95
    assert 1200 < found.volume_ml < 1700
    assert found.cut_fraction < SETTINGS.max_brain_cut


@pytest.mark.parametrize("study", [1, 2])
def test_brain_mask_of_patient_03_holds_the_data_sets_mask(open_ms: Path, study: int) -> None:
    """The data set's mask of patient 03 leaves out about 10 mm of both frontal lobes, the lower
    cerebellum and the vertex (seen on both FLAIRs), so that a right mask cannot reach 0.95."""
    who = patient(open_ms, "03", study)
    found = brain_of(who)
    reference = who.reference_mask()
    assert (found.mask.array & reference).sum() / reference.sum() >= 0.97
    assert dice(found.mask.array, reference) >= 0.87
    assert 1300 < found.volume_ml < 1600
    # The brain is bright in a FLAIR and its rim is not: what the reference leaves out is brain.
    flair = who.volume("flair").array
    left_out = found.mask.array & ~reference
    assert np.median(flair[left_out]) > 0.8 * np.median(flair[reference])


@pytest.mark.parametrize("number", ["12", "03"])
def test_prior_flair_lands_where_the_data_set_puts_it(open_ms: Path, number: str) -> None:
    prior, current = patient(open_ms, number, 1), patient(open_ms, number, 2)
    brain = brain_of(current)
    start = np.linalg.inv(brain_of(prior).template_to_flair) @ brain.template_to_flair
    found = register_rigid(
        current.volume("flair"),
        prior.volume("flair"),
        brain.mask,
        SETTINGS,
        starts=[start],
        min_similarity=SETTINGS.min_similarity_between_studies,
    )
    truth = prior.common_to_flair() @ np.linalg.inv(current.common_to_flair())
    mean, largest = distances(found.matrix_lps, truth, brain.mask)
    assert mean <= 0.5
    assert largest <= 1.0
    assert found.accepted


@pytest.mark.parametrize(
    "number, study, role",
    [
        ("12", 1, "t1"),
        ("12", 1, "t2"),
        ("12", 2, "t1"),
        ("12", 2, "t2"),
        ("03", 1, "t2"),
        ("03", 2, "t1"),
        ("03", 2, "t2"),
    ],
)
def test_t1_and_t2_land_where_the_data_set_puts_them(
    open_ms: Path, number: str, study: int, role: str
) -> None:
    who = patient(open_ms, number, study)
    brain = brain_of(who)
    found = register_rigid(
        who.volume("flair"),
        who.volume(role),
        brain.mask,
        SETTINGS,
        min_similarity=SETTINGS.min_similarity_within_study,
    )
    mean, largest = distances(found.matrix_lps, who.flair_to(role), brain.mask)
    assert mean <= 0.5
    assert largest <= 1.0
    assert found.accepted

"""Known motion is recovered; what does not belong together is refused."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from operators.geometry import resample_to
from operators.messages import Registration
from operators.registration.brain_mask import find_brain
from operators.registration.rigid import register_rigid, rotation_angle
from tests.operators.registration.real_data import SETTINGS, brain_of, distances, patient


def moved_scan(
    image: hd.Volume, angles_deg: tuple[float, float, float], shift_mm: tuple[float, ...]
) -> tuple[hd.Volume, np.ndarray]:
    """The head scanned again after a motion: sagittal, oblique, 1.1 × 1.3 × 2.5 mm, with noise.

    Returns the scan and the 4×4 that maps points of ``image`` to points of the scan.
    """
    middle = np.asarray(image.affine) @ [*((np.asarray(image.spatial_shape) - 1) / 2), 1]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    motion[:3, 3] = middle[:3] - motion[:3, :3] @ middle[:3] + np.asarray(shift_mm)
    tilt = Rotation.from_euler("zx", (7, -5), degrees=True).as_matrix()
    axes = tilt @ np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]]) * [1.3, 1.1, 2.5]
    shape = (190, 170, 76)
    affine = np.eye(4)
    affine[:3, :3] = axes
    affine[:3, 3] = (motion @ middle)[:3] - axes @ ((np.asarray(shape) - 1) / 2)
    grid = hd.Volume(np.zeros(shape, np.float32), affine=affine, coordinate_system="PATIENT")
    scan = resample_to(image, grid, np.linalg.inv(motion))
    noise = np.random.default_rng(3).normal(0, 0.02 * image.array.max(), shape)
    return scan.with_array((scan.array + noise).astype(np.float32)), motion


@pytest.mark.parametrize(
    "angles, shift",
    [((3.0, -2.0, 4.0), (5.0, -6.0, 8.0)), ((18.0, -6.0, 10.0), (90.0, -60.0, 120.0))],
)
def test_known_motion_is_recovered(
    open_ms: Path, angles: tuple[float, float, float], shift: tuple[float, ...]
) -> None:
    who = patient(open_ms, "12", 1)
    flair, brain = who.volume("flair"), brain_of(who).mask
    scan, motion = moved_scan(flair, angles, shift)
    found = register_rigid(flair, scan, brain, SETTINGS)
    mean, largest = distances(found.matrix_lps, motion, brain)
    assert mean < 0.3
    assert largest < 0.6
    assert found.rotation_deg == pytest.approx(rotation_angle(motion), abs=0.3)
    assert found.similarity > SETTINGS.min_similarity_between_studies


def test_motion_is_recovered_without_a_mask(open_ms: Path) -> None:
    flair = patient(open_ms, "04", 1).volume("flair")
    scan, motion = moved_scan(flair, (4.0, 3.0, -5.0), (10.0, 4.0, -12.0))
    rigid_only = SETTINGS.model_copy(update={"affine": False})
    found = register_rigid(flair, scan, None, rigid_only)
    assert distances(found.matrix_lps, motion, brain_of(patient(open_ms, "04", 1)).mask)[0] < 0.3
    assert np.linalg.det(found.matrix_lps[:3, :3]) == pytest.approx(1, abs=1e-6)


def test_result_is_the_same_to_the_last_bit_whatever_the_number_of_threads(open_ms: Path) -> None:
    who = patient(open_ms, "12", 1)
    flair, t2 = who.volume("flair"), who.volume("t2")
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    results = set()
    try:
        for threads in (1, 2, 4):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            brain = find_brain(flair, SETTINGS, "FLAIR")
            found = register_rigid(flair, t2, brain.mask, SETTINGS)
            results.add(
                (
                    brain.mask.array.tobytes(),
                    brain.template_to_flair.tobytes(),
                    found.matrix_lps.tobytes(),
                    found.similarity,
                )
            )
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert len(results) == 1


def between(open_ms: Path, moving: hd.Volume) -> Registration:
    who = patient(open_ms, "12", 2)
    return register_rigid(
        who.volume("flair"),
        moving,
        brain_of(who).mask,
        SETTINGS,
        min_similarity=SETTINGS.min_similarity_between_studies,
    )


def test_another_patient_is_refused(open_ms: Path) -> None:
    assert not between(open_ms, patient(open_ms, "04", 1).volume("flair")).accepted


def test_a_mirrored_prior_is_refused(open_ms: Path) -> None:
    prior = patient(open_ms, "12", 1).volume("flair")
    mirrored = prior.with_array(np.ascontiguousarray(prior.array[::-1]))
    assert not between(open_ms, mirrored).accepted


@pytest.mark.parametrize("what", ["noise", "constant", "not finite", "one slice"])
def test_images_without_a_head_are_refused(open_ms: Path, what: str) -> None:
    prior = patient(open_ms, "12", 1).volume("flair")
    if what == "one slice":
        assert not between(open_ms, prior[:, :, 24:25]).accepted
        return
    array = {
        "noise": np.random.default_rng(1).random(prior.spatial_shape, dtype=np.float32),
        "constant": np.full(prior.spatial_shape, 7, np.float32),
        "not finite": np.full(prior.spatial_shape, np.nan, np.float32),
    }[what]
    assert not between(open_ms, prior.with_array(array)).accepted


@pytest.mark.parametrize("role", ["t1", "t2"])
def test_a_mirrored_sequence_is_refused(open_ms: Path, role: str) -> None:
    who = patient(open_ms, "12", 1)
    image = who.volume(role)
    found = register_rigid(
        who.volume("flair"),
        image.with_array(np.ascontiguousarray(image.array[::-1])),
        brain_of(who).mask,
        SETTINGS,
        min_similarity=SETTINGS.min_similarity_within_study,
    )
    assert not found.accepted


def test_a_motion_beyond_the_limit_is_refused(open_ms: Path) -> None:
    who = patient(open_ms, "12", 1)
    scan, _ = moved_scan(who.volume("flair"), (0.0, 0.0, 12.0), (0.0, 0.0, 5.0))
    found = register_rigid(
        who.volume("flair"), scan, brain_of(who).mask, SETTINGS, max_rotation_deg=10.0
    )
    assert found.rotation_deg > 11
    assert not found.accepted

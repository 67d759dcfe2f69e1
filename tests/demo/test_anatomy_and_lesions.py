"""The head and the exact lesions in it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial import cKDTree

from demo.acquisition import Prescription, head_image, lesion_fraction, rigid
from demo.anatomy import Anatomy, TissueIntensity, build_anatomy, signal
from demo.lesions import DEFAULT_PLAN, LesionPlan, PlantedLesion, make_blob, plant
from demo.patient import CONTRASTS, SyntheticPatient

OBLIQUE = Prescription("axial", 40, 44, 16, 0.94, 0.86, 3.0, (-9.0, 4.0, 12.0), (20.0, 30.0, 25.0))
POSE = rigid((3.0, -5.0, 7.0), (2.0, 4.0, -3.0))


def some_lesion(
    seed: int, centre: tuple[float, float, float] = (18.0, 27.0, 26.0)
) -> PlantedLesion:
    blob = make_blob(np.random.default_rng(seed))
    plan = LesionPlan("deep_white_matter", "stable", 500.0)
    return PlantedLesion(1, plan, np.asarray(centre), blob, 1.0)


def test_tissues_are_fractions(anatomy: Anatomy) -> None:
    total = anatomy.white_matter + anatomy.grey_matter + anatomy.csf
    assert anatomy.white_matter.min() >= 0.0
    assert anatomy.grey_matter.min() >= 0.0
    assert total.max() < 1.001


def test_the_same_seed_gives_the_same_head_and_lesions(
    anatomy: Anatomy, patient: SyntheticPatient
) -> None:
    again = sitk.GetArrayFromImage(head_image(anatomy, CONTRASTS["flair"]))
    first = sitk.GetArrayFromImage(patient.heads["flair"])
    np.testing.assert_array_equal(first, again)
    plan = [patient.lesions[0].plan]
    twice = [plant(anatomy, plan, 1)[0] for _ in range(2)]
    np.testing.assert_array_equal(twice[0].centre_lps_mm, twice[1].centre_lps_mm)
    np.testing.assert_array_equal(twice[0].blob.bumps, twice[1].blob.bumps)


def test_the_brain_has_a_human_size_and_shape(anatomy: Anatomy) -> None:
    brain_ml = float((anatomy.white_matter + anatomy.grey_matter).sum()) / 1000.0
    assert 1200.0 < brain_ml < 2100.0
    assert 5.0 < anatomy.ventricles.sum() / 1000.0 < 60.0
    x = anatomy.coordinates()[0].ravel()
    sides = anatomy.ventricles.sum(axis=(1, 2))
    left, right = sides[x > 0].sum(), sides[x < 0].sum()
    assert 0.5 < left / right < 2.0


def test_another_seed_gives_another_brain(anatomy: Anatomy) -> None:
    other = build_anatomy(2)
    first, second = anatomy.white_matter > 0.5, other.white_matter > 0.5
    dice = 2.0 * (first & second).sum() / (first.sum() + second.sum())
    assert 0.5 < dice < 0.95


def test_flair_has_dark_fluid_and_grey_matter_above_white(anatomy: Anatomy) -> None:
    tissue = TissueIntensity(300, 335, 50, 430, 14, 80, 95, 120, 80, 45)
    image = signal(anatomy, tissue)
    white = np.median(image[anatomy.white_matter > 0.95])
    grey = np.median(image[anatomy.grey_matter > 0.95])
    fluid = np.median(image[anatomy.ventricles & (anatomy.csf > 0.95)])
    outside = image[anatomy.skin_depth_mm > 3.0]
    assert white == pytest.approx(300, rel=0.02)
    assert grey == pytest.approx(335, rel=0.02)
    assert fluid < 70
    assert outside.max() < 1.0


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("volume", [60.0, 450.0])
def test_a_lesion_has_the_volume_and_the_centroid_that_it_says(seed: int, volume: float) -> None:
    lesion = some_lesion(seed)
    step = 0.2
    reach = lesion.reach_mm(volume) + 1.0
    steps = np.arange(-reach, reach, step)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    points = grid + lesion.centre_lps_mm
    inside = lesion.contains(points, volume)
    assert inside.sum() * step**3 == pytest.approx(volume, rel=0.02)
    np.testing.assert_allclose(points[inside].mean(axis=0), lesion.centroid(volume), atol=0.05)


def test_lesions_are_irregular() -> None:
    directions = np.random.default_rng(0).standard_normal((500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for seed in range(5):
        radius = make_blob(np.random.default_rng(seed)).radius(directions)
        assert radius.max() / radius.min() > 1.15


@pytest.mark.parametrize("profile", [False, True])
def test_voxels_of_an_oblique_scan_share_out_a_lesion_without_loss(profile: bool) -> None:
    lesion = some_lesion(4)
    affine = OBLIQUE.affine()
    found = lesion_fraction(lesion, 500.0, affine, OBLIQUE.shape, POSE, profile=profile)
    assert found is not None
    box, fraction = found
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    assert fraction.min() >= 0.0
    assert fraction.max() <= 1.0 + 1e-6
    assert fraction.sum() * voxel_mm3 == pytest.approx(500.0, rel=0.01)
    indices = np.argwhere(np.ones_like(fraction)) + [s.start for s in box]
    centre = fraction.ravel() @ indices / fraction.sum()
    seen = affine[:3, :3] @ centre + affine[:3, 3]
    true = (POSE @ np.append(lesion.centroid(500.0), 1.0))[:3]
    np.testing.assert_allclose(seen, true, atol=0.05)


def test_a_lesion_outside_the_slices_or_without_volume_is_not_seen() -> None:
    affine = OBLIQUE.affine()
    far = some_lesion(1, (200.0, 0.0, 0.0))
    assert lesion_fraction(far, 500.0, affine, OBLIQUE.shape, POSE, profile=True) is None
    near = some_lesion(1)
    assert lesion_fraction(near, 0.0, affine, OBLIQUE.shape, POSE, profile=True) is None


def test_slices_are_oblique_with_non_square_pixels() -> None:
    affine = OBLIQUE.affine()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(spacing, [3.0, 0.94, 0.86])
    direction = affine[:3, :3] / spacing
    np.testing.assert_allclose(direction.T @ direction, np.eye(3), atol=1e-12)
    assert np.linalg.det(direction) == pytest.approx(1.0)
    assert np.abs(direction).max() < 0.999
    middle = affine @ np.append((np.asarray(OBLIQUE.shape) - 1) / 2.0, 1.0)
    np.testing.assert_allclose(middle[:3], OBLIQUE.centre_lps_mm)


def test_the_plan_holds_every_region_and_every_change() -> None:
    assert {p.region for p in DEFAULT_PLAN} == {
        "periventricular",
        "juxtacortical",
        "infratentorial",
        "deep_white_matter",
    }
    for plan in DEFAULT_PLAN:
        now, before = plan.now_mm3, plan.before_mm3
        expected = {
            "new": before == 0.0 < now,
            "resolved": now == 0.0 < before,
            "stable": now == before,
            "enlarging": now == pytest.approx(1.5 * before),
            "shrinking": now == pytest.approx(0.5 * before),
        }
        assert expected[plan.change], plan
    assert {p.change for p in DEFAULT_PLAN} == {
        "new",
        "resolved",
        "stable",
        "enlarging",
        "shrinking",
    }


def test_lesions_lie_apart_and_where_their_region_says(
    patient: SyntheticPatient, anatomy: Anatomy
) -> None:
    ventricles = cKDTree(anatomy.origin + np.argwhere(anatomy.ventricles))
    for first, second in combinations(patient.lesions, 2):
        gap = np.linalg.norm(first.centre_lps_mm - second.centre_lps_mm)
        gap -= first.reach_mm(first.plan.largest_mm3) + second.reach_mm(second.plan.largest_mm3)
        assert gap >= 7.0
    for lesion in patient.lesions:
        steps = np.arange(-12.0, 12.0, 0.5)
        grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        points = lesion.centre_lps_mm + grid
        points = points[lesion.contains(points, lesion.plan.largest_mm3)]
        index = np.rint(points - anatomy.origin).astype(int)
        tissue = (anatomy.white_matter + anatomy.grey_matter)[tuple(index.T)]
        assert tissue.mean() > 0.96, lesion.number
        to_ventricle = float(ventricles.query(points)[0].min())
        below = lesion.centre_lps_mm[2] < -20.0
        assert below == (lesion.plan.region == "infratentorial")
        if lesion.plan.region == "periventricular":
            assert to_ventricle < 2.0
        elif not below:
            assert to_ventricle > 7.5


def test_a_lesion_that_fits_nowhere_is_an_error(anatomy: Anatomy) -> None:
    with pytest.raises(RuntimeError, match="no place for lesion 1"):
        plant(anatomy, [LesionPlan("periventricular", "stable", 3e6)], 1)
    assert plant(anatomy, [], 1) == ()

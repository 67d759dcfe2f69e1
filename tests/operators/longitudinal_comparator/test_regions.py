from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from bench.regions import mask_lesions, read_volume
from demo.anatomy import build_anatomy
from demo.patient import SyntheticPatient, make_patient
from demo.truth import TrueLesion, Truth, truth_of
from operators.geometry import resample_to
from operators.longitudinal_comparator.atlas import Label, load_atlas
from operators.longitudinal_comparator.derive_atlas import derive
from operators.longitudinal_comparator.lesions import LesionObject, measure
from operators.longitudinal_comparator.patient_anatomy import PatientAnatomy, template_anatomy
from operators.longitudinal_comparator.regions import (
    Elsewhere,
    Place,
    body_points,
    locate,
    place_of,
)
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import AlignedStudy, Region
from tests.operators.lesion_segmentation.builders import aligned_study, rigid
from tests.operators.longitudinal_comparator.scenes import CURRENT_GRID, follow, probability

SETTINGS = LongitudinalComparatorSettings()


@pytest.fixture(scope="module")
def template() -> PatientAnatomy:
    return template_anatomy(load_atlas())


def _ball(x: float, y: float, z: float, radius: float = 2.5) -> np.ndarray:
    """LPS points of a ball given in MNI coordinates (x right, y anterior, z superior)."""
    offsets = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= radius]
    return offsets + np.array([-x, -y, z])


# --- the atlas ------------------------------------------------------------------------------------


def test_the_atlas_is_what_its_script_derives() -> None:
    made, atlas = derive(), load_atlas()
    assert np.array_equal(made["labels"], atlas.labels.array)
    assert np.allclose(made["affine_lps"], atlas.labels.affine)
    for part, volume in zip(made["priors"], (atlas.grey, atlas.white), strict=True):
        assert np.abs(part / 255.0 - volume.array).max() < 1.5 / 255.0


def test_the_volumes_of_the_parts_are_plausible() -> None:
    labels = load_atlas().labels
    ml = {label: (labels.array == label).sum() * labels.voxel_volume / 1000 for label in Label}
    assert 10 < ml[Label.LATERAL_VENTRICLE] < 25
    assert 150 < ml[Label.INFRATENTORIAL] < 260
    assert 450 < ml[Label.CORTEX] < 750
    assert 5 < ml[Label.CORPUS_CALLOSUM] < 20
    assert 30 < ml[Label.DEEP_GREY_MATTER] < 70


@pytest.mark.parametrize(
    ("x", "y", "z", "region"),
    [
        (22, -20, 26, "periventricular"),  # corona radiata, beside the body of the ventricle
        (-20, 32, 6, "periventricular"),  # before the frontal horn
        (-30, -48, 20, "periventricular"),  # beside the atrium
        (0, -36, 16, "periventricular"),  # splenium of the corpus callosum
        (0, -28, -30, "infratentorial"),  # pons
        (24, -62, -36, "infratentorial"),  # cerebellar white matter
        (0, -42, -56, "infratentorial"),  # medulla
        (-8, -24, -14, "infratentorial"),  # midbrain
        (36, -30, 58, "juxtacortical"),  # below the central sulcus
        (-44, 24, 22, "juxtacortical"),  # inferior frontal
        (28, -6, 36, "deep_white_matter"),  # centrum semiovale
        (-27, 10, 34, "deep_white_matter"),
        (14, -20, 8, "deep_white_matter"),  # thalamus: deep grey matter is no location of its own
        (140, 0, 0, "unspecified"),
    ],
)
def test_places_that_an_anatomist_knows(
    template: PatientAnatomy, x: float, y: float, z: float, region: Region
) -> None:
    assert place_of(_ball(x, y, z), template, SETTINGS) == Place(region)
    # the template is symmetric, and so must the atlas be
    if region != "unspecified":
        assert place_of(_ball(-x, y, z), template, SETTINGS).region == region


# --- the rule of contact --------------------------------------------------------------------------


def _slab_anatomy(gap_mm: float) -> PatientAnatomy:
    """An oblique 1 mm grid with a ventricle that begins ``gap_mm`` beyond the plane x = 0.5 of the
    grid, and the cortex far away."""
    matrix = rigid((11, -7, 23), (5.0, -8.0, 12.0))
    grid = hd.Volume(
        np.full((40, 30, 24), Label.WHITE_MATTER, dtype=np.uint8),
        affine=matrix,
        coordinate_system="PATIENT",
    )
    x = np.arange(40, dtype=np.float32)[:, None, None] - 20.0
    # distance between centres: a gap of 0 has the next voxel in the ventricle
    distance = np.broadcast_to(np.maximum(gap_mm + 1.0 - x, 0.0), grid.spatial_shape)
    return PatientAnatomy(
        labels=grid,
        ventricles=grid.with_array(distance == 0),
        cortex=grid.with_array(np.zeros(grid.spatial_shape, dtype=bool)),
        ventricle_mm=grid.with_array(distance.astype(np.float32)),
        cortex_mm=grid.with_array((20.0 + distance).astype(np.float32)),
    )


@pytest.mark.parametrize("gap", [0.0, 1.0, 1.4, 1.6, 4.0])
def test_contact_is_a_gap_of_at_most_the_limit_between_the_outer_faces(gap: float) -> None:
    anatomy = _slab_anatomy(gap)
    # voxels of 3 × 0.5 × 2 mm whose last one ends at the plane x = 0.5 of the anatomy's grid
    affine = anatomy.labels.affine.copy()
    affine[:3, :3] = affine[:3, :3] * np.array([3.0, 0.5, 2.0])
    index = np.array([[20.5 - 1.5 - 3.0 * n, 15.0, 12.0] for n in range(2)])
    centres = index @ anatomy.labels.affine[:3, :3].T + anatomy.labels.affine[:3, 3]
    place = place_of(body_points(centres, affine), anatomy, SETTINGS)
    assert place.distance_to_ventricle_mm == pytest.approx(gap, abs=0.01)
    assert place.distance_to_cortex_mm == pytest.approx(20.0 + gap, abs=0.01)
    touches = gap <= SETTINGS.periventricular_mm
    assert place.region == ("periventricular" if touches else "deep_white_matter")


def test_points_fill_the_voxels_evenly() -> None:
    affine = rigid((20, 5, -9), (1, 2, 3)) @ np.diag([3.3, 0.6, 1.0, 1.0])
    centres = np.array([[1.0, 2.0, 3.0], [9.0, -4.0, 2.0]])
    points = body_points(centres, affine)
    assert points.shape == (2 * 4, 3)
    assert points[:4].mean(axis=0) == pytest.approx(centres[0])
    steps = np.linalg.norm(np.diff(points[:4], axis=0), axis=1)
    assert steps == pytest.approx(np.full(3, 3.3 / 4))


# --- in the comparison ----------------------------------------------------------------------------


def test_the_patients_own_frame_is_taken_into_account() -> None:
    """A lesion in the pons of a patient who lies elsewhere than the template."""
    template_to_flair = np.eye(4)
    template_to_flair[:3, 3] = np.array([0, 28, -30]) - np.array([5.0, -9.0, 24.0])
    lesion = probability(CURRENT_GRID, [((5.0, -9.0, 24.0), 4.0)])
    assert follow(lesion, template_to_flair=template_to_flair).lesions[0].region == "infratentorial"
    assert follow(lesion).lesions[0].region != "infratentorial"


def test_a_resolved_lesion_has_the_region_of_its_place() -> None:
    template_to_flair = np.eye(4)
    template_to_flair[:3, 3] = np.array([0, 28, -30]) - np.array([5.0, -9.0, 24.0])
    result = follow([], [((5.0, -9.0, 24.0), 4.0)], template_to_flair=template_to_flair)
    assert [(one.change, one.region) for one in result.lesions] == [("resolved", "infratentorial")]


def test_images_without_a_brain_leave_the_distances_open() -> None:
    lesion = probability(CURRENT_GRID, [((5.0, -9.0, 24.0), 4.0)])
    found = follow(lesion).lesions[0]
    assert found.distance_to_ventricle_mm is None
    assert found.distance_to_cortex_mm is None


# --- a synthetic patient --------------------------------------------------------------------------


@dataclass(frozen=True)
class Synthetic:
    patient: SyntheticPatient
    truth: Truth
    brain: hd.Volume
    """bool on the current FLAIR's grid."""


@pytest.fixture(scope="module")
def synthetic() -> Synthetic:
    patient = make_patient()
    truth = truth_of(patient)
    anatomy = build_anatomy(patient.seed)
    depth = hd.Volume(anatomy.brain_depth_mm, anatomy.affine, coordinate_system="PATIENT")
    back = np.linalg.inv(truth.transforms["anatomy_to_flair"])
    flair = patient.current.acquisitions["flair"].volume
    inside = resample_to(depth, flair, back, outside=100.0).array < 0
    return Synthetic(patient, truth, flair.with_array(inside))


def _study(synthetic: Synthetic, roles: tuple[str, ...]) -> AlignedStudy:
    """The current study, with a template registration that errs by 3 degrees and 3 mm."""
    truth = synthetic.truth
    images = {role: synthetic.patient.current.acquisitions[role].volume for role in roles}
    error = rigid((2, -2, 1), (1.5, -2.0, 1.5))
    return aligned_study(
        {role: image.astype(np.float32) for role, image in images.items()},
        synthetic.brain,
        matrices={role: truth.transforms[f"{role}_to_flair"] for role in roles if role != "flair"},
        template_to_flair=error @ np.linalg.inv(truth.transforms["anatomy_to_flair"]),
    )


def _objects(labels: hd.Volume, lesions: Sequence[TrueLesion]) -> list[LesionObject]:
    present = labels.with_array((labels.array > 0).astype(np.float32))
    return [measure(np.argwhere(labels.array == one.number), present) for one in lesions]


def _resolved(synthetic: Synthetic) -> tuple[list[TrueLesion], Elsewhere]:
    """The resolved lesions, known in the prior study's frame and on its grid only."""
    truth, prior = synthetic.truth, synthetic.patient.prior
    assert truth.prior_labels is not None
    assert prior is not None
    lesions = [one for one in truth.lesions if one.change == "resolved"]
    flair = prior.acquisitions["flair"].volume.astype(np.float32)
    study = aligned_study({"flair": flair}, flair.with_array(np.ones(flair.spatial_shape, bool)))
    objects = _objects(truth.prior_labels, lesions)
    return lesions, Elsewhere(objects, study, truth.transforms["prior_flair_to_flair"])


@pytest.mark.parametrize("roles", [("flair", "t2", "t1"), ("flair", "t2")])
def test_every_region_of_the_synthetic_patient_is_right(
    synthetic: Synthetic, roles: tuple[str, ...]
) -> None:
    truth = synthetic.truth
    resolved, elsewhere = _resolved(synthetic)
    lesions = [*truth.present(), *resolved]
    objects = _objects(truth.labels, truth.present())
    places = locate(objects, _study(synthetic, roles), SETTINGS, elsewhere)
    assert len(resolved) == 2
    found = list(zip(lesions, places, strict=True))
    assert not [(one, place) for one, place in found if place.region != one.region]
    for lesion, place in found:
        assert place.distance_to_ventricle_mm is not None
        assert place.distance_to_cortex_mm is not None
        if lesion.region == "periventricular":
            assert place.distance_to_ventricle_mm <= SETTINGS.periventricular_mm
        elif lesion.region in ("juxtacortical", "deep_white_matter"):
            assert place.distance_to_ventricle_mm >= 4.0
        if lesion.region == "juxtacortical":
            assert place.distance_to_cortex_mm <= SETTINGS.juxtacortical_mm


# --- real patients --------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_regions_of_28_real_patients(open_ms: Path, template: PatientAnatomy) -> None:
    """MS lies around the ventricles; infratentorial lesions are few and small.

    Masks without images: the atlas itself stands for the patients (docs/evaluation.md)."""
    count: Counter[Region] = Counter()
    volume: Counter[Region] = Counter()
    patients = sorted((open_ms / "cross_sectional" / "MNI").glob("patient*"))
    periventricular = 0
    for patient in patients:
        regions = set()
        mask = read_volume(next(patient.glob("GOLD_STANDARD*")))
        for indices in mask_lesions(mask):
            region = place_of(_filled(indices, mask), template, SETTINGS).region
            regions.add(region)
            count[region] += 1
            volume[region] += len(indices)
        periventricular += "periventricular" in regions
    assert len(patients) == 28
    assert periventricular >= 27
    assert 0.6 < volume["periventricular"] / volume.total() < 0.9
    assert volume["infratentorial"] / volume.total() < 0.06
    assert 0.02 < count["infratentorial"] / count.total() < 0.12
    assert count["juxtacortical"] / count.total() < 0.5
    assert count["unspecified"] == 0


@pytest.mark.shared_data
def test_own_ventricles_and_cortex_of_a_real_patient(
    open_ms: Path, template: PatientAnatomy
) -> None:
    """The patient whose images are there: most lesions are where the atlas alone has them."""
    folder = open_ms / "cross_sectional" / "MNI" / "patient26"
    images = {
        role: read_volume(next(folder.glob(f"{name}_N4*")))
        for role, name in (("flair", "FLAIR"), ("t2", "T2"), ("t1", "T1"))
    }
    brain = images["flair"].with_array(images["t1"].array != images["t1"].array[0, 0, 0])
    study = aligned_study(images, brain)
    mask = read_volume(next(folder.glob("GOLD_STANDARD*")))
    lesions = mask_lesions(mask)
    objects = [measure(indices, mask) for indices in lesions]
    places = locate(objects, study, SETTINGS)
    alone = [place_of(_filled(one, mask), template, SETTINGS).region for one in lesions]
    assert all(place.distance_to_ventricle_mm is not None for place in places)
    assert all(place.distance_to_cortex_mm is not None for place in places)
    agree = sum(place.region == other for place, other in zip(places, alone, strict=True))
    assert agree / len(places) >= 0.75
    assert "periventricular" in {place.region for place in places}


def _filled(indices: np.ndarray, mask: hd.Volume) -> np.ndarray:
    affine = np.asarray(mask.affine)
    return body_points(indices @ affine[:3, :3].T + affine[:3, 3], affine)

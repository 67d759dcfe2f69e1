from __future__ import annotations

from collections import Counter
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest

from operators.longitudinal_comparator.lesions import find_lesions
from operators.longitudinal_comparator.regions import Atlas, load_atlas, region_of
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import Region
from tests.operators.longitudinal_comparator.scenes import CURRENT_GRID, follow, probability

SETTINGS = LongitudinalComparatorSettings()


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas()


def _ball(x: float, y: float, z: float, radius: float = 2.5) -> np.ndarray:
    """LPS points of a ball given in MNI coordinates (x right, y anterior, z superior)."""
    offsets = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets[np.linalg.norm(offsets, axis=1) <= radius]
    return offsets + np.array([-x, -y, z])


@pytest.mark.parametrize(
    ("x", "y", "z", "region"),
    [
        (22, -20, 26, "periventricular"),  # corona radiata, beside the body of the ventricle
        (-20, 32, 6, "periventricular"),  # before the frontal horn
        (-30, -48, 20, "periventricular"),  # beside the atrium
        (0, -28, -30, "infratentorial"),  # pons
        (24, -62, -36, "infratentorial"),  # cerebellar white matter
        (0, -42, -56, "infratentorial"),  # medulla
        (-8, -24, -14, "infratentorial"),  # midbrain
        (36, -30, 58, "juxtacortical"),  # below the central sulcus
        (-44, 24, 22, "juxtacortical"),  # inferior frontal
        (28, -6, 36, "deep_white_matter"),  # centrum semiovale
        (-27, 10, 34, "deep_white_matter"),
        (140, 0, 0, "unspecified"),
    ],
)
def test_places_that_an_anatomist_knows(
    atlas: Atlas, x: float, y: float, z: float, region: Region
) -> None:
    assert region_of(_ball(x, y, z), atlas, SETTINGS) == region
    # the template is symmetric, and so must the atlas be
    if region != "unspecified":
        assert region_of(_ball(-x, y, z), atlas, SETTINGS) == region


def test_the_volumes_of_the_parts_are_plausible(atlas: Atlas) -> None:
    ml = abs(np.linalg.det(atlas.affine_lps[:3, :3])) / 1000
    assert 10 < (atlas.ventricle_mm == 0).sum() * ml < 25
    assert 150 < atlas.infratentorial.sum() * ml < 260
    assert 350 < (atlas.cortex_mm == 0).sum() * ml < 900


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


@pytest.mark.shared_data
def test_regions_of_28_real_patients(open_ms: Path, atlas: Atlas) -> None:
    """MS lies around the ventricles; infratentorial lesions are few and small."""
    count: Counter[Region] = Counter()
    volume: Counter[Region] = Counter()
    patients = sorted((open_ms / "cross_sectional" / "MNI").glob("patient*"))
    periventricular = 0
    for patient in patients:
        (path,) = patient.glob("*GOLD_STANDARD*")
        image = nibabel.load(path)
        mask = hd.Volume(
            (np.asarray(image.dataobj) > 0).astype(np.float32),
            affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine,
            coordinate_system="PATIENT",
        )
        regions = set()
        for lesion in find_lesions(mask, 0.5, 3, 3.0):
            region = region_of(lesion.points, atlas, SETTINGS)
            regions.add(region)
            count[region] += 1
            volume[region] += lesion.volume_ml
        periventricular += "periventricular" in regions
    assert len(patients) == 28
    assert periventricular >= 27
    assert 0.6 < volume["periventricular"] / volume.total() < 0.9
    assert volume["infratentorial"] / volume.total() < 0.06
    assert 0.02 < count["infratentorial"] / count.total() < 0.12
    assert count["unspecified"] == 0

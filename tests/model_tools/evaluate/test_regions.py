"""Regions of lesions on an oblique, anisotropic grid."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model_tools.evaluate.metrics import lesions_of
from model_tools.evaluate.regions import region_counts, region_scores, regions_of
from operators.longitudinal_comparator.atlas import Label, load_atlas
from operators.longitudinal_comparator.patient_anatomy import template_anatomy
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings

SHAPE = (118, 150, 62)
SPACING = np.array([1.4, 1.3, 2.6])


def affine() -> np.ndarray:
    """Oblique, in template millimetres."""
    angle = 0.15
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * SPACING
    matrix[:3, 3] = np.array([0, 18, 5]) - matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def deepest(mask: np.ndarray) -> np.ndarray:
    """Template millimetres of the point farthest from a region's border."""
    labels = load_atlas().labels
    depth = ndimage.distance_transform_edt(mask)
    index = np.array(np.unravel_index(int(depth.argmax()), mask.shape))
    return labels.affine[:3, :3] @ index + labels.affine[:3, 3]


def ball(centre: np.ndarray, radius: float) -> np.ndarray:
    index = np.indices(SHAPE).reshape(3, -1)
    points = affine()[:3, :3] @ index + affine()[:3, 3:]
    return (np.linalg.norm(points - centre[:, None], axis=0) < radius).reshape(SHAPE)


@pytest.fixture(scope="module")
def places() -> dict[str, np.ndarray]:
    labels = load_atlas().labels.array
    ventricle = labels == Label.LATERAL_VENTRICLE
    white = labels == Label.WHITE_MATTER
    far = ndimage.distance_transform_edt(~(ventricle | (labels == Label.CORTEX)))
    return {
        "infratentorial": deepest(labels == Label.INFRATENTORIAL),
        "periventricular": deepest(ventricle),
        "deep_white_matter": deepest(white & (far > 7)),
    }


def test_lesions_get_the_applications_regions(places: dict[str, np.ndarray]) -> None:
    anatomy, settings = template_anatomy(load_atlas()), LongitudinalComparatorSettings()
    for name, centre in places.items():
        mask = ball(centre, 4.0)
        found = lesions_of(mask, mask, float(SPACING.prod()))
        assert regions_of(found, affine(), anatomy, settings) == [name]


def test_recall_precision_and_volume_by_region(places: dict[str, np.ndarray]) -> None:
    anatomy, settings = template_anatomy(load_atlas()), LongitudinalComparatorSettings()
    voxel = float(SPACING.prod())
    reference = ball(places["infratentorial"], 5.0) | ball(places["deep_white_matter"], 4.0)
    outlined = ball(places["infratentorial"], 4.0) | ball(places["periventricular"], 4.0)
    true, found = lesions_of(reference, outlined, voxel), lesions_of(outlined, reference, voxel)
    true_places = regions_of(true, affine(), anatomy, settings)
    found_places = regions_of(found, affine(), anatomy, settings)
    scores = region_scores(true, true_places, found, found_places)
    assert (scores["recall_infratentorial"], scores["precision_infratentorial"]) == (1, 1)
    assert (scores["count_deep_white_matter"], scores["recall_deep_white_matter"]) == (1, 0)
    assert (scores["outlined_count_periventricular"], scores["precision_periventricular"]) == (1, 0)
    assert np.isnan(scores["recall_juxtacortical"])
    assert scores["reference_ml_infratentorial"] == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.1)
    assert scores["outlined_ml_infratentorial"] < scores["reference_ml_infratentorial"]
    alone = region_counts(found, found_places)
    assert (alone["count_periventricular"], alone["count_deep_white_matter"]) == (1, 0)
    total = sum(value for key, value in alone.items() if key.startswith("ml_"))
    assert total == pytest.approx(outlined.sum() * voxel / 1000)

"""The metrics on masks whose answer is known, and against other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from model_tools.evaluate.metrics import CURVE_METRICS, lesions_of, scores, threshold_scores

SPACING = (0.7, 1.1, 3.2)
VOXEL = float(np.prod(SPACING))


def boxes(*corners: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> np.ndarray:
    mask = np.zeros((40, 36, 18), bool)
    for (a, b), (c, d), (e, f) in corners:
        mask[a:b, c:d, e:f] = True
    return mask


BIG = ((2, 12), (3, 13), (2, 8))
SMALL = ((20, 22), (20, 22), (10, 12))
FAR = ((30, 33), (30, 33), (14, 16))


def test_perfect_agreement() -> None:
    mask = boxes(BIG, SMALL)
    found = scores(mask, mask, SPACING)
    assert found["dice"] == found["f1"] == found["precision"] == found["recall"] == 1
    assert found["surface_mm"] == found["hausdorff95_mm"] == 0
    assert found["reference_ml"] == pytest.approx((600 + 8) * VOXEL / 1000)
    assert found["lesions"] == 2


def test_missed_and_false_lesions_and_their_sizes() -> None:
    found = scores(boxes(BIG, SMALL), boxes(BIG, FAR), SPACING)
    assert (found["recall"], found["precision"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["false_positives"] == 1
    assert found["count_3-30"] == 1
    assert found["recall_3-30"] == 0
    assert found["recall_500-"] == 1
    assert np.isnan(found["recall_100-500"])
    assert found["dice"] == pytest.approx(2 * 600 / (608 + 618))
    assert found["volume_difference_ml"] == pytest.approx(10 * VOXEL / 1000)


@pytest.mark.parametrize(("width", "hit"), [(1, True), (0, False)])
def test_a_tenth_of_the_lesion_must_overlap(width: int, hit: bool) -> None:
    reference = boxes(((0, 10), (0, 10), (0, 2)))
    outlined = boxes(((0, width), (0, 10), (0, 2)), ((0, 1), (0, 1), (0, 1)))
    assert lesions_of(reference, outlined, VOXEL).hit.tolist() == [hit]


def test_specks_are_no_lesions_and_corners_connect() -> None:
    mask = boxes(((0, 1), (0, 1), (0, 1)))
    assert len(lesions_of(mask, mask, 2.9).labels) == 0
    assert len(lesions_of(mask, mask, 3.0).labels) == 1
    diagonal = boxes(((0, 2), (0, 2), (0, 2)), ((2, 4), (2, 4), (2, 4)))
    assert len(lesions_of(diagonal, diagonal, VOXEL).labels) == 1


def test_empty_masks() -> None:
    nothing, something = boxes(), boxes(BIG)
    both = scores(nothing, nothing, SPACING)
    assert (both["dice"], both["f1"]) == (1, 1)
    assert np.isnan(both["volume_difference_percent"])
    missed = scores(something, nothing, SPACING)
    assert (missed["dice"], missed["recall"], missed["precision"], missed["f1"]) == (0, 0, 1, 0)
    assert np.isnan(missed["surface_mm"])


def test_ignored_voxels_count_nowhere() -> None:
    valid = ~boxes(FAR)
    found = scores(boxes(BIG), boxes(BIG, FAR), SPACING, valid)
    assert found["dice"] == found["precision"] == 1


def test_each_threshold_is_scored_as_its_mask_would_be() -> None:
    reference = boxes(BIG, SMALL)
    probability = np.where(boxes(BIG), 0.75, 0).astype(np.float32)
    probability[boxes(SMALL)] = 0.35
    probability[boxes(FAR)] = 0.55
    valid = ~boxes(((2, 4), (3, 5), (2, 4)))
    found = threshold_scores(reference, probability, VOXEL, valid, (0.2, 0.5, 0.7, 0.8))
    assert [round(found[t]["f1"], 3) for t in ("0.2", "0.5", "0.7", "0.8")] == [0.8, 0.5, 0.667, 0]
    for threshold, values in found.items():
        expected = scores(reference, probability > float(threshold), SPACING, valid)
        assert values == {name: expected[name] for name in CURVE_METRICS}


def test_surface_distance_equals_one_from_distance_transforms() -> None:
    reference = boxes(BIG)
    outlined = boxes(((4, 13), (3, 14), (3, 8)))

    def surface(mask: np.ndarray) -> np.ndarray:
        return mask & ~ndimage.binary_erosion(mask)

    one, two = surface(reference), surface(outlined)
    distances = np.concatenate(
        [
            ndimage.distance_transform_edt(~b, sampling=SPACING)[a]
            for a, b in ((one, two), (two, one))
        ]
    )
    found = scores(reference, outlined, SPACING)
    assert found["surface_mm"] == pytest.approx(distances.mean(), rel=1e-4)

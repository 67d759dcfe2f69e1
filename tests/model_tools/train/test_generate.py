"""Training volumes: the picture and its truth belong together, and a seed gives one volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_tools.train.generate import (
    IGNORE,
    Sources,
    contrasts,
    make_volume,
    patient_lesions,
    synthetic,
    transplanted,
)
from model_tools.train.lesions import add_blobs, strata_points, subset
from model_tools.train.resample import about_centre, along, rotation, sample, slice_matrix


def test_slices_are_averaged_and_interpolated_back():
    operator = slice_matrix(60, 1.0, 3.0, 3.0)
    assert np.allclose(operator.sum(1), 1, atol=1e-5)
    ramp = torch.arange(60.0)[None, :, None, None].expand(1, 60, 2, 2)
    inner = along(ramp, operator, 0)[0, 3:56, 0, 0]
    assert np.allclose(inner, np.arange(3, 56), atol=1e-3)
    # A one-voxel plate in the middle of a slice is spread over it: a third of the contrast.
    plate = torch.zeros(1, 60, 2, 2)
    plate[0, 31] = 1.0
    seen = along(plate, operator, 0)[0, :, 0, 0]
    assert float(seen.max()) == pytest.approx(1 / 3, abs=0.01)
    assert float(seen.sum()) == pytest.approx(1.0, abs=0.05)


def test_rotation_and_its_transpose_give_the_volume_back():
    volume = torch.zeros(1, 30, 36, 33)
    volume[0, 12:18, 15:25, 10:20] = 1.0
    turn = rotation(np.array([0.2, -0.1, 0.15]))
    shape = (30, 36, 33)
    there = sample(volume, about_centre(turn, shape, shape), shape)
    back = sample(there, about_centre(turn.T, shape, shape), shape)
    assert float(back.sum()) == pytest.approx(float(volume.sum()), rel=0.01)
    assert float((back[0, 13:17, 17:23, 12:18] - 1).abs().max()) < 0.1


@pytest.mark.parametrize("volume", [60.0, 400.0, 1500.0])
def test_a_blob_has_the_volume_that_was_asked_for(volume: float):
    regions = np.zeros((50, 50, 50), np.uint8)
    regions[24:26, 24:26, 24:26] = 4
    errors = []
    for seed in range(6):
        occupancy = torch.zeros(50, 50, 50)
        add_blobs(occupancy, regions, 1, (volume, volume * 1.0001), np.random.default_rng(seed))
        errors.append(float((occupancy >= 0.5).sum()) / volume - 1)
    assert abs(np.mean(errors)) < 0.12


def test_a_subset_keeps_whole_lesions_up_to_the_load(sources: Sources):
    mask = sources.masks["patient99"]
    small = subset(mask, 0.03, np.random.default_rng(1))
    assert small.sum() == 27
    assert subset(mask, 5.0, np.random.default_rng(1)).sum() == mask.sum()


def test_a_patients_lesions_keep_their_load_and_are_mirrored_in_half_of_all_draws(
    sources: Sources,
):
    mask = sources.masks["patient99"]
    drawn = [patient_lesions(sources.masks, 30.0, np.random.default_rng(n)) for n in range(20)]
    same = sum(np.array_equal(one, mask) for one in drawn)
    mirrored = sum(np.array_equal(one, mask[..., ::-1]) for one in drawn)
    assert same + mirrored == 20
    assert 4 <= same <= 16


def test_some_lesions_are_hardly_seen_on_t2():
    tables = {
        faint: np.array([contrasts(np.random.default_rng(n), 1.15, 1.4, faint) for n in range(40)])
        for faint in (False, True)
    }
    flair, t2, t1 = (
        {faint: found[:, channel, 1].mean() for faint, found in tables.items()}
        for channel in range(3)
    )
    assert t2[False] - t2[True] > 0.3
    assert t2[True] > 1.2
    assert abs(flair[False] - flair[True]) < 0.1
    assert abs(t1[False] - t1[True]) < 0.1


def test_transplanted_lesions_are_bright_where_the_truth_is(sources: Sources):
    background = sources.backgrounds["99_1"]
    found = 0
    for seed in range(5):
        made = transplanted(
            sources, background, np.random.default_rng(seed), augment=False, load_ml=1.0
        )
        lesion = made.label == 1
        inside = made.image[0] != 0
        assert lesion.sum() > 0
        assert inside[lesion].all()
        flair = made.image[0].astype(np.float32)
        assert np.median(flair[lesion]) > np.percentile(flair[inside & ~lesion], 85)
        assert abs(float(flair[inside].mean())) < 0.01
        assert float(flair[inside].std()) == pytest.approx(1, abs=0.01)
        found += int(lesion.sum())
    assert found > 300


def test_a_synthetic_truth_is_the_half_of_the_partial_volume(sources: Sources):
    made = synthetic(sources, np.random.default_rng(3), shape=(64, 70, 66))
    lesion = made.label == 1
    assert lesion.sum() > 20
    assert not (made.label == IGNORE).any()
    flair = made.image[0].astype(np.float32)
    normal = (flair != 0) & ~lesion
    assert np.median(flair[lesion]) > np.median(flair[normal])


def test_the_same_index_gives_the_same_volume(sources: Sources):
    one = make_volume(sources, 7, 3, shape=(64, 64, 64))
    two = make_volume(sources, 7, 3, shape=(64, 64, 64))
    other = make_volume(sources, 7, 4, shape=(64, 64, 64))
    assert one.name == two.name
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.label, two.label)
    assert one.label.shape != other.label.shape or not np.array_equal(one.image, other.image)


def test_sampling_points_lie_in_lesions_of_their_size():
    label = np.zeros((40, 40, 40), np.uint8)
    label[2:5, 2:5, 2:5] = 1  # 27 mm3
    label[10:16, 10:16, 10:16] = 1  # 216 mm3
    label[20:35, 20:35, 20:35] = 1  # 3375 mm3
    points = strata_points(label, np.ones(label.shape, bool), np.random.default_rng(0))
    assert len(points["small"]) == len(points["medium"]) == len(points["large"]) == 1
    assert (points["small"][0] < 5).all()
    assert (points["large"][0] >= 20).all()
    assert all(label[tuple(p)] for p in points["volume"])

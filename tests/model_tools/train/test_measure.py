"""The comparator, the choice of the threshold, and the model card's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_tools.train.card import model_card
from model_tools.train.classical import lesion_growth, without_bias
from model_tools.train.generate import Sources, transplanted
from model_tools.train.measure import best_threshold, measure
from model_tools.train.score import score


def _scores(dice: float, f1: float) -> dict[str, float]:
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:8, 2:8, 2:8] = 1
    return score((label == 1).astype(np.float32), label) | {"dice": dice, "f1": f1}


def test_the_threshold_is_the_one_nearest_to_half_of_the_best():
    values = {"0.2": 0.60, "0.3": 0.62, "0.4": 0.618, "0.5": 0.615, "0.6": 0.4}
    table = {"a": {t: _scores(v, v) for t, v in values.items()}}
    assert best_threshold(table) == 0.5
    values = {"0.2": 0.7, "0.3": 0.62, "0.4": 0.5}
    assert best_threshold({"a": {t: _scores(v, v) for t, v in values.items()}}) == 0.2


def test_measure_scores_each_threshold_and_can_leave_out_t1(sources: Sources, tmp_path: Path):
    made = transplanted(
        sources, sources.backgrounds["99_1"], np.random.default_rng(1), augment=False, load_ml=1
    )
    made.save(tmp_path, "transplanted-0")
    seen = []

    def predict(tile: np.ndarray) -> np.ndarray:
        seen.append(float(np.abs(tile[:, 2]).max()))
        return np.stack([np.zeros_like(tile[:, 0]), 4 * (tile[:, 0] - 1.5)], 1)

    table = measure(predict, tmp_path, ["transplanted-0"], size=32, step=0.5, thresholds=(0.3, 0.6))
    rows = table["transplanted-0"]
    assert list(rows) == ["0.3", "0.6"]
    assert rows["0.3"]["predicted_ml"] >= rows["0.6"]["predicted_ml"] > 0
    assert rows["0.6"]["dice"] > 0.3
    assert max(seen) > 0
    seen.clear()
    measure(predict, tmp_path, ["transplanted-0"], size=32, step=0.5, without_t1=True)
    assert max(seen) == 0


def test_lesion_growth_finds_a_bright_lesion_and_no_cortex():
    rng = np.random.default_rng(3)
    shape = (48, 50, 46)
    flair = np.zeros(shape, np.float32)
    flair[4:-4, 4:-4, 4:-4] = rng.normal(1.0, 0.03, (40, 42, 38))
    white = np.zeros(shape, np.float32)
    white[14:-14, 14:-14, 14:-14] = 1.0
    grey = (flair > 0) * (1 - white)
    flair[grey > 0] += 0.1
    lesion = np.zeros(shape, bool)
    lesion[22:27, 22:27, 20:26] = True
    flair[lesion] = 1.6
    found = lesion_growth(flair, white, grey.astype(np.float32))
    assert 2 * (found & lesion).sum() / (found.sum() + lesion.sum()) > 0.8
    assert not found[grey > 0].any()


def test_a_bias_field_is_taken_out():
    shape = (56, 64, 60)
    rng = np.random.default_rng(5)
    place = np.indices(shape).astype(np.float32)
    distance = np.sqrt(sum(((place[a] - n / 2) / (0.42 * n)) ** 2 for a, n in enumerate(shape)))
    brain = distance < 1
    tissue = np.where(distance < 0.75, 1.0, 1.3) + rng.normal(0, 0.02, shape)
    field = np.exp(0.35 * (place[1] / shape[1] - 0.5) + 0.2 * (place[2] / shape[2] - 0.5))
    flair = np.where(brain, 100 * tissue * field, 0).astype(np.float32)
    found = without_bias(flair, brain)
    inner = distance < 0.7

    def spread(image: np.ndarray) -> float:
        return float(image[inner].std() / image[inner].mean())

    assert spread(flair) > 0.05
    assert spread(found) < 0.5 * spread(flair)
    assert found[brain].min() > 0


@pytest.mark.parametrize("drop", [None, "t1"])
def test_the_card_tells_what_was_measured(drop: str | None):
    def rows(dice: float) -> dict[str, dict[str, float]]:
        return {"0.4": _scores(dice, 0.5), "0.5": _scores(0.01, 0.01)}

    measures = {
        "threshold": 0.4,
        "steps": 123,
        "fold_0": {"real-0": rows(0.71), "transplanted-0": rows(0.62)},
        "fold_0_without_t1": {"real-0": rows(0.66)},
        "trunk": {"real-0": rows(0.73)},
        "ensemble": {"transplanted-0": rows(0.64), "synthetic-0": rows(0.55)},
        "ensemble_without_t1": {"transplanted-0": rows(0.58)},
        "classical": {"real-0": _scores(0.72, 0.6), "transplanted-0": _scores(0.31, 0.2)},
    }
    card = model_card(measures, "brain_test", 5, drop)
    for value in ("0.71", "0.66", "0.73", "0.64", "0.58", "0.55", "0.72", "0.31", "123 steps"):
        assert value in card
    assert "0.01" not in card
    assert "Not a medical device" in card
    assert ("FLAIR and T2." in card) == (drop == "t1")
    assert ("exactly equal" in card) == (drop == "t1")
    assert "began with" not in card
    start = "brain_ms 0.2.0 (0123456789ab), member 0"
    assert start in model_card({**measures, "start": start}, "brain_test", 5, drop)

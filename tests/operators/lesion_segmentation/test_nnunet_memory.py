"""The memory that the inference takes beside the engine, against the stated formula."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from operators.lesion_segmentation.model_description import ModelDescription
from operators.lesion_segmentation.nnunet import peak_bytes, predict
from operators.lesion_segmentation.tiling import sum_on_host

PATCH = (32, 32, 32)


def _description(channels: int, labels: int, spacing: tuple[float, ...]) -> ModelDescription:
    return ModelDescription.model_validate(
        {
            "schema_version": "1.1",
            "name": "memory",
            "version": "0",
            "body_site": "brain",
            "channels": [
                {"role": f"role {c}", "normalisation": "zscore_in_mask"} for c in range(channels)
            ],
            "labels": {"background": 0} | {f"label {n}": n for n in range(1, labels)},
            "target_labels": ["label 1"],
            "preprocessing": "nnunet",
            "resampling": {},
            "networks": [{"spacing_zyx_mm": spacing, "patch_size_zyx": PATCH}],
            "folds": 1,
            "averaging": "logits",
            "source": "none",
            "licence": "none",
            "files": {"ensemble.onnx": "0"},
        }
    )


@pytest.mark.parametrize(
    ("shape", "spacing", "target", "channels", "labels"),
    [
        ((120, 150, 110), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 3, 2),
        ((40, 160, 140), (3.0, 0.8, 0.8), (1.0, 1.0, 1.0), 1, 2),
        ((60, 64, 56), (2.0, 2.0, 2.0), (1.1, 1.0, 1.2), 3, 3),
    ],
)
def test_a_large_volume_stays_within_the_formula(
    shape, spacing, target, channels: int, labels: int
) -> None:
    description = _description(channels, labels, target)
    rng = np.random.default_rng(0)
    image = rng.uniform(1, 2, (channels, *shape)).astype(np.float32)
    answer = np.zeros((1, labels, *PATCH), dtype=np.float32)
    tracemalloc.start()
    predict(image, spacing, description, lambda _: sum_on_host(lambda _: answer.copy(), labels))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stated = peak_bytes(shape, spacing, description)
    assert peak <= stated
    # and the formula is no empty promise
    assert peak >= 0.4 * stated

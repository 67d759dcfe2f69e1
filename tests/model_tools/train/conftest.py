"""A tiny made-up anatomy for the training tools."""

from __future__ import annotations

import numpy as np
import pytest

from model_tools.train.atlas import DEEP, Atlas
from model_tools.train.backgrounds import Background
from model_tools.train.generate import Sources

SHAPE = (40, 52, 46)


def ellipsoid(shape: tuple[int, int, int], radii: tuple[float, float, float]) -> np.ndarray:
    """Fraction-like float32 ellipsoid about the centre of a grid."""
    grid = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    distance = np.sqrt(sum((grid[a] / radii[a]) ** 2 for a in range(3)))
    return np.clip(0.5 + (1 - distance) * min(radii), 0, 1).astype(np.float32)


@pytest.fixture(scope="session")
def sources() -> Sources:
    """A brain of white matter in a grey shell, one patient's lesions, one thick-slice study."""
    brain = ellipsoid(SHAPE, (17, 22, 19))
    white = ellipsoid(SHAPE, (14, 19, 16))
    ventricles = ellipsoid(SHAPE, (4, 7, 3))
    white = np.clip(white - ventricles, 0, 1)
    grey = np.clip(brain - white - ventricles, 0, 1)
    regions = np.where(white > 0.9, DEEP, 0).astype(np.uint8)
    centre = tuple((n - 1) / 2 for n in SHAPE)
    atlas = Atlas(brain * 0.5, grey, white, brain, ventricles, regions, centre)
    mask = np.zeros(SHAPE, np.uint8)
    mask[17:22, 38:44, 20:26] = 1
    mask[24:27, 14:17, 12:15] = 1
    rng = np.random.default_rng(0)
    tissue = np.stack(
        [
            1.1 * grey + white + 0.2 * ventricles,
            1.4 * grey + white + 3 * ventricles,
            0.8 * grey + white + 0.3 * ventricles,
        ]
    ).astype(np.float32)
    images = 300 * tissue + rng.normal(0, 3, tissue.shape).astype(np.float32) * (brain > 0.5)
    background = Background(
        images.astype(np.float32),
        np.full_like(images, 300.0),
        (brain > 0.5).astype(np.float32),
        np.zeros(SHAPE, np.float32),
        np.clip(ventricles, 0, 1),
        np.eye(4),
        np.array([[3.0, 2.7], [3.3, 3.0], [1.0, 1.0]], np.float32),
    )
    return Sources(atlas, {"patient99": mask}, {"99_1": background})

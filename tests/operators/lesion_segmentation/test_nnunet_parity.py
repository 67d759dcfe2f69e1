"""The application's inference against nnU-Net v2's own predictor, on folders imported on the spot.

nnU-Net adds up tiles in half precision, with weights that end near the smallest half number at a
tile's edges; its answer at the outermost voxels of the crop is therefore coarse. Dice is taken in
the brain, which is what the application uses; probabilities are compared everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model_tools.importing.options import ImportOptions
from model_tools.importing.package import import_package
from operators.lesion_segmentation.engine import open_engine
from operators.lesion_segmentation.model_package import ModelPackage
from operators.lesion_segmentation.nnunet import Answer, predict
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.lesion_segmentation.tiling import tile_sum_of
from tests.operators.lesion_segmentation.nnunet_reference import (
    CASCADE,
    FULL,
    LOW,
    Architecture,
    brain_image,
    dice,
    make_network,
    plans,
    random_network,
    reference_prediction,
    with_share,
    write_result_folder,
)

ISOTROPIC = ((40, 52, 44), (1.0, 1.0, 1.0))
THICK = ((14, 74, 62), (3.0, 0.7, 0.7))
PATCH = (24, 32, 24)
SPACING = (1.0, 1.0, 1.0)
LOW_SPACING = (1.6, 1.5, 1.7)


def _settings(precision: str) -> LesionSegmentationSettings:
    return LesionSegmentationSettings.model_validate(
        {"engine": "openvino", "precision": precision, "threads": 1}
    )


def _predict(
    package: ModelPackage,
    image: np.ndarray,
    spacing: tuple[float, ...],
    precision: str = "fp32",
    wanted: np.ndarray | None = None,
) -> Answer:
    description = package.description
    settings = _settings(precision)
    return predict(
        image,
        spacing,
        description,
        lambda network: tile_sum_of(
            open_engine(package, settings, network=network), len(description.labels)
        ),
        wanted,
    )


def _random_networks(
    plan: dict, folds: int, image: np.ndarray, channels: int = 2, labels: int = 2
) -> list[torch.nn.Module]:
    """Folds with random weights that resemble each other, each calling a part of it lesion."""
    architecture = plan["configurations"][FULL]["architecture"]
    patch = _normalised(image)
    middle = (
        slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(patch.shape[1:], PATCH, strict=True)
    )
    patch = patch[(slice(None), *middle)]
    if channels > len(patch):
        patch = np.concatenate([patch, np.zeros((channels - len(patch), *PATCH), np.float32)])
    first = random_network(architecture, channels, labels, seed=0)
    networks = []
    for fold in range(folds):
        network = random_network(architecture, channels, labels, seed=fold)
        with torch.no_grad():
            for own, common in zip(network.parameters(), first.parameters(), strict=True):
                own.copy_(0.15 * own + 0.85 * common)
        networks.append(with_share(network, patch, 0.2))
    return networks


@pytest.mark.parametrize(
    ("kind", "case", "folds", "mirror"),
    [
        ("plain", ISOTROPIC, 1, (0, 1, 2)),
        ("plain", THICK, 5, ()),
        ("resenc", ISOTROPIC, 5, ()),
        ("resenc", THICK, 1, (0, 2)),
    ],
)
def test_random_weights(
    tmp_path: Path, kind: Architecture, case: tuple, folds: int, mirror: tuple[int, ...]
) -> None:
    shape, spacing = case
    image, _ = brain_image(shape, spacing)
    plan = plans(kind, PATCH, SPACING)
    folder = write_result_folder(
        tmp_path, plan, _random_networks(plan, folds, image), mirror_axes=mirror or None
    )
    package = import_package(folder, tmp_path / "p", ImportOptions(mirror=bool(mirror)))
    assert (package.description.folds, package.description.mirror_axes) == (folds, mirror)
    segmentation, probabilities = reference_prediction(folder, image, spacing, mirror=bool(mirror))
    _assert_equal(_predict(package, image, spacing), segmentation, probabilities, image)
    # in what the processor does best (bf16 where it has it)
    fast = _predict(package, image, spacing, "auto")
    _assert_equal(fast, segmentation, probabilities, image, 0.995)


def _normalised(image: np.ndarray) -> np.ndarray:
    """Roughly what the network will see, at least as large as a patch; to set a bias by."""
    result = np.zeros_like(image)
    for channel, values in enumerate(image):
        inside = values != 0
        result[channel][inside] = (values[inside] - values[inside].mean()) / values[inside].std()
    missing = [max(0, p - n) for p, n in zip(PATCH, image.shape[1:], strict=True)]
    return np.pad(result, [(0, 0), *((m // 2, m - m // 2) for m in missing)])


def _assert_equal(
    answer: Answer,
    segmentation: np.ndarray,
    probabilities: np.ndarray,
    image: np.ndarray,
    least: float = 0.999,
) -> None:
    brain = (image != 0).any(axis=0)
    assert 0.02 < (segmentation[brain] > 0).mean() < 0.5
    assert answer.probabilities.shape == probabilities.shape
    found = answer.probabilities.argmax(axis=0)
    assert dice(found[brain] > 0, segmentation[brain] > 0) >= least
    if least >= 0.999:
        assert np.abs(answer.probabilities - probabilities).mean() <= 1e-3


@pytest.mark.parametrize(
    ("case", "folds", "mirror"), [(ISOTROPIC, 1, (1,)), (THICK, 5, ())], ids=["1mm", "thick"]
)
def test_a_cascade(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple,
    folds: int,
    mirror: tuple[int, ...],
) -> None:
    """With random weights each stage has voxels at the brink, which nnU-Net's half precision
    tips, and the second stage builds on them. So nnU-Net adds up in fp32 here, and then all is
    equal; without that change the two still agree but for those voxels."""
    shape, spacing = case
    image, _ = brain_image(shape, spacing)
    plan = plans("plain", PATCH, SPACING, cascade_spacing=LOW_SPACING)
    low, full = (
        write_result_folder(
            tmp_path,
            plan,
            _random_networks(plan, folds, image, channels=channels),
            configuration=configuration,
            mirror_axes=mirror or None,
        )
        for configuration, channels in ((LOW, 2), (CASCADE, 3))
    )
    package = import_package(full, tmp_path / "p", ImportOptions(mirror=bool(mirror)))
    assert [n.stage for n in package.description.networks] == ["lowres", "fullres"]
    answer = _predict(package, image, spacing)

    def reference(previous: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return reference_prediction(full, image, spacing, mirror=bool(mirror), previous=previous)

    first, _ = reference_prediction(low, image, spacing, mirror=bool(mirror))
    segmentation, probabilities = reference(first)
    _assert_equal(answer, segmentation, probabilities, image, 0.997)
    monkeypatch.setattr(torch, "half", torch.float32)
    first, _ = reference_prediction(low, image, spacing, mirror=bool(mirror))
    segmentation, probabilities = reference(first)
    _assert_equal(answer, segmentation, probabilities, image)
    # the first stage matters, or the test would not see a wrong one
    without, _ = reference(np.zeros_like(first))
    assert dice(without > 0, segmentation > 0) < 0.99


def _trained(
    plan: dict, seed: int, steps: int = 120, case: tuple = ISOTROPIC, channels: int = 2
) -> torch.nn.Module:
    """A network that has learned to find the bright spheres; a third channel is a segmentation
    that is off by a voxel, as a first stage's may be."""
    torch.manual_seed(seed)
    network = make_network(plan["configurations"][FULL]["architecture"], channels, 2)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    rng = np.random.default_rng(seed)
    weight = torch.tensor([1.0, 3.0])
    for step in range(steps):
        if step % 10 == 0:
            image, lesions = brain_image(*case, seed=1000 * seed + step)
            image = _normalised(image)
            if channels > 2:
                previous = np.roll(lesions, (1, -1), (1, 2)).astype(np.float32)
                image = np.concatenate([image, previous[None]])
        corner = [rng.integers(0, n - p + 1) for n, p in zip(lesions.shape, PATCH, strict=True)]
        where = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
        loss = torch.nn.functional.cross_entropy(
            network(torch.from_numpy(image[(slice(None), *where)][None].copy())),
            torch.from_numpy(lesions[where][None].astype(np.int64)),
            weight,
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def test_trained_weights_and_tiles_left_out(tmp_path: Path) -> None:
    shape, spacing = THICK
    image, lesions = brain_image(shape, spacing, seed=7)
    plan = plans("plain", PATCH, SPACING)
    networks = [_trained(plan, seed) for seed in range(2)]
    folder = write_result_folder(tmp_path, plan, networks, mirror_axes=(2,))
    package = import_package(folder, tmp_path / "p", ImportOptions(mirror=True))
    segmentation, probabilities = reference_prediction(folder, image, spacing, mirror=True)
    # it is a segmentation worth comparing
    assert dice(segmentation > 0, lesions) > 0.6
    answer = _predict(package, image, spacing)
    _assert_equal(answer, segmentation, probabilities, image)
    # in what the processor does best (bf16 where it has it)
    _assert_equal(
        _predict(package, image, spacing, "auto"), segmentation, probabilities, image, 0.995
    )
    # a part of the volume is answered the same from fewer tiles
    part = np.zeros(shape, dtype=bool)
    part[:3, :12, :12] = True
    less = _predict(package, image, spacing, wanted=part)
    np.testing.assert_allclose(
        less.probabilities[:, part], answer.probabilities[:, part], atol=1e-6
    )
    assert (less.probabilities[1, ~part] == 0).all()
    assert (less.probabilities[0, ~part] == 1).all()


def test_a_trained_cascade_on_thick_slices_equals_the_unchanged_predictor(tmp_path: Path) -> None:
    """Trained weights are sure of most voxels, so that nnU-Net's half precision tips none that its
    second stage would build on; see ``test_a_cascade``."""
    shape, spacing = THICK
    image, lesions = brain_image(shape, spacing, seed=7)
    plan = plans("plain", PATCH, SPACING, cascade_spacing=LOW_SPACING)
    coarse = _trained(plan, 3, case=((26, 36, 28), LOW_SPACING))
    low = write_result_folder(tmp_path, plan, [coarse], configuration=LOW, mirror_axes=None)
    fine = _trained(plan, 4, channels=3)
    full = write_result_folder(tmp_path, plan, [fine], configuration=CASCADE, mirror_axes=None)
    package = import_package(full, tmp_path / "p", ImportOptions())
    first, _ = reference_prediction(low, image, spacing, mirror=False)
    segmentation, probabilities = reference_prediction(
        full, image, spacing, mirror=False, previous=first
    )
    assert dice(first > 0, lesions) > 0.4
    assert dice(segmentation > 0, lesions) > 0.6
    _assert_equal(_predict(package, image, spacing), segmentation, probabilities, image)
    fast = _predict(package, image, spacing, "auto")
    _assert_equal(fast, segmentation, probabilities, image, 0.995)

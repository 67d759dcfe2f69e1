"""The application's inference against nnU-Net 1.7.1: its network, preprocessing and averaging."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import torch

from model_tools.importing.options import ImportOptions
from model_tools.importing.package import import_package
from operators.lesion_segmentation.engine import open_engine
from operators.lesion_segmentation.nnunet import predict
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.lesion_segmentation.tiling import tile_sum_of
from tests.model_tools.importing.builders import v1_network, v1_plans, write_v1
from tests.operators.lesion_segmentation.nnunet_reference import brain_image, dice

SHAPE, SPACING = (11, 44, 38), (2.6, 0.9, 0.7)
FOLDS = (0, 1)


def _reference(folder: Path, plans: dict, image: np.ndarray) -> np.ndarray:
    """Mean softmax (labels, z, y, x) over folds and mirrors, back on the image's grid."""
    from nnunet.preprocessing.cropping import crop_to_nonzero
    from nnunet.preprocessing.preprocessing import GenericPreprocessor, resample_data_or_seg

    stage = plans["plans_per_stage"][0]
    with contextlib.redirect_stdout(io.StringIO()):
        data, seg, box = crop_to_nonzero(image.copy(), None, -1)
        preprocessor = GenericPreprocessor(
            plans["normalization_schemes"], plans["use_mask_for_norm"], [0, 1, 2]
        )
        cropped = data.shape[1:]
        data, _, _ = preprocessor.resample_and_normalize(
            data, stage["current_spacing"], {"original_spacing": np.asarray(SPACING)}, seg
        )
        total = np.zeros((2, *data.shape[1:]))
        for fold in FOLDS:
            network = v1_network(plans, 0)
            path = folder / f"fold_{fold}/model_final_checkpoint.model"
            network.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
            network.inference_apply_nonlin = lambda x: torch.softmax(x, 1)
            _, softmax = network.predict_3D(
                data.astype(np.float32),
                do_mirroring=True,
                mirror_axes=(0, 1, 2),
                use_sliding_window=True,
                step_size=0.5,
                patch_size=tuple(int(n) for n in stage["patch_size"]),
                use_gaussian=True,
                verbose=False,
                mixed_precision=False,
            )
            total += softmax / len(FOLDS)
        back = resample_data_or_seg(total, cropped, False, [0], 1, True, 0)
    whole = np.zeros((2, *SHAPE))
    whole[0] = 1
    whole[(slice(None), *(slice(low, high) for low, high in box))] = back
    return whole


def test_folds_and_mirrors_are_averaged_as_softmax(tmp_path: Path) -> None:
    image, _ = brain_image(SHAPE, SPACING)
    plans = v1_plans()
    plans["plans_per_stage"][0]["patch_size"] = np.array([8, 32, 24])
    folder = write_v1(tmp_path / "Task500_MS", folds=FOLDS, plans=plans)
    package = import_package(folder, tmp_path / "p", ImportOptions(mirror=True))
    description = package.description
    assert (description.averaging, description.mirror_axes) == ("softmax", (0, 1, 2))
    expected = _reference(folder, plans, image)
    settings = LesionSegmentationSettings(engine="openvino", precision="fp32", threads=1)
    answer = predict(
        image,
        SPACING,
        description,
        lambda network: tile_sum_of(open_engine(package, settings, network=network), 2),
    ).probabilities
    brain = (image != 0).any(axis=0)
    lesion = expected[1] > expected[0]
    assert 0.05 < lesion[brain].mean() < 0.95
    assert dice(answer[1][brain] > 0.5, lesion[brain]) >= 0.999
    assert np.abs(answer - expected).mean() <= 1e-3

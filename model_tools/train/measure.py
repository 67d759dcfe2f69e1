"""Measure networks on the validation volumes: the numbers of the model card.

The threshold is chosen on the transplanted volumes, whose background no network has seen; the real
case is scored with networks that have not seen it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import SimpleITK as sitk  # noqa: N813
import torch
from scipy import ndimage
from torch import nn

from model_tools.export import Ensemble, read_result_folder
from model_tools.train.atlas import load_atlas, load_case
from model_tools.train.backgrounds import HELD_OUT, Background, register_atlas
from model_tools.train.classical import lesion_growth, without_bias
from model_tools.train.generate import crop
from model_tools.train.network import architecture, build_network
from model_tools.train.score import Predict, predict_volume, score

log = logging.getLogger(__name__)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def members(folder: Path) -> list[nn.Module]:
    """The networks of a result folder, in fold order."""
    found = read_result_folder(folder)
    result = []
    for weights in found.weights:
        network = build_network(found.arguments, len(found.channels), len(found.labels))
        network.load_state_dict(weights)
        result.append(network.eval())
    return result


def openvino_predictor(networks: list[nn.Module], size: int, channels: int = 3) -> Predict:
    """The mean of the networks' logits, in OpenVINO with bfloat16 as the application runs it."""
    example = torch.zeros(1, channels, size, size, size)
    model = openvino.convert_model(Ensemble(networks).eval(), example_input=example)
    model.reshape([1, channels, size, size, size])
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": 2}
    )

    def predict(tile: np.ndarray) -> np.ndarray:
        return np.array(compiled(tile)[0], dtype=np.float32)

    return predict


def measure(
    predict: Predict,
    folder: Path,
    names: Iterable[str],
    *,
    size: int,
    step: float,
    without_t1: bool = False,
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by volume and threshold.

    Parameters
    ----------
    predict
        The network; sees three channels.
    folder, names
        Validation volumes.
    size, step
        Tiles, see `predict_volume`.
    without_t1
        Set the T1 channel to 0.
    """
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        image = np.load(folder / f"{name}.image.npy")
        if without_t1:
            image[2] = 0
        label = np.load(folder / f"{name}.label.npy")
        probability = predict_volume(predict, image, size, step)
        result[name] = {f"{t:g}": score(probability, label, t) for t in thresholds}
        middle = result[name][f"{thresholds[len(thresholds) // 2]:g}"]
        log.info("%s: Dice %.3f, F1 %.3f", name, middle["dice"], middle["f1"])
    return result


def best_threshold(table: dict[str, dict[str, dict[str, float]]]) -> float:
    """The threshold nearest to one half among those that are as good as the best.

    Goodness is the mean of Dice and lesion-wise F1 over the volumes; a hundredth less counts as
    equal, because the optimum is flat: a lower threshold finds more, a higher one less wrongly.
    Half is where the network itself decides, so that no more is fitted than has to be.
    """
    names = list(next(iter(table.values())))
    means = {
        t: np.mean([(rows[t]["dice"] + rows[t]["f1"]) / 2 for rows in table.values()])
        for t in names
    }
    good = sorted(float(t) for t in names if means[t] >= max(means.values()) - 0.01)
    return min(good, key=lambda t: abs(t - 0.5))


def classical(data: Path, work: Path) -> dict[str, dict[str, float]]:
    """The comparator on the real and the transplanted validation volumes.

    Its priors are registered to each background, and the bias field is removed, as
    ``python -m model_tools evaluate -m classical`` does.
    """
    atlas = load_atlas()
    held = Background.load(work / "backgrounds" / f"{HELD_OUT}.npz")
    to_atlas: dict[str, tuple[Any, ...]] = {
        "transplanted": (held.to_atlas, held.brain.shape, crop(torch.from_numpy(held.brain)))
    }
    images, _, brain = load_case(data)
    hits = np.argwhere(brain > 0)
    box = tuple(slice(max(0, a - 4), b + 5) for a, b in zip(hits.min(0), hits.max(0), strict=True))
    matrix = register_atlas(
        sitk.GetImageFromArray(images[0]), sitk.GetImageFromArray(brain.astype(np.uint8)), atlas
    )
    to_atlas["real"] = (matrix, brain.shape, box)
    result = {}
    for path in sorted((work / "valid").glob("*.image.npy")):
        name = path.name.split(".")[0]
        kind = name.split("-")[0]
        if kind not in to_atlas:
            continue
        matrix, shape, window = to_atlas[kind]
        white, grey = (
            np.asarray(
                ndimage.affine_transform(
                    part, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1
                )[window],
                dtype=np.float32,
            )
            for part in (atlas.white, atlas.grey)
        )
        flair = np.load(path, mmap_mode="r")[0].astype(np.float32)
        inside = flair != 0
        positive = np.where(inside, flair - flair[inside].min() + 1.0, 0).astype(np.float32)
        flat = np.where(inside, without_bias(positive, inside), 0).astype(np.float32)
        found = lesion_growth(flat, white, grey).astype(np.float32)
        result[name] = score(found, np.load(work / "valid" / f"{name}.label.npy"))
    return result


def measure_all(data: Path, work: Path, size: int = 96, step: float = 0.5) -> Path:
    """Measure trunk, fold 0, ensemble and comparator; write WORK/measures.json.

    Only fold 0 and the trunk are scored on the real case, which the other folds have seen.

    Returns
    -------
    Path
        The file: scores by network, volume and threshold, and the chosen threshold.
    """
    valid = work / "valid"
    names = sorted(p.name.split(".")[0] for p in valid.glob("*.image.npy"))
    real = [n for n in names if n.startswith("real")]
    transplanted = [n for n in names if n.startswith("transplanted")]
    synthetic = [n for n in names if n.startswith("synthetic")]
    path = work / "measures.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def add(name: str, predict: Predict, volumes: list[str], without_t1: bool = False) -> None:
        if name not in content:
            content[name] = measure(
                predict, valid, volumes, size=size, step=step, without_t1=without_t1
            )
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    networks = members(work / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    single = openvino_predictor(networks[:1], size)
    add("fold_0", single, real + transplanted + synthetic)
    add("fold_0_without_t1", single, real, without_t1=True)
    ensemble = openvino_predictor(networks, size)
    add("ensemble", ensemble, transplanted + synthetic)
    add("ensemble_without_t1", ensemble, transplanted, without_t1=True)
    state = torch.load(work / "trunk.pth", map_location="cpu", weights_only=True)
    recipe = json.loads(state["recipe"])
    trunk = build_network(architecture(tuple(recipe["features"])))
    trunk.load_state_dict(state["average"])
    add("trunk", openvino_predictor([trunk.eval()], size), real)
    content["classical"] = classical(data, work)
    content["steps"] = int(state["step"])
    content["start"] = recipe.get("start", "")
    content["threshold"] = best_threshold({n: content["ensemble"][n] for n in transplanted})
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path

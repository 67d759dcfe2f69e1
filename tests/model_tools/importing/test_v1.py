"""nnU-Net v1 folders and the flat layout of releases."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_tools.importing.trained import Choice
from model_tools.importing.v1 import read_v1
from operators.errors import ConfigurationError
from tests.model_tools.importing.builders import v1_plans, write_v1


def test_a_folder_says_everything_about_the_model(tmp_path: Path) -> None:
    model = read_v1(write_v1(tmp_path / "Task500_MS" / "a", folds=(0, 1)), Choice())
    (stage,) = model.stages
    assert (stage.stage, stage.configuration, stage.folds) == ("fullres", "3d_fullres", ("0", "1"))
    assert (stage.spacing_mm, stage.patch, stage.divisor) == (
        (3.0, 0.7, 0.8),
        (4, 16, 12),
        (2, 4, 2),
    )
    assert [(c.name, c.normalisation) for c in model.channels] == [
        ("FLAIR", "zscore_in_mask"),
        ("T2", "zscore_in_mask"),
    ]
    assert model.labels == {"background": 0, "lesion": 1}
    assert (model.averaging, model.mirror_axes) == ("softmax", (0, 1, 2))
    assert (model.resampling.order_data, model.resampling.normalise_first) == (3, False)
    assert (model.dataset, model.architecture) == ("Task500_MS", "Generic_UNet")
    assert model.licence is None


def test_the_flat_layout_of_a_release_is_read(tmp_path: Path) -> None:
    model = read_v1(write_v1(tmp_path / "aims", folds=(0, 1, 2), flat=True), Choice())
    assert [path.name for path in model.stages[0].checkpoints] == ["0.model", "1.model", "2.model"]
    (tmp_path / "aims" / "1.model").unlink()
    with pytest.raises(ConfigurationError, match=r"fold 1 has no \{fold\}\.model"):
        read_v1(tmp_path / "aims", Choice())


def test_best_and_final_are_the_users_choice(tmp_path: Path) -> None:
    folder = write_v1(tmp_path / "a", checkpoint="model_best")
    with pytest.raises(ConfigurationError, match=r"no model_final_checkpoint\.model"):
        read_v1(folder, Choice())
    assert read_v1(folder, Choice(checkpoint="best")).stages[0].checkpoints[0].name == (
        "model_best.model"
    )


def test_several_labels_get_names(tmp_path: Path) -> None:
    folder = write_v1(tmp_path / "a", plans=v1_plans(labels=2))
    assert list(read_v1(folder, Choice()).labels) == ["background", "label_1", "label_2"]
    named = read_v1(folder, Choice(label_names=("core", "rim")))
    assert named.labels == {"background": 0, "core": 1, "rim": 2}
    with pytest.raises(ConfigurationError, match=r"2 labels.*--labels"):
        read_v1(folder, Choice(label_names=("core",)))


def test_plans_without_pooling_and_kernels_are_completed(tmp_path: Path) -> None:
    plans = v1_plans()
    stage = plans["plans_per_stage"][0]
    stage["conv_kernel_sizes"] = [[3, 3, 3]] * 3
    folder = write_v1(tmp_path / "a", plans=plans)
    expected = read_v1(folder, Choice()).stages[0]
    del stage["pool_op_kernel_sizes"], stage["conv_kernel_sizes"]
    for path in (folder / "plans.pkl", folder / "fold_0/model_final_checkpoint.model.pkl"):
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(content | {"plans": plans} if "init" in content else plans))
    found = read_v1(folder, Choice()).stages[0]
    # halved once, twice and once: first only the second axis, as nnU-Net does
    assert found.divisor == expected.divisor == (2, 4, 2)
    assert found.build().state_dict().keys() == expected.build().state_dict().keys()


def _stage(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plans: plans["plans_per_stage"][0].update({key: value})


def _plan(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plans: plans.update({key: value})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_stage("patch_size", np.array([64, 64])), "2d configuration"),
        (_plan("normalization_schemes", {0: "CT2", 1: "nonCT"}), "CT2"),
        (_plan("normalization_schemes", {0: "CT", 1: "nonCT"}), "CT in a mask"),
        (_plan("preprocessor_name", "PreprocessorFor3D_NoResampling"), "NoResampling"),
        (_plan("all_classes", [1, 3]), "without a gap"),
        (_plan("conv_per_stage", 1), "one convolution"),
        (_stage("conv_kernel_sizes", [[5, 5, 5]] * 3), "kernels other than"),
        (_plan("plans_per_stage", {}), "stage"),
        (_plan("num_classes", "x"), "lacks an entry|different"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    folder = write_v1(tmp_path / "a")
    for path in (folder / "plans.pkl", folder / "fold_0/model_final_checkpoint.model.pkl"):
        content = pickle.loads(path.read_bytes())
        change(content["plans"] if "init" in content else content)
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigurationError, match=reason):
        read_v1(folder, Choice())


def test_ct_takes_the_plans_intensities(tmp_path: Path) -> None:
    plans = v1_plans(("CT",))
    numbers = {"mean": 3.0, "sd": 2.0, "percentile_00_5": -1.0, "percentile_99_5": 9.0}
    plans["normalization_schemes"], plans["use_mask_for_norm"] = {0: "CT"}, {0: False}
    plans["dataset_properties"]["intensityproperties"] = {
        0: {key: np.float64(value) for key, value in numbers.items()}
    }
    (channel,) = read_v1(write_v1(tmp_path / "a", plans=plans), Choice()).channels
    assert channel.normalisation == "ct"
    assert channel.intensity is not None
    assert (channel.intensity.std, channel.intensity.percentile_00_5) == (2.0, -1.0)


@pytest.mark.parametrize(
    ("trainer", "reason"),
    [
        ("nnUNetTrainerV2CascadeFullRes", "cascades of nnU-Net v1"),
        ("nnUNetTrainerV2_ResencUNet", "--trust-trainer"),
        ("nnUNetTrainerV2BraTSRegions", "--trust-trainer"),
    ],
)
def test_other_trainers_are_refused(tmp_path: Path, trainer: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        read_v1(write_v1(tmp_path / "a", trainer=trainer), Choice())


def test_trainers_without_mirroring_are_known(tmp_path: Path) -> None:
    folder = write_v1(tmp_path / "a", trainer="nnUNetTrainerV2_noMirroring")
    assert read_v1(folder, Choice()).mirror_axes == ()


def test_folds_of_different_trainings_are_refused(tmp_path: Path) -> None:
    folder = write_v1(tmp_path / "a", folds=(0, 1))
    path = folder / "fold_1/model_final_checkpoint.model.pkl"
    content = pickle.loads(path.read_bytes())
    content["plans"]["base_num_features"] = 8
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ConfigurationError, match="different trainings"):
        read_v1(folder, Choice())
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"model\.pkl is missing"):
        read_v1(folder, Choice())

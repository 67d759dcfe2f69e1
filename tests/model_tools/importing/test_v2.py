"""nnU-Net v2 folders: what is read of them, and what is refused with its name and a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_tools.importing.trained import Choice
from model_tools.importing.v2 import read_v2
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_description import Resampling
from tests.model_tools.importing.builders import (
    PATCH,
    SPACING,
    old_architecture,
    v2_dataset,
    v2_plans,
    write_v2,
)


def test_a_folder_says_everything_about_the_model(tmp_path: Path) -> None:
    plans = v2_plans()
    full = plans["configurations"]["3d_fullres"]
    full["resampling_fn_seg_kwargs"]["order_z"] = 1
    folder = write_v2(
        tmp_path,
        folds=(0, 1),
        plans=plans,
        dataset=v2_dataset(
            labels={"background": 0, "lesion": [1], "ignore": 2}, licence="CC-BY 4.0"
        ),
    )
    model = read_v2(folder, Choice())
    (stage,) = model.stages
    assert (stage.stage, stage.configuration, stage.folds) == ("fullres", "3d_fullres", ("0", "1"))
    assert (stage.spacing_mm, stage.patch, stage.divisor) == (SPACING, PATCH, (2, 4, 6))
    assert [path.parent.name for path in stage.checkpoints] == ["fold_0", "fold_1"]
    assert [(c.name, c.normalisation) for c in model.channels] == [
        ("FLAIR", "zscore_in_mask"),
        ("T2w", "zscore"),
    ]
    assert model.labels == {"background": 0, "lesion": 1}
    assert model.transpose_forward == (1, 0, 2)
    assert model.averaging == "logits"
    assert model.mirror_axes == (0, 1, 2)
    assert model.licence == "CC-BY 4.0"
    assert model.orientation is None
    assert model.resampling == Resampling(order_z_seg=1)
    assert (model.dataset, model.trainer) == ("Dataset123_Tiny", "nnUNetTrainer")


def test_normalisation_orientation_and_mirrors_follow_the_files(tmp_path: Path) -> None:
    plans = v2_plans(channels=4)
    plans["image_reader_writer"] = "NibabelIOWithReorient"
    plans["configurations"]["3d_fullres"] |= {
        "normalization_schemes": [
            *("CTNormalization", "NoNormalization"),
            *("RescaleTo01Normalization", "ZScoreNormalization"),
        ],
        "use_mask_for_norm": [False, True, False, True],
    }
    dataset = v2_dataset(("CT", "a", "b", "c"))
    model = read_v2(write_v2(tmp_path, plans=plans, dataset=dataset, mirror_axes=None), Choice())
    assert [c.normalisation for c in model.channels] == [
        *("ct", "none", "rescale_0_1", "zscore_in_mask")
    ]
    intensity = model.channels[0].intensity
    assert intensity is not None
    assert (intensity.mean, intensity.percentile_99_5) == (50.0, 90.0)
    assert model.channels[1].intensity is None
    assert model.orientation == "RAS"
    assert model.mirror_axes == ()


def test_a_cascade_takes_its_first_stage_from_beside_it(tmp_path: Path) -> None:
    dataset = v2_dataset(labels={"background": 0, "core": 1, "rim": 2})
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        folder = write_v2(tmp_path, configuration=configuration, dataset=dataset)
    low, full = read_v2(folder, Choice()).stages
    assert (low.stage, low.configuration, low.spacing_mm) == (
        "lowres",
        "3d_lowres",
        (4.0, 1.4, 1.6),
    )
    assert (full.stage, full.configuration) == ("fullres", "3d_cascade_fullres")
    assert (low.input_channels, full.input_channels) == (2, 4)
    lowres = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_lowres"
    alone = read_v2(lowres, Choice()).stages
    assert [(s.stage, s.configuration) for s in alone] == [("fullres", "3d_lowres")]
    moved = lowres.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match=r"3d_lowres is not beside it.*--previous-stage"):
        read_v2(folder, Choice())
    assert len(read_v2(folder, Choice(previous_stage=moved)).stages) == 2


def test_stages_of_different_cascades_are_refused(tmp_path: Path) -> None:
    folder = write_v2(tmp_path, configuration="3d_cascade_fullres", folds=(0, 1))
    write_v2(tmp_path, configuration="3d_lowres")
    with pytest.raises(ConfigurationError, match=r"differs in .* number of folds"):
        read_v2(folder, Choice())
    assert len(read_v2(folder, Choice(folds=("0",))).stages) == 2


def test_folds_and_checkpoints_are_the_users_choice(tmp_path: Path) -> None:
    folder = write_v2(tmp_path, folds=(0, 1, 3, "all"))
    write_v2(tmp_path / "best", folds=(2,), checkpoint="best")
    best = tmp_path / "best" / folder.name / "fold_2"
    best.rename(folder / "fold_2")
    with pytest.raises(ConfigurationError, match=r"fold 2 has no checkpoint_final\.pth") as caught:
        read_v2(folder, Choice())
    assert "--folds (0 1 3 all)" in str(caught.value)
    for wanted in (("3", "0"), ("all",)):
        assert read_v2(folder, Choice(folds=wanted)).stages[0].folds == wanted
    model = read_v2(folder, Choice(folds=("2",), checkpoint="best"))
    assert model.stages[0].checkpoints[0].name == "checkpoint_best.pth"
    for wanted in (("7",), ("0", "0")):
        with pytest.raises(ConfigurationError, match=f"fold {wanted[0]}"):
            read_v2(folder, Choice(folds=wanted))


def test_only_fold_all_must_be_asked_for(tmp_path: Path) -> None:
    folder = write_v2(tmp_path, folds=("all",))
    with pytest.raises(ConfigurationError, match=r"no numbered fold.*--folds all"):
        read_v2(folder, Choice())


def _change_plans(**changes: Any) -> dict[str, Any]:
    plans = v2_plans()
    for key, value in changes.items():
        part = plans["configurations"]["3d_fullres"]
        (plans if key in plans else part)[key] = value
    return plans


@pytest.mark.parametrize(
    ("plans", "dataset", "reason"),
    [
        ({"patch_size": [64, 64]}, {}, "2d configuration"),
        ({"patch_size": [64, 64, 0]}, {}, "patch_size is not three positive"),
        ({"normalization_schemes": ["RGBTo01Normalization"] * 2}, {}, "RGBTo01Normalization"),
        ({"normalization_schemes": ["ZScoreNormalization"]}, {}, "differ in number"),
        ({"preprocessor_name": "Mine"}, {}, "preprocessor is Mine"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, {}, "resample_torch_fornnunet"),
        ({"resampling_fn_data_kwargs": {"force_separate_z": True}}, {}, "thick slices"),
        ({"image_reader_writer": "NaturalImage2DIO"}, {}, "NaturalImage2DIO"),
        ({"label_manager": "Mine"}, {}, "label manager is Mine"),
        ({"transpose_forward": [0]}, {}, "transpose_forward|lacks an entry"),
        ({}, {"labels": {"background": 0, "whole": [1, 2], "core": [2]}}, "region"),
        ({}, {"labels": {"background": 0, "lesion": 2}}, "without a gap"),
        ({}, {"channel_names": {"0": "FLAIR"}}, "differ in number"),
        ({"spacing": "x"}, {}, "spacing"),
    ],
)
def test_what_is_not_supported_is_named(
    tmp_path: Path, plans: dict[str, Any], dataset: dict[str, Any], reason: str
) -> None:
    folder = write_v2(tmp_path)
    (folder / "plans.json").write_text(json.dumps(_change_plans(**plans)))
    (folder / "dataset.json").write_text(json.dumps(v2_dataset(**dataset)))
    with pytest.raises(ConfigurationError, match=reason):
        read_v2(folder, Choice())


def test_old_plans_are_read(tmp_path: Path) -> None:
    folder = write_v2(tmp_path)
    (folder / "plans.json").write_text(json.dumps(v2_plans(configuration=old_architecture())))
    model = read_v2(folder, Choice())
    assert model.architecture == "PlainConvUNet"
    assert model.stages[0].divisor == (2, 4, 6)


@pytest.mark.parametrize("name", ["nnUNetTrainer_250epochs", "nnUNetTrainerNoMirroring"])
def test_nnunets_own_trainers_are_known(tmp_path: Path, name: str) -> None:
    assert read_v2(write_v2(tmp_path, trainer=name), Choice()).trainer == name


@pytest.mark.parametrize("name", ["nnUNetTrainerUMambaBot", "nnUNet_Primus_S_Trainer"])
def test_an_unknown_trainer_must_be_trusted(tmp_path: Path, name: str) -> None:
    folder = write_v2(tmp_path, trainer=name)
    with pytest.raises(ConfigurationError, match=f"{name}.*--trust-trainer"):
        read_v2(folder, Choice())
    assert read_v2(folder, Choice(trust_trainer=True)).trainer == name


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_v2(tmp_path)
    for name in ("dataset.json", "plans.json"):
        text = (folder / name).read_text()
        (folder / name).write_text("{")
        with pytest.raises(ConfigurationError, match=f"{name} is not valid JSON"):
            read_v2(folder, Choice())
        (folder / name).write_text("{}")
        with pytest.raises(ConfigurationError, match="lacks an entry"):
            read_v2(folder, Choice())
        (folder / name).unlink()
        with pytest.raises(ConfigurationError, match=f"{name} is missing"):
            read_v2(folder, Choice())
        (folder / name).write_text(text)


def test_a_renamed_folder_is_recognised_by_its_checkpoint(tmp_path: Path) -> None:
    folder = write_v2(tmp_path).rename(tmp_path / "mine")
    assert read_v2(folder, Choice()).stages[0].configuration == "3d_fullres"
    wrong = folder.rename(tmp_path / "a__b__3d_lowres")
    with pytest.raises(ConfigurationError, match="belong to 3d_fullres, not to 3d_lowres"):
        read_v2(wrong, Choice())

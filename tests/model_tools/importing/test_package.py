"""Whole imports: the package runs, equals nnU-Net's own predictor, and says what it is."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from model_tools.__main__ import main
from model_tools.importing.options import ImportOptions
from model_tools.importing.package import channel_roles, import_package
from model_tools.importing.trained import Choice
from model_tools.importing.v2 import read_v2
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    ModelPackage,
    Network,
    file_sha256,
    load_model_package,
)
from tests.model_tools.importing.builders import (
    PATCH,
    SPACING,
    v1_network,
    v1_plans,
    v2_dataset,
    v2_plans,
    write_v1,
    write_v2,
)


def _run(package: ModelPackage, network: Network, image: np.ndarray) -> np.ndarray:
    compiled = openvino.Core().compile_model(
        package.network_file(network), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return np.asarray(compiled(image)[0])


def _image(channels: int, patch: tuple[int, ...] = PATCH) -> np.ndarray:
    return np.random.default_rng(8).standard_normal((1, channels, *patch)).astype(np.float32)


def _predictor(folder: Path, folds: tuple[int, ...], mirror: bool) -> Any:
    """nnU-Net v2's own predictor."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"))
    predictor.initialize_from_trained_model_folder(str(folder), folds)
    return predictor


def _v2_mean(folder: Path, folds: tuple[int, ...], mirror: bool, image: np.ndarray) -> np.ndarray:
    """Logits of one patch as nnU-Net v2 computes them: mean over mirrors, then over folds."""
    predictor = _predictor(folder, folds, mirror)
    answers = []
    for weights in predictor.list_of_parameters:
        predictor.network.load_state_dict(weights)
        predictor.network.eval()
        with torch.inference_mode():
            answers.append(predictor._internal_maybe_mirror_and_predict(torch.from_numpy(image)))
    return torch.stack(answers).mean(0).numpy()


@pytest.mark.parametrize(
    ("kind", "mirror_axes"), [("PlainConvUNet", (0, 2)), ("ResidualEncoderUNet", None)]
)
def test_a_v2_package_gives_what_nnunets_predictor_gives(
    tmp_path: Path, kind: str, mirror_axes: tuple[int, ...] | None
) -> None:
    plans = v2_plans(kind)
    folder = write_v2(tmp_path, folds=(0, 1), plans=plans, mirror_axes=mirror_axes)
    package = import_package(folder, tmp_path / "models/ms", ImportOptions(mirror=True))
    description = package.description
    assert description.mirror_axes == (mirror_axes or ())
    assert (description.folds, description.averaging) == (2, "logits")
    assert package.roles == ("flair", "t2")
    assert description.spacing_zyx_mm == SPACING
    assert description.patch_size_zyx == PATCH
    assert description.transpose_forward == (1, 0, 2)
    assert (description.threshold, description.target_labels) == (0.5, ("lesion",))
    assert description.preprocessing == "nnunet"
    (network,) = description.networks
    expected = _v2_mean(folder, (0, 1), True, _image(2))
    assert expected.std() > 0.05
    np.testing.assert_allclose(_run(package, network, _image(2)), expected, atol=2e-5)


def test_a_cascade_becomes_two_networks(tmp_path: Path) -> None:
    dataset = v2_dataset(labels={"background": 0, "core": 1, "rim": 2})
    for configuration in ("3d_lowres", "3d_cascade_fullres"):
        folder = write_v2(tmp_path, configuration=configuration, dataset=dataset)
    options = ImportOptions(target_labels=("core", "rim"))
    package = import_package(folder, tmp_path / "models/ms", options)
    low, full = package.description.networks
    assert [n.stage for n in (low, full)] == ["lowres", "fullres"]
    assert (low.spacing_zyx_mm, full.spacing_zyx_mm) == ((4.0, 1.4, 1.6), SPACING)
    assert package.description.threshold is None
    for network, channels, name in ((low, 2, "3d_lowres"), (full, 4, "3d_cascade_fullres")):
        assert package.description.input_channels(network) == channels
        source = tmp_path / f"nnUNetTrainer__nnUNetPlans__{name}"
        expected = _v2_mean(source, (0,), False, _image(channels))
        answer = _run(package, network, _image(channels))
        np.testing.assert_allclose(answer, expected, atol=2e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_a_v1_package_gives_the_mean_softmax_of_v1s_own_network(tmp_path: Path, flat: bool) -> None:
    plans = v1_plans()
    folder = write_v1(tmp_path / "Task1_X", folds=(0, 1), plans=plans, flat=flat)
    package = import_package(folder, tmp_path / "models/ms", ImportOptions(mirror=not flat))
    assert package.description.averaging == "softmax"
    assert package.description.resampling is not None
    assert not package.description.resampling.normalise_first
    patch = package.description.patch_size_zyx
    assert patch == (4, 16, 12)
    image = _image(2, patch)
    answers = []
    for fold in (0, 1):
        network = v1_network(plans, 7 + fold)
        network.inference_apply_nonlin = lambda x: torch.softmax(x, 1)
        with torch.inference_mode():
            answers.append(
                network._internal_maybe_mirror_and_pred_3D(image, (0, 1, 2), not flat).numpy()
            )
    answer = _run(package, package.description.networks[0], image)
    np.testing.assert_allclose(answer, np.mean(answers, axis=0), atol=1e-5)
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)


def test_an_exported_zip_is_imported_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "results"
    folder = write_v2(root / "Dataset123_Tiny", dataset=v2_dataset(("P", "Q")))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as stream:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            stream.write(path, path.relative_to(root))
    command = ["model_tools", "import", str(tmp_path / "export.zip"), "-o"]
    command += [str(tmp_path / "models/spine"), "--roles", "t2 sag", "t1 sag", "--orientation"]
    command += ["PSR", "--threshold", "0.3", "--body-site", "spinal cord", "--no-brain-only"]
    command += ["--licence", "CC0", "--half-weights", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "spine: 1 fold(s), channels t2 sag, t1 sag" in capsys.readouterr().out
    package = load_model_package(tmp_path / "models/spine")
    found = package.description
    assert package.roles == ("t2 sag", "t1 sag")
    assert found.reference_role == "t2 sag"
    assert (found.orientation, found.threshold, found.brain_only) == ("PSR", 0.3, False)
    assert (found.licence, found.body_site) == ("CC0", "spinal cord")
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["spine"]
    card = (package.folder / "MODEL_CARD.md").read_text()
    for text in (
        *("Research use only. Not a medical device.", "nnU-Net v2", "Dataset123_Tiny", "CC0"),
        *("nnUNetTrainer", "| 0 | P | t2 sag |", "PSR (stated by the user)", "stored as fp16"),
        *("torch 2", "What is not known", "not mirrored", "with everything"),
    ):
        assert text in card
    assert str(tmp_path) not in card

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 3
    assert "model package spine: it exists already" in capsys.readouterr().err


def _source_record(folder: Path) -> dict[str, Any]:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in folder.iterdir()
    }
    return {
        "source": "AIMS, Zenodo record 1",
        "licence": "not stated by the publisher",
        "roles": ["flair", "t2"],
        "files": files,
    }


def test_what_fetch_recorded_reaches_the_package_and_is_checked(tmp_path: Path) -> None:
    folder = write_v1(tmp_path / "aims", plans=v1_plans(("MR", "MR2")), flat=True)
    (folder / "source.json").write_text(json.dumps(_source_record(folder)))
    package = import_package(folder, tmp_path / "models/aims", ImportOptions())
    assert package.roles == ("flair", "t2")
    assert package.description.source == "AIMS, Zenodo record 1"
    assert package.description.licence == "not stated by the publisher"
    card = (package.folder / "MODEL_CARD.md").read_text()
    assert file_sha256(folder / "0.model") in card
    assert "needs the owner's permission" in card

    content = pickle.loads((folder / "plans.pkl").read_bytes())
    (folder / "plans.pkl").write_bytes(pickle.dumps(content | {"changed": 1}))
    with pytest.raises(ConfigurationError, match=r"plans\.pkl is missing or differs"):
        import_package(folder, tmp_path / "models/again", ImportOptions())
    assert [p.name for p in (tmp_path / "models").iterdir()] == ["aims"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    folder = write_v2(tmp_path)
    plans = v2_plans()
    part = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    part["features_per_stage"] = [4, 6, 10]
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(ConfigurationError, match="not those of the planned PlainConvUNet"):
        import_package(folder, tmp_path / "models/a", ImportOptions())
    assert not list((tmp_path / "models").iterdir())


def test_channels_without_a_role_are_named(tmp_path: Path) -> None:
    def roles(*names: str, given: tuple[str, ...] | None = None) -> tuple[str, ...]:
        folder = write_v2(
            tmp_path / "-".join(names) / str(len(given or ())), dataset=v2_dataset(names)
        )
        return channel_roles(read_v2(folder, Choice()), given)

    assert roles("T1-weighted", "FLAIR") == ("t1", "flair")
    with pytest.raises(ConfigurationError, match=r"PD has no role.*--roles"):
        roles("PD", "FLAIR")
    with pytest.raises(ConfigurationError, match="two channels have the same"):
        roles("T1", "MPRAGE")
    assert roles("T1", "MPRAGE", given=("t1", "t1 3d")) == ("t1", "t1 3d")
    with pytest.raises(ConfigurationError, match="2 channels"):
        roles("T2", "T1", given=("t1",))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (ImportOptions(orientation="LPL"), "orientation"),
        (ImportOptions(threshold=1.5), "threshold"),
        (ImportOptions(reference_role="pd"), "reference_role"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_the_work(
    tmp_path: Path, options: ImportOptions, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        import_package(write_v2(tmp_path), tmp_path / "models/a", options)
    assert not list((tmp_path / "models").iterdir())


def test_several_labels_need_a_target(tmp_path: Path) -> None:
    dataset = v2_dataset(labels={"background": 0, "core": 1, "rim": 2})
    folder = write_v2(tmp_path, dataset=dataset)
    for target in (None, ("edge",)):
        with pytest.raises(ConfigurationError, match=r"core, rim.*--target"):
            import_package(folder, tmp_path / "models/a", ImportOptions(target_labels=target))
    (tmp_path / "models/a").mkdir()
    (tmp_path / "models/a/old").touch()
    package = import_package(
        folder, tmp_path / "models/a", ImportOptions(target_labels=("rim",), replace=True)
    )
    assert package.description.target_values == (2,)
    assert not (tmp_path / "models/a/old").exists()

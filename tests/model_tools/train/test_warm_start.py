"""A training that begins with a shipped member."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model_tools.__main__ import main
from model_tools.evaluate.members import extract_member
from model_tools.export import openvino_logits
from model_tools.train.device import CPU
from model_tools.train.network import architecture, build_network
from model_tools.train.recipe import Recipe
from model_tools.train.trainer import Run
from model_tools.train.warm_start import start_from
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import load_model_package
from tests.conftest import ROOT

PACKAGE = ROOT / "models/brain_ms_flair_t2_t1"


def test_the_network_answers_as_the_member_it_was_taken_from(tmp_path: Path) -> None:
    run = Run.started(Recipe(), PACKAGE, 3, CPU)
    assert run.recipe.start.startswith("brain_ms_flair_t2_t1 ")
    assert run.recipe.start.endswith(", member 3")
    assert run.recipe.patches_at(0) == (64, 2)
    part = load_model_package(extract_member(PACKAGE, 3, tmp_path / "part"))
    shape = (1, 3, *part.description.patch_size_zyx)
    image = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    expected = openvino_logits(part.network, image, "f32")
    for network in (run.network, run.average):
        with torch.inference_mode():
            finest = network.eval()(torch.from_numpy(image))[0].numpy()
        assert np.allclose(finest, expected, atol=2e-3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no weights of a member 9"):
        start_from(PACKAGE, 9, build_network(architecture()))
    with pytest.raises(ConfigurationError, match="does not fit the network"):
        start_from(PACKAGE, 0, build_network(architecture((4, 8))))
    two = ROOT / "models/brain_ms_flair_t2"
    with pytest.raises(ConfigurationError, match="does not fit the network"):
        start_from(two, 0, build_network(architecture()))


@pytest.mark.parametrize(
    ("text", "start"), [("m/p#2", (Path("m/p"), 2)), ("m/p", (Path("m/p"), 0))]
)
def test_the_command_names_package_and_member(
    text: str, start: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(
        "model_tools.train.trainer.train_trunk", lambda *all_of_it: given.append(all_of_it[-1])
    )
    command = ["model_tools", "train", "--data", "d", "--work", "w", "--stage", "trunk"]
    command += ["--threads", str(torch.get_num_threads()), "--start", text]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert given == [start]


@pytest.mark.parametrize("text", ["m/p#x", "m/p#"])
def test_a_member_is_a_number(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model_tools", "train", "--data", "d", "--work", "w", "--start", text]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code != 0
    assert "PACKAGE#MEMBER" in capsys.readouterr().err

"""The command line accepts what the SDK's does, and refuses what would lose data."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from app.arguments import CONFIG_VARIABLE, check_arguments, make_parser, parse_arguments
from operators.errors import ConfigurationError, InputError


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("INPUT_PATH", "OUTPUT_PATH", "MODEL_PATH", "WORKDIR", "CONFIG_PATH"):
        monkeypatch.delenv(f"HOLOSCAN_{name}", raising=False)
    monkeypatch.delenv("TRITON_SERVER_NETLOC", raising=False)
    return monkeypatch


def _option_strings(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def test_every_option_of_the_sdk_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    from monai.deploy.core import arg_parser

    seen: list[argparse.ArgumentParser] = []

    def record(parser: argparse.ArgumentParser, args=None, namespace=None):
        seen.append(parser)
        return argparse.Namespace()

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", record)
    arg_parser.parse_args(["app"])
    assert _option_strings(seen[0]) <= _option_strings(make_parser())


def test_variables_count_where_no_option_is_given(clean_environment, tmp_path: Path) -> None:
    for name, value in (("INPUT_PATH", "in"), ("OUTPUT_PATH", "out"), ("MODEL_PATH", "models")):
        clean_environment.setenv(f"HOLOSCAN_{name}", str(tmp_path / value))
    clean_environment.setenv(CONFIG_VARIABLE, str(tmp_path / "site.yaml"))
    arguments = parse_arguments(["-o", str(tmp_path / "elsewhere")])
    assert arguments.input_folder == tmp_path / "in"
    assert arguments.output_folder == tmp_path / "elsewhere"
    assert arguments.models_folder == tmp_path / "models"
    assert arguments.config == tmp_path / "site.yaml"


@pytest.mark.parametrize(("source", "target"), [("a", "a"), ("a/b", "a"), ("a", "a/b")])
def test_output_that_could_replace_input_is_refused(
    clean_environment, tmp_path: Path, source: str, target: str
) -> None:
    with pytest.raises(ConfigurationError, match="separate folder"):
        parse_arguments(["-i", str(tmp_path / source), "-o", str(tmp_path / target)])


def test_missing_folders_are_named_with_their_exit_code(clean_environment, tmp_path: Path) -> None:
    arguments = ["-o", str(tmp_path / "out"), "-m", str(tmp_path / "none")]
    with pytest.raises(InputError) as missing_input:
        check_arguments(parse_arguments(["-i", str(tmp_path / "none"), *arguments]))
    assert missing_input.value.exit_code == 2
    (tmp_path / "in").mkdir()
    with pytest.raises(ConfigurationError) as missing_models:
        check_arguments(parse_arguments(["-i", str(tmp_path / "in"), *arguments]))
    assert missing_models.value.exit_code == 3


def test_triton_server_is_refused(clean_environment, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="own process"):
        parse_arguments(["-i", str(tmp_path / "in"), "-o", str(tmp_path), "-t", "host:8001"])

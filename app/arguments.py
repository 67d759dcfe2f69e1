"""The command line: the MONAI Deploy App SDK's own arguments and HOLOSCAN_* variables.

The SDK's parser is not called, for two reasons: it ends with exit code 2 whatever is wrong, while
a missing model is a configuration error here; and ``init_app_context`` logs all paths, which may
carry a patient's identifier. A test holds the options against the SDK's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from operators.errors import ConfigurationError, InputError

LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "CRITICAL")
CONFIG_VARIABLE = "HOLOSCAN_CONFIG_PATH"
DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "app.yaml"


@dataclass(frozen=True)
class Arguments:
    """Where to read, where to write and with what."""

    input_folder: Path
    output_folder: Path
    models_folder: Path
    workdir: Path | None
    config: Path
    log_level: str | None


def make_parser() -> argparse.ArgumentParser:
    """The parser, with the options that the SDK gives every application."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="MS lesions in brain MRI, outlined, measured and compared with the prior "
        "study, from DICOM to DICOM. Research use only. Not a medical device.",
        epilog="Exit codes: 0 done; 2 the input cannot be processed; 3 configuration or model; "
        "1 anything else. Without an option the variable HOLOSCAN_INPUT_PATH, "
        "HOLOSCAN_OUTPUT_PATH, HOLOSCAN_MODEL_PATH or HOLOSCAN_WORKDIR counts; settings come "
        f"from {CONFIG_VARIABLE} or the application's app.yaml.",
    )
    parser.add_argument("-i", "--input", help="folder with the DICOM files (default: input)")
    parser.add_argument("-o", "--output", help="folder for the results (default: output)")
    parser.add_argument("-m", "--model", help="folder with the model packages (default: models)")
    parser.add_argument("-w", "--workdir", help="folder for scratch files and compiled engines")
    parser.add_argument("-l", "--log-level", type=str.upper, choices=LOG_LEVELS)
    parser.add_argument(
        "-t", "--triton-server-netloc", help="accepted for compatibility; no model runs on Triton"
    )
    return parser


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse a command line, without the program's name; paths are made absolute, not checked.

    Raises
    ------
    ConfigurationError
        If a Triton server is given, or one folder lies inside the other in a way that writing
        would touch the input.
    """
    from monai.deploy.core import RuntimeEnv

    options = make_parser().parse_args(list(argv))
    environment = RuntimeEnv()
    workdir = options.workdir or environment.workdir
    arguments = Arguments(
        Path(options.input or environment.input).absolute(),
        Path(options.output or environment.output).absolute(),
        Path(options.model or environment.model).absolute(),
        Path(workdir).absolute() if workdir else None,
        Path(os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG).absolute(),
        options.log_level,
    )
    if options.triton_server_netloc or environment.triton_server_netloc:
        raise ConfigurationError(
            "--triton-server-netloc",
            "This application runs its models in its own process.",
            "Leave the option and the variable TRITON_SERVER_NETLOC out.",
        )
    source, target = arguments.input_folder.resolve(), arguments.output_folder.resolve()
    if source.is_relative_to(target) or target.is_relative_to(source):
        raise ConfigurationError(
            "output folder",
            "It holds the input folder or lies inside it, so results could replace input.",
            "Give a separate folder with -o.",
        )
    return arguments


def check_arguments(arguments: Arguments) -> None:
    """Check that everything to read is there.

    Raises
    ------
    InputError
        If the input folder does not exist.
    ConfigurationError
        If the model folder or the settings file does not exist.
    """
    if not arguments.input_folder.is_dir():
        raise InputError(
            "input folder",
            "It does not exist or is not a folder.",
            "Give an existing folder of DICOM files with -i.",
        )
    if not arguments.models_folder.is_dir():
        raise ConfigurationError(
            f"model folder {arguments.models_folder.name}",
            "It does not exist or is not a folder.",
            "Give the folder of the model packages with -m.",
        )
    if not arguments.config.is_file():
        raise ConfigurationError(
            f"settings file {arguments.config.name}",
            "It does not exist.",
            f"Set {CONFIG_VARIABLE} to an app.yaml, or leave it unset.",
        )

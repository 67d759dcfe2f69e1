"""``python -m model_tools quantise models/NAME --calibrate FOLDER… --validate FOLDER…``."""

from __future__ import annotations

import argparse
from pathlib import Path

from operators.lesion_segmentation.model_package import Int8, load_model_package

_SETTINGS = Path(__file__).resolve().parents[2] / "app.yaml"
REFUSED = 4
"""Exit code of a trial that was not passed."""


def _run(arguments: argparse.Namespace) -> int:
    from app.config import load_settings
    from model_tools.quantise.network import import_nncf
    from model_tools.quantise.package import quantise_package
    from model_tools.quantise.studies import read_studies

    package = load_model_package(arguments.package)
    settings = load_settings(arguments.config)
    import_nncf()
    calibration, held_out = (
        [s for folder in folders for s in read_studies(folder, package.description, settings)]
        for folders in (arguments.calibrate, arguments.validate)
    )
    trial = quantise_package(
        package, calibration, held_out, tiles=arguments.tiles, threads=arguments.threads
    ).description.int8
    if trial is None:
        raise AssertionError("the trial is not in model.json")
    print(table(trial))
    return 0 if trial.passed else REFUSED


def table(trial: Int8) -> str:
    """The trial as lines of text."""
    lines = [
        f"calibrated on {trial.calibrated_on}; {trial.software}",
        f"{'held out':28}{'Dice':>8}{'mean diff.':>12}{f'× {trial.compared_with}':>8}",
    ]
    lines += [
        f"{s.study:28}{s.dice:8.4f}{s.mean_difference:12.1e}{s.speed_up:8.2f}"
        for s in trial.studies
    ]
    lines.append(f"{'all':28}{min(s.dice for s in trial.studies):8.4f}{'':12}{trial.speed_up:8.2f}")
    wanted = f"Dice ≥ {trial.minimum_dice:g}, × ≥ {trial.minimum_speed_up:g}"
    if trial.passed:
        lines.append(
            f'passed ({wanted}): kept as {", ".join(trial.files)}; used with "precision: int8"'
        )
    else:
        lines.append(f"refused ({wanted}): no int8 network is kept; model.json holds the measures")
    return "\n".join(lines)


def add_quantise(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command ``quantise``."""
    command = commands.add_parser(
        "quantise",
        help="add int8 networks to a package, if they hold on studies held out",
        description="Exit code 4: tried and refused; the measures are in model.json.",
    )
    add = command.add_argument
    add("package", type=Path, help="model package, as models/NAME; it is changed")
    folders = "folders of DICOM (one patient each) or of nnU-Net's images (CASE_0000.nii.gz)"
    add("--calibrate", type=Path, nargs="+", required=True, metavar="FOLDER", help=folders)
    add(
        "--validate",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="the same, of other patients: the int8 networks are tried on them",
    )
    add("--tiles", type=_positive, default=8, help="tiles of each study to calibrate on")
    add("--threads", type=_positive, default=1, help="threads while it is tried; 1 times best")
    add("--config", type=Path, default=_SETTINGS, help="app.yaml, for the rules of selection")
    command.set_defaults(run=_run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value

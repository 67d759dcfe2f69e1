"""A model package gets int8 networks, or the record that they were tried and refused."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from model_tools.quantise.network import quantised, save
from model_tools.quantise.studies import TrialStudy, check_held_out
from model_tools.quantise.trial import (
    Seconds,
    open_engines,
    processor_seconds,
    record_tiles,
    try_study,
)
from operators.errors import ConfigurationError
from operators.lesion_segmentation.model_package import (
    INT8_SCHEMA_VERSION,
    SCHEMA_VERSION,
    Int8,
    ModelPackage,
    file_sha256,
    load_model_package,
    write_model_description,
)
from operators.lesion_segmentation.network_source import network_source
from operators.lesion_segmentation.settings import LesionSegmentationSettings

logger = logging.getLogger(__name__)

MINIMUM_DICE = 0.99
"""Of the lesion mask against fp32, in each study that was held out."""
MINIMUM_SPEED_UP = 1.3
"""Processor time against what "auto" takes on the same processor, over these studies."""


@dataclass(frozen=True)
class Limits:
    """What the int8 networks have to reach."""

    dice: float = MINIMUM_DICE
    speed_up: float = MINIMUM_SPEED_UP


def quantise_package(
    package: ModelPackage,
    calibration: Sequence[TrialStudy],
    held_out: Sequence[TrialStudy],
    *,
    tiles: int = 8,
    threads: int = 1,
    limits: Limits = Limits(),
    seconds: Seconds = processor_seconds,
) -> ModelPackage:
    """Quantise every network of a package, try it, and record the trial in the package.

    Parameters
    ----------
    package
        A checked package in a folder that can be written; an earlier trial is replaced.
    calibration
        Studies from which the ranges of the activations are taken.
    held_out
        Other studies, on which the int8 networks are compared with fp32.
    tiles
        Tiles of each calibration study.
    threads
        Threads of each network while it is timed.
    limits
        What each study and all together have to reach; otherwise model.json holds the measures and
        no int8 network is kept.
    seconds
        Measures one run of a network.

    Returns
    -------
    ModelPackage
        The package as it is now on disk.

    Raises
    ------
    ConfigurationError
        If there are no studies, a study is among both, the model finds no lesion in one that was
        held out, a network cannot be quantised, or the package cannot be written.
    """
    if not calibration or not held_out:
        raise ConfigurationError(
            "--calibrate and --validate",
            "There is no study to calibrate or none to validate on.",
            "Give at least one study with each.",
        )
    check_held_out(calibration, held_out)
    _check_writable(package.folder)
    options: dict[str, Any] = {"engine": "openvino", "threads": threads}

    def settings(precision: str) -> LesionSegmentationSettings:
        return LesionSegmentationSettings.model_validate(options | {"precision": precision})

    exact = open_engines(package, settings("fp32"))
    recorded = record_tiles(calibration, package, exact, tiles)
    count = sum(map(len, recorded.values()))
    with tempfile.TemporaryDirectory() as scratch:
        made: dict[str, Path] = {}
        for network in package.description.networks:
            logger.info("%s: quantised on %d tiles", network.file, len(recorded[network.file]))
            model = quantised(network_source(package, network), recorded.pop(network.file))
            path = Path(scratch) / f"{Path(network.file).stem}.int8.xml"
            made[network.file], _ = save(model, path)
        usual = open_engines(package, settings("auto"))
        int8 = open_engines(package, settings("int8"), made)
        results = [try_study(s, package, exact, usual, int8, seconds) for s in held_out]
        measured = tuple(found for found, _, _ in results)
        speed_up = sum(usual_s for _, usual_s, _ in results) / sum(s for _, _, s in results)
        passed = speed_up >= limits.speed_up and all(m.dice >= limits.dice for m in measured)
        trial = Int8(
            files=tuple(path.name for path in made.values()) if passed else (),
            passed=passed,
            minimum_dice=limits.dice,
            minimum_speed_up=limits.speed_up,
            speed_up=speed_up,
            compared_with=next(iter(usual.values())).precision,
            calibrated_on=f"{len(calibration)} studies, {count} tiles",
            studies=measured,
            software=f"NNCF {version('nncf')}, OpenVINO {version('openvino')}",
        )
        return _record(package, trial, Path(scratch))


def _record(package: ModelPackage, trial: Int8, made: Path) -> ModelPackage:
    """Write the trial into the package; at every moment model.json and the files agree."""
    folder, old = package.folder, package.description
    files = dict(old.files)
    for name in old.int8.files if old.int8 else ():
        for file in (name, f"{name.removesuffix('.xml')}.bin"):
            del files[file]
    bare = old.model_copy(
        update={"int8": None, "schema_version": SCHEMA_VERSION, "files": dict(files)}
    )
    try:
        if old.int8 is not None:
            write_model_description(folder, bare)
            for name in old.files.keys() - files.keys():
                (folder / name).unlink(missing_ok=True)
        for name in trial.files:
            for file in (name, f"{name.removesuffix('.xml')}.bin"):
                shutil.copyfile(made / file, folder / file)
                files[file] = file_sha256(folder / file)
        update = {"int8": trial, "schema_version": INT8_SCHEMA_VERSION, "files": files}
        write_model_description(folder, type(old).model_validate(dict(bare) | update))
    except OSError as error:
        raise _not_writable(folder, error) from error
    return load_model_package(folder)


def _check_writable(folder: Path) -> None:
    """Find out before the long computation, not after it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"model package {folder.name}",
        f"Its folder cannot be written ({error.strerror}).",
        "Copy the package to a folder of your own and quantise it there.",
    )

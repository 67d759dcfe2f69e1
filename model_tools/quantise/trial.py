"""Whether int8 networks answer as the fp32 ones do, and how much faster, on studies held out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from model_tools.engines import WrappedEngine
from model_tools.quantise.studies import TrialStudy
from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import Engine
from operators.lesion_segmentation.model_package import (
    Int8Study,
    ModelPackage,
    Network,
    file_sha256,
)
from operators.lesion_segmentation.network_source import EngineUnavailableError, network_source
from operators.lesion_segmentation.openvino_engine import OpenVinoEngine
from operators.lesion_segmentation.segmentation import segment_study
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import LesionProbability

logger = logging.getLogger(__name__)

Engines = Mapping[str, Engine]
"""By the ONNX file's name, one for each of the package's networks."""
Seconds = Callable[[Engine, np.ndarray], float]
"""What one engine takes for one tile."""
_TIMED_TILES = 4
_TIMED_ROUNDS = 3
_SEED = 20260


def processor_seconds(engine: Engine, tile: np.ndarray) -> float:
    """Processor time of a run; on one thread that is the time without other programs' share."""
    begun = time.process_time()
    engine.run(tile)
    return time.process_time() - begun


class Recorder(WrappedEngine):
    """An engine that keeps some of the tiles that it is given, each with the same chance.

    Parameters
    ----------
    engine
        What answers.
    count
        Tiles to keep (reservoir sampling, so that the others take no memory).
    """

    def __init__(self, engine: Engine, count: int) -> None:
        super().__init__(engine)
        self._count = count
        self._random = np.random.default_rng(_SEED)
        self._seen = 0
        self.tiles: list[np.ndarray] = []

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer, and perhaps keep; see ``Engine.run``."""
        for patch in batch:
            self._seen += 1
            if len(self.tiles) < self._count:
                self.tiles.append(np.array(patch[None], dtype=np.float32))
            elif (place := int(self._random.integers(self._seen))) < self._count:
                self.tiles[place] = np.array(patch[None], dtype=np.float32)
        return super().run(batch)


def open_engines(
    package: ModelPackage,
    settings: LesionSegmentationSettings,
    int8_files: Mapping[str, Path] | None = None,
) -> dict[str, Engine]:
    """The package's networks in OpenVINO, each compiled for one tile at a time.

    Parameters
    ----------
    package
        A checked package.
    settings
        ``precision`` and ``threads`` count.
    int8_files
        With precision "int8": the quantised networks, by the ONNX file's name.

    Raises
    ------
    ConfigurationError
        If a network does not run in this precision here.
    """
    engines: dict[str, Engine] = {}
    for network in package.description.networks:
        source = network_source(package, network)
        if int8_files is not None:
            path = int8_files[network.file]
            source = dataclasses.replace(
                source,
                file=path,
                files=(path, path.with_suffix(".bin")),
                sha256=file_sha256(path) + file_sha256(path.with_suffix(".bin")),
            )
        try:
            engines[network.file] = OpenVinoEngine(
                source, precision=settings.precision, threads=settings.threads
            )
        except EngineUnavailableError as error:
            raise ConfigurationError(
                f"model package {source.package}",
                f"The trial is not possible here: {error}.",
                "Run it on a processor like that of the site.",
            ) from error
    return engines


def segment(
    study: TrialStudy, package: ModelPackage, engines: Engines
) -> tuple[LesionProbability, np.ndarray]:
    """The application's answer for a study, and its mask (bool on the FLAIR's grid)."""

    def engine_of(_: ModelPackage, network: Network) -> Engine:
        return engines[network.file]

    found, _ = segment_study(study.study, package, engine_of, LesionSegmentationSettings())
    return found, np.asarray(found.probability.array > found.threshold)


def record_tiles(
    studies: Sequence[TrialStudy], package: ModelPackage, engines: Engines, count: int
) -> dict[str, list[np.ndarray]]:
    """Tiles as the networks see them while the application segments these studies.

    Parameters
    ----------
    studies
        To calibrate on.
    package
        The model.
    engines
        Its networks, best in fp32.
    count
        Tiles of each study and network to keep.

    Returns
    -------
    dict
        By the ONNX file's name, float32 (1, channels, z, y, x) each.
    """
    tiles: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    for study in studies:
        recorders = {name: Recorder(engine, count) for name, engine in engines.items()}
        segment(study, package, recorders)
        for name, recorder in recorders.items():
            tiles[name] += recorder.tiles
    return tiles


def try_study(
    study: TrialStudy,
    package: ModelPackage,
    exact: Engines,
    usual: Engines,
    int8: Engines,
    seconds: Seconds = processor_seconds,
) -> tuple[Int8Study, float, float]:
    """Segment a study in fp32 and in int8, and time some of its tiles in int8 and as usual.

    Parameters
    ----------
    study
        One that the int8 networks were not calibrated on.
    package
        The model.
    exact, usual, int8
        Its networks in fp32, in what "auto" takes on this processor, and in int8.
    seconds
        Measures one run. Each tile is run several times in turn with both; the shortest counts.

    Returns
    -------
    Int8Study
        What was found.
    float
        Seconds of the timed tiles in ``usual``.
    float
        The same in ``int8``.

    Raises
    ------
    ConfigurationError
        If the fp32 networks find no lesion, so that there is nothing to compare.
    """
    recorders = {name: Recorder(engine, _TIMED_TILES) for name, engine in exact.items()}
    expected, expected_mask = segment(study, package, recorders)
    if not expected_mask.any():
        raise ConfigurationError(
            "--validate",
            f"In one of its studies ({study.title}) the model finds no lesion, so that int8 cannot "
            "be compared with fp32.",
            "Give studies with lesions.",
        )
    found, found_mask = segment(study, package, int8)
    as_usual = in_int8 = 0.0
    for name, recorder in recorders.items():
        for tile in recorder.tiles:
            rounds = [
                (seconds(usual[name], tile), seconds(int8[name], tile))
                for _ in range(_TIMED_ROUNDS)
            ]
            as_usual += min(first for first, _ in rounds)
            in_int8 += min(second for _, second in rounds)
    brain = np.asarray(study.study.brain_mask.array, dtype=bool)
    difference = np.abs(found.probability.array - expected.probability.array)[brain]
    both = np.logical_and(found_mask, expected_mask).sum()
    measured = Int8Study(
        study=study.title,
        dice=float(2 * both / (found_mask.sum() + expected_mask.sum())),
        mean_difference=float(difference.mean()),
        speed_up=as_usual / in_int8,
    )
    logger.info(
        "%s: Dice %.4f, mean difference %.1e, %.2f times faster",
        measured.study,
        measured.dice,
        measured.mean_difference,
        measured.speed_up,
    )
    return measured, as_usual, in_int8

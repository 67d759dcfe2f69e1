"""The stage ``lesion_segmentation`` as a MONAI Deploy operator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.lesion_segmentation.engine import Engine, Machine, open_engine
from operators.lesion_segmentation.engine_cache import EngineCache, cache_folder
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage, find_packages
from operators.lesion_segmentation.segmentation import segment_studies
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import AlignedStudies, LesionProbabilities
from operators.stages import stage

NAME = "lesion_segmentation"


class LesionSegmentationOperator(Operator):  # type: ignore[misc]
    """Lesion probability for each time point.

    Ports
    -----
    aligned_studies : AlignedStudies
        Input.
    lesion_probabilities : LesionProbabilities
        Output.

    Parameters
    ----------
    models_folder
        Folder with the model packages, or one of them. It is read and checked at once, so that a
        bad package stops the application before it starts (ConfigurationError).
    settings
        The section ``lesion_segmentation`` of app.yaml.
    work_folder
        The application's work folder, for compiled engines, if it has one.
    machine
        What there is to run on; None for this machine.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        models_folder: Path,
        settings: LesionSegmentationSettings | None = None,
        work_folder: Path | None = None,
        machine: Machine | None = None,
        **kwargs: Any,
    ) -> None:
        self._settings = settings or LesionSegmentationSettings()
        self._packages = find_packages(models_folder, self._settings.package)
        prebuilt = self._settings.prebuilt_engines
        self._cache = EngineCache(
            self._settings.engine_cache or cache_folder(work_folder),
            () if prebuilt is None else (prebuilt,),
        )
        self._machine = machine or Machine()
        self._engines: dict[tuple[str, str], Engine] = {}
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("aligned_studies")
        spec.output("lesion_probabilities")

    def start(self) -> None:
        """Load the package with the most channels; another one is loaded when a study needs it."""
        package = max(self._packages, key=lambda package: len(package.roles))
        for network in package.description.networks:
            self._engine_of(package, network)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Segment every time point."""
        aligned: AlignedStudies = op_input.receive("aligned_studies")
        with stage(NAME) as clock:
            result: LesionProbabilities = segment_studies(
                aligned, self._packages, self._engine_of, self._settings
            )
            quality = (*result.quality, *self._machine.quality)
            result = replace(result, quality=quality, timing_s={NAME: clock.stop()})
        op_output.emit(result, "lesion_probabilities")

    def _engine_of(self, package: ModelPackage, network: Network) -> Engine:
        key = package.sha256, network.file
        if key not in self._engines:
            self._engines[key] = open_engine(
                package,
                self._settings,
                network=network,
                cache=self._cache,
                machine=self._machine,
            )
        return self._engines[key]

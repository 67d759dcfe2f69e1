"""What runs a network: one small interface, and the choice of the engine for this machine."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from operators.lesion_segmentation.model_package import ModelPackage
from operators.lesion_segmentation.settings import LesionSegmentationSettings


class Engine(Protocol):
    """A network, loaded and ready to run."""

    @property
    def name(self) -> str:
        """Engine, version and device, as "OpenVINO 2026.4.1 (CPU)"."""

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "bf16" or "fp32"."""

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Run the network.

        Parameters
        ----------
        batch
            float32 (n, channels, z, y, x), with the package's patch size.

        Returns
        -------
        numpy.ndarray
            float32 (n, labels, z, y, x).
        """


def open_engine(package: ModelPackage, settings: LesionSegmentationSettings) -> Engine:
    """Load a package's network into the engine that suits this machine and the settings.

    Raises
    ------
    ConfigurationError
        If the network is damaged, differs from model.json or the precision is not available.
    """
    from operators.lesion_segmentation.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(package, precision=settings.precision, threads=settings.threads)

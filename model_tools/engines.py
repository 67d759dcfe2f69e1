"""Engines around another engine, for tools."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from operators.lesion_segmentation.engine import Engine


class WrappedEngine:
    """An engine that another one answers for; see ``Engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def name(self) -> str:
        """The engine's."""
        return self._engine.name

    @property
    def precision(self) -> str:
        """The engine's."""
        return self._engine.precision

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer; see ``Engine.run``."""
        return self._engine.run(batch)


class PaddedEngine(WrappedEngine):
    """A network fed with zeros for the sequences that a study lacks, as it was in training.

    Parameters
    ----------
    engine
        The whole network.
    position
        Of each channel that is given, among the network's.
    channels
        The network's.
    """

    def __init__(self, engine: Engine, position: Sequence[int], channels: int) -> None:
        super().__init__(engine)
        self._position, self._channels = list(position), channels

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer to a batch of the given channels; see ``Engine.run``."""
        full = np.zeros((len(batch), self._channels, *batch.shape[2:]), np.float32)
        full[:, self._position] = batch
        return super().run(full)

"""Timing and progress of a stage: one log line when it ends, a live line on a terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Seconds spent in a stage so far."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.seconds = 0.0

    def stop(self) -> float:
        """Fix and return the seconds since the start, rounded to milliseconds."""
        self.seconds = round(time.perf_counter() - self._start, 3)
        return self.seconds


@contextmanager
def stage(name: str) -> Iterator[StageClock]:
    """Log the start (DEBUG) and the duration (INFO) of a stage.

    Parameters
    ----------
    name
        The stage's name as it stands in ``timing_s``; it must carry no patient data.
    """
    logger = logging.getLogger(f"operators.stage.{name}")
    logger.debug("%s started", name)
    clock = StageClock()
    yield clock
    clock.stop()
    logger.info("%s finished in %.1f s", name, clock.seconds)

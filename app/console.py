"""Log lines and progress on standard error."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TextIO

STAGE_LOGGER = "operators.stage"
OWN_LOGGERS = ("app", "operators")
TICK_S = 1.0


class ProgressHandler(logging.Handler):
    """A live line per stage with its elapsed time, for a terminal.

    Parameters
    ----------
    stream
        The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(logging.DEBUG)
        self._stream = stream
        self._begun = time.monotonic()
        self._stage: str | None = None
        self._stage_begun = 0.0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Start or end a stage's line."""
        name = record.name.removeprefix(f"{STAGE_LOGGER}.")
        if record.levelno <= logging.DEBUG:
            self._stage, self._stage_begun = name, time.monotonic()
            self._wake = threading.Event()
            self._thread = threading.Thread(target=self._tick, args=(self._wake,), daemon=True)
            self._thread.start()
        else:
            self.stop()
            total = time.monotonic() - self._begun
            self._stream.write(f"\r\x1b[2K  {record.getMessage():<52}{total:7.1f} s in all\n")
            self._stream.flush()

    def stop(self) -> None:
        """End the live line, whether or not the stage has finished."""
        if self._thread is not None:
            self._wake.set()
            self._thread.join()
            self._thread = None
            self._stream.write("\r\x1b[2K")
            self._stream.flush()

    def _tick(self, wake: threading.Event) -> None:
        while True:
            elapsed = time.monotonic() - self._stage_begun
            self._stream.write(f"\r\x1b[2K  {self._stage} … {elapsed:.0f} s")
            self._stream.flush()
            if wake.wait(TICK_S):
                return


def set_up_logging(level: str | None, stream: TextIO = sys.stderr) -> ProgressHandler | None:
    """Send the application's log lines to a stream; on a terminal, show progress instead.

    Other libraries are heard from WARNING on. Python warnings and pydicom's are not shown at all:
    they may quote an attribute's value, hence a name, an identifier or a date.

    Parameters
    ----------
    level
        DEBUG, INFO, WARN, ERROR or CRITICAL; INFO when None.
    stream
        Where the lines go.

    Returns
    -------
    ProgressHandler or None
        The handler to stop before the last message, if the stream is a terminal.
    """
    chosen = {"WARN": "WARNING", None: "INFO"}.get(level, level) or "INFO"
    console = logging.StreamHandler(stream)
    console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[console], force=True)
    logging.captureWarnings(True)
    for name in ("py.warnings", "pydicom", "highdicom"):
        quiet = logging.getLogger(name)
        quiet.handlers = [logging.NullHandler()]
        quiet.propagate = False
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(chosen)
    stages = logging.getLogger(STAGE_LOGGER)
    stages.handlers = []
    stages.propagate = True
    stages.setLevel(logging.NOTSET)
    if not stream.isatty() or chosen == "DEBUG":
        return None
    progress = ProgressHandler(stream)
    stages.setLevel(logging.DEBUG)
    stages.propagate = False
    stages.addHandler(progress)
    return progress

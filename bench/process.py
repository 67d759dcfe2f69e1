"""Run a command in a process of its own and measure what it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

# Linux counts the memory of the process that forks into the peak of its child (it is kept over
# exec), so a large caller would be measured instead of the command. A small process in between
# has nothing to pass on.
_LAUNCH = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(child.pid, 0)
with os.fdopen(int(sys.argv[1]), "w") as pipe:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_maxrss, usage.ru_utime + usage.ru_stime],
              pipe)
"""


@dataclass(frozen=True)
class Measured:
    """What one command took."""

    code: int
    """Exit code; negative for a signal."""

    wall_s: float
    cpu_s: float
    """Processor seconds, of its own children too."""

    peak_mb: float
    """Largest resident memory of one process, in MiB."""


def run_measured(command: list[str], **popen: Any) -> Measured:
    """Run a command to its end.

    Parameters
    ----------
    command
        Program and arguments.
    popen
        Passed on to :class:`subprocess.Popen`.

    Returns
    -------
    Measured
        Exit code, seconds and peak memory, the same however large the caller is.

    Raises
    ------
    RuntimeError
        The command could not be started.
    """
    reader, writer = os.pipe()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(writer), *command]
    begun = time.perf_counter()
    with os.fdopen(reader, encoding="utf-8") as pipe:
        try:
            process = subprocess.Popen(launcher, pass_fds=(writer,), **popen)
        finally:
            os.close(writer)
        text = pipe.read()
        process.wait()
    wall = time.perf_counter() - begun
    if not text:
        raise RuntimeError(f"{command[0]} could not be started")
    code, peak_kib, cpu = json.loads(text)
    return Measured(code, wall, cpu, peak_kib / 1024)

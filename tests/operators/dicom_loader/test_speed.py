"""The header scan stays within its limit of 1.5 s for 2400 files (CPU time, warm)."""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.header_scan import LIMIT_S, make_input, measure

FILES = 240


def test_header_scan_within_its_limit(tmp_path: Path) -> None:
    make_input(tmp_path, FILES)
    cpu = statistics.median(cpu for _, cpu in measure(tmp_path, runs=3))
    assert cpu <= LIMIT_S * FILES / 2400

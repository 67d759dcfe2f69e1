"""What a command took is its own, not its caller's."""

from __future__ import annotations

import sys

import pytest

from bench.process import run_measured


def test_peak_memory_is_the_commands_own_however_large_the_caller_is() -> None:
    ballast = b"\x01" * (300 * 2**20)
    small = run_measured([sys.executable, "-S", "-c", "pass"])
    large = run_measured([sys.executable, "-S", "-c", "bytearray(b'1') * (200 * 2**20)"])
    assert len(ballast) == 300 * 2**20
    assert small.peak_mb < 60
    assert 200 < large.peak_mb < 260


def test_exit_code_and_processor_time() -> None:
    took = run_measured([sys.executable, "-c", "sum(range(10**7)); raise SystemExit(3)"])
    assert took.code == 3
    assert 0 < took.cpu_s <= took.wall_s * 4


def test_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="could not be started"):
        run_measured(["/nowhere/program"])

"""Fixtures shared by all tests: where the shared data and the external tools are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


def find_shared_data() -> Path | None:
    """The folder of real data beside the checkout, or None."""
    folder = ROOT.parent / "shared" / "data"
    return folder if folder.is_dir() else None


def _missing(what: str) -> None:
    if IN_CI:
        pytest.fail(f"{what} is missing; in CI no test may skip")
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared data folder; skips where it is absent, fails in CI."""
    folder = find_shared_data()
    if folder is None:
        _missing("the shared data folder beside the checkout")
        raise AssertionError
    return folder


@pytest.fixture(scope="session")
def open_ms(shared_data: Path) -> Path:
    """Real MS patients (open_ms_data)."""
    return shared_data / "open_ms"


@pytest.fixture(scope="session")
def need_tool():
    """A function that returns the path of a command-line tool; skips without it, fails in CI."""

    def need(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            _missing(f"the tool {name}")
            raise AssertionError
        return path

    return need

"""External programs that check the outputs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import _missing
from tests.operators.dicom_writer.validators import PIXELMED_JARS


@pytest.fixture(scope="session")
def dcmqi() -> str:
    """dcmqi's SEG reader, installed with the Python environment."""
    path = Path(sys.executable).parent / "segimage2itkimage"
    if not path.exists():
        _missing("dcmqi's segimage2itkimage")
    return str(path)


@pytest.fixture(scope="session")
def pixelmed(need_tool: Callable[[str], str]) -> tuple[str, Path]:
    """Java and the archive with PixelMed's SR validator."""
    java = need_tool("java")
    for jar in PIXELMED_JARS:
        if jar.exists():
            return java, jar
    _missing("PixelMed's validator (libpixelmed-java)")
    raise AssertionError

"""Run the application as a user does, and read back what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom

from bench.process import run_measured
from tests.conftest import ROOT


@dataclass(frozen=True)
class Run:
    """One finished run of ``python -m app``."""

    source: Path
    out: Path
    code: int
    log: str
    peak_mb: float
    """Largest resident memory of the process."""

    @property
    def results(self) -> dict[str, Any]:
        """results.json."""
        return json.loads((self.out / "results.json").read_text(encoding="utf-8"))

    def dicom(self) -> list[Path]:
        """Every file below OUT/dicom."""
        return sorted(p for p in (self.out / "dicom").rglob("*") if p.is_file())

    def of_modality(self, modality: str) -> list[Path]:
        """The DICOM objects of one modality."""
        return [
            path
            for path in self.dicom()
            if pydicom.dcmread(path, specific_tags=["Modality"]).Modality == modality
        ]

    def segmentation(self) -> hd.seg.Segmentation:
        """The one SEG."""
        (path,) = self.of_modality("SEG")
        return hd.seg.segread(path)


def run_app(source: Path, out: Path, *options: str) -> Run:
    """Run ``python -m app`` on a folder in a process of its own."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        took = run_measured(
            [sys.executable, "-m", "app", "-i", str(source), "-o", str(out), *options],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if not k.startswith("HOLOSCAN_")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.seek(0)
        return Run(source, out, took.code, log.read(), took.peak_mb)

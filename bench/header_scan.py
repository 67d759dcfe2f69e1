"""Measure the header scan: 2400 classic MR files, warm, median of several runs.

Usage: python bench/header_scan.py [--files 2400] [--runs 5]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from operators.dicom_loader.scan import scan_folder  # noqa: E402
from tests.operators.dicom_loader.builders import (  # noqa: E402
    Grid,
    make_classic_series,
    write_files,
)

LIMIT_S = 1.5
PRIVATE_ELEMENTS = 120
"""Private elements a header, which brings it to the 250 or so that scanners write."""


def add_scanner_ballast(dataset: Dataset) -> None:
    """Give a header the size of a real one: nested sequences and private elements."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = dataset.SOPClassUID
    reference.ReferencedSOPInstanceUID = generate_uid()
    dataset.ReferencedImageSequence = [reference] * 3
    procedure = Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator = "MRHEAD", "99LOCAL"
    procedure.CodeMeaning = "MR head with and without contrast"
    dataset.ProcedureCodeSequence = [procedure]
    for block_number, creator in enumerate(("SIEMENS CSA HEADER", "SIEMENS MR SDI 02")):
        block = dataset.private_block(0x0029 + 2 * block_number, creator, create=True)
        for offset in range(PRIVATE_ELEMENTS // 2):
            block.add_new(offset, "LO", f"value {offset}")
    block = dataset.private_block(0x0051, "SIEMENS MR HEADER", create=True)
    block.add_new(0x10, "OB", b"\0" * 4096)


def make_input(folder: Path, files: int) -> None:
    """Write two studies of several series, 160 slices each, nested by study and series."""
    slices = 160
    grid = Grid(shape=(slices, 64, 48), spacing_mm=(1.1, 0.9, 0.7))
    pixels = np.zeros(grid.shape, np.uint16)
    study_uids = [generate_uid(), generate_uid()]
    for number in range(-(-files // slices)):
        datasets = make_classic_series(
            grid,
            pixels=pixels,
            vendor=("siemens", "ge", "philips")[number % 3],
            study_uid=study_uids[number % 2],
            SeriesNumber=number + 1,
        )
        for dataset in datasets:
            add_scanner_ballast(dataset)
        wanted = min(slices, files - number * slices)
        write_files(datasets[:wanted], folder / f"study{number % 2}" / f"series{number:02d}")


def measure(folder: Path, runs: int) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each run, after one run that warms the file cache."""
    scan_folder(folder)
    times = []
    for _ in range(runs):
        wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        scan_folder(folder)
        now = resource.getrusage(resource.RUSAGE_SELF)
        cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        times.append((time.perf_counter() - wall, cpu))
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurement; exit code 1 when the median CPU time exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2400)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_input(folder, options.files)
        times = measure(folder, options.runs)
    print(f"{'run':>4} {'wall s':>8} {'CPU s':>8}")
    for number, (wall, cpu) in enumerate(times, start=1):
        print(f"{number:>4} {wall:>8.3f} {cpu:>8.3f}")
    wall = statistics.median(wall for wall, _ in times)
    cpu = statistics.median(cpu for _, cpu in times)
    print(f"{'med.':>4} {wall:>8.3f} {cpu:>8.3f}   {options.files} files, limit {LIMIT_S} s")
    return 0 if cpu <= LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())

"""The demonstration: a patient goes in as DICOM, and a summary of what comes back is shown."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from demo.open_ms import (
    FOLDER_VARIABLE,
    folder_from_environment,
    load_manifest,
    real_patient,
    show_progress,
)
from demo.patient import make_patient
from demo.summary import find_objects, read_results, summarise
from demo.synthetic import write_patient
from demo.truth import save_truth, truth_of
from demo.vendors import VENDORS
from operators.errors import InputError

_CACHE = Path(".cache")


def make_synthetic(folder: Path, vendor: str, seed: int) -> Path:
    """Write the synthetic patient below a folder and return the folder of its DICOM files."""
    _replace(folder)
    patient = make_patient(seed)
    name = next(v for v in VENDORS if v == vendor)
    files = write_patient(patient, folder / "dicom", name)
    save_truth(truth_of(patient), folder / "truth")
    print(
        f"Synthetic patient: {len(patient.studies)} studies, {len(files)} files in "
        f"{folder / 'dicom'}; what is true about it: {folder / 'truth' / 'truth.json'}"
    )
    return folder / "dicom"


def make_real(folder: Path, number: int) -> Path:
    """Wrap a real patient below a folder and return the folder of its DICOM files.

    Raises
    ------
    InputError
        When the images are neither in ``OPEN_MS_DIR`` nor can be downloaded.
    """
    _replace(folder)
    source = folder_from_environment()
    if source is None:
        print(f"Downloading patient {number} of open_ms_data ({FOLDER_VARIABLE} is not set)")
    files = real_patient(
        folder / "dicom",
        number,
        folder=source,
        cache=_CACHE / "open_ms",
        progress=show_progress,
    )
    manifest = load_manifest()
    print(f"Patient {number} of open_ms_data as DICOM: {len(files)} files in {folder / 'dicom'}")
    print(f"Data: {manifest.licence}. Please cite:\n{manifest.citation}")
    return folder / "dicom"


def _replace(folder: Path) -> None:
    """Remove what an earlier demonstration wrote there."""
    for name in ("dicom", "truth"):
        shutil.rmtree(folder / name, ignore_errors=True)


def run_application(source: Path, out: Path, models: Path | None) -> int:
    """Run ``python -m app`` with its progress shown, and return its exit code."""
    command = [sys.executable, "-m", "app", "-i", str(source), "-o", str(out)]
    if models is not None:
        command += ["-m", str(models)]
    print(f"Running {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the application's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Run the application on a synthetic patient, a real one or a folder of yours, "
        "and show what it found.",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--data", type=Path, metavar="FOLDER", help="a folder of DICOM files")
    which.add_argument(
        "--real",
        action="store_true",
        help=f"a real patient of open_ms_data, from {FOLDER_VARIABLE} or downloaded",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="output folder (out)")
    parser.add_argument("--models", type=Path, help="folder of the model packages")
    parser.add_argument("--vendor", choices=sorted(VENDORS), default="siemens")
    parser.add_argument("--seed", type=int, default=1, help="of the synthetic patient (1)")
    parser.add_argument("--patient", type=int, default=12, help="with --real (12)")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        if options.data is not None:
            source = options.data
        elif options.real:
            source = make_real(_CACHE / f"demo-real-{options.patient:02d}", options.patient)
        else:
            source = make_synthetic(_CACHE / "demo-synthetic", options.vendor, options.seed)
        code = run_application(source, options.out, options.models)
        if code != 0:
            return code
        results = read_results(options.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print()
    print(summarise(results, options.out, find_objects(options.out / "dicom")))
    print(f"{time.monotonic() - begun:.0f} s in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())

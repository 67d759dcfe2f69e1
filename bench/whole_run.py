"""Time and memory of a whole run by stage: ``python -m bench.whole_run``.

Runs the application on the synthetic patient and, where there is a copy of open_ms_data (in
``OPEN_MS_DIR`` or in ``../shared/data/open_ms`` beside the checkout), on its patient 12; prints a
table and writes bench/whole_run.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.process import run_measured
from demo.open_ms import folder_from_environment, real_patient
from demo.patient import make_patient
from demo.synthetic import write_patient

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench" / "whole_run.json"


def measure(source: Path, out: Path, models: Path) -> dict[str, Any]:
    """One run: seconds by stage, wall seconds and CPU seconds of the process, peak memory."""
    took = run_measured(
        [sys.executable, "-m", "app", "-i", str(source), "-o", str(out), "-m", str(models)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    if took.code:
        raise RuntimeError(f"the application ended with exit code {took.code}")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return {
        "stages_s": results["timing_s"],
        "wall_s": round(took.wall_s, 1),
        "cpu_s": round(took.cpu_s, 1),
        "peak_mb": round(took.peak_mb),
    }


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    options = parser.parse_args()
    real = folder_from_environment() or ROOT.parent / "shared" / "data" / "open_ms"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_patient(make_patient(), folder / "synthetic", "siemens")
        results["synthetic, two studies"] = measure(
            folder / "synthetic", folder / "out", options.models
        )
        if real.is_dir():
            real_patient(folder / "real", 12, folder=real)
            results["patient 12, two studies"] = measure(
                folder / "real", folder / "out12", options.models
            )
    stages = list(next(iter(results.values()))["stages_s"])
    print(f"{'seconds':<26}" + "".join(f"{name:>26}" for name in results))
    for stage in stages:
        row = "".join(f"{result['stages_s'][stage]:>26.1f}" for result in results.values())
        print(f"{stage:<26}{row}")
    for key, label in (
        ("wall_s", "whole process, wall"),
        ("cpu_s", "whole process, CPU"),
        ("peak_mb", "peak memory, MB"),
    ):
        print(f"{label:<26}" + "".join(f"{result[key]:>26}" for result in results.values()))
    RESULT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

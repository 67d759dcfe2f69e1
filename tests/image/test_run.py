"""The image as a hospital runs it: no network, read-only, no capabilities, a user without a name.

Every output is compared with a run outside the container; see container.compare for what may
differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from container.compare import differences
from tests.e2e.running import Run, run_app
from tests.e2e.small_study import series, write
from tests.image.conftest import Container, Done

# The application as in the container, with the peak memory of its process told at the end.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(["/var/holoscan/tools"])
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def test_it_finishes_hardened_and_gives_every_object(
    run_inside: Done, measured: Callable[[str, float], None]
) -> None:
    assert run_inside.code == 0, run_inside.errors
    measured("cold start to result, s", run_inside.seconds)
    results = json.loads((run_inside.out / "results.json").read_text(encoding="utf-8"))
    measured("cold start to result, stages only, s", sum(results["timing_s"].values()))
    assert (run_inside.out / "report.pdf").stat().st_size > 10_000
    assert len(list((run_inside.out / "dicom").rglob("*.dcm"))) > 4


def test_the_result_equals_the_result_outside(
    run_inside: Done, run_outside: Run, measured: Callable[[str, float], None]
) -> None:
    found = differences(run_outside.out, run_inside.out)
    assert not found, "\n".join(found[:40])
    measured("peak memory outside, MB", run_outside.peak_mb)


def test_a_warm_run_stays_within_the_memory_limit(
    run_inside: Done,
    synthetic: Path,
    container: Container,
    reachable: Path,
    measured: Callable[[str, float], None],
) -> None:
    """The second run; its peak memory is told by the process itself."""
    done = container.run(
        "-c", MEASURE, source=synthetic, out=reachable / "warm", options=("--entrypoint=python3",)
    )
    assert done.code == 0, done.errors
    peak_mb = int(done.output.rsplit("peak", 1)[1]) / 1024
    measured("warm run, s", done.seconds)
    measured("peak memory inside, MB", peak_mb)
    assert peak_mb < 6 * 1024
    assert not differences(run_inside.out, done.out)


@pytest.mark.parametrize("case", ["empty", "missing_slice", "text"])
def test_broken_input_ends_with_the_applications_code_and_no_dicom(
    case: str, container: Container, reachable: Path
) -> None:
    source, out = reachable / f"{case}-in", reachable / f"{case}-out"
    if case == "missing_slice":
        flair = series()
        del flair[17]
        write(flair, source)
    else:
        source.mkdir()
    if case == "text":
        (source / "report.dcm").write_text("no image here\n" * 50)
    for path in [source, *source.iterdir()]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    done = container.run(source=source, out=out)
    outside = run_app(source, reachable / f"{case}-outside")
    assert done.code == outside.code == 2
    inside = done.errors.replace("/var/holoscan/input", "IN")
    messages = [
        text[text.index("error: ") :].strip()
        for text in (inside, outside.log.replace(str(source), "IN"))
    ]
    assert messages[0] == messages[1]
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_a_damaged_model_is_a_configuration_error(
    synthetic: Path, container: Container, reachable: Path
) -> None:
    models = reachable / "no-models"
    models.mkdir()
    models.chmod(0o755)
    mount = ("-v", f"{models}:/opt/holoscan/models:ro")
    done = container.run(source=synthetic, out=reachable / "no-model-out", options=mount)
    assert done.code == 3, done.errors
    assert not [path for path in done.out.rglob("*") if path.is_file()]

"""Tests of a built image; run by ``make image-test``, which names the image in MS_IMAGE.

Without that variable they are not collected: they need a container engine and an image.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from demo.patient import make_patient
from demo.synthetic import write_patient
from tests.e2e.running import Run, run_app

IMAGE = os.environ.get("MS_IMAGE", "")
DOCKER = os.environ.get("DOCKER", "docker")
NOBODY = 54321
"""A user id that exists in no image and on no machine."""
HARDENED = (
    *("--rm", "--network=none", "--read-only", "--tmpfs", "/tmp", "--cap-drop=ALL"),
    *("--security-opt=no-new-privileges", "--user", f"{NOBODY}:{NOBODY}", "--memory", "6g"),
)

if not IMAGE:
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Done:
    """One finished container."""

    code: int
    output: str
    errors: str
    seconds: float
    out: Path


class Container:
    """Runs the image under test, hardened."""

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the docker client."""
        return subprocess.run([DOCKER, *words], capture_output=True, text=True, check=False)

    def run(
        self,
        *words: str,
        source: Path | None = None,
        out: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> Done:
        """Run the image on a read-only input folder; ``words`` go to its entrypoint."""
        mounts: list[str] = []
        if source is not None:
            mounts += ["-v", f"{source}:/var/holoscan/input:ro"]
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            os.chown(out, NOBODY, NOBODY)
            mounts += ["-v", f"{out}:/var/holoscan/output"]
        begun = time.monotonic()
        done = self.docker("run", *HARDENED, *mounts, *options, IMAGE, *words)
        seconds = time.monotonic() - begun
        return Done(done.returncode, done.stdout, done.stderr, seconds, out or Path())


@pytest.fixture(scope="session")
def container() -> Container:
    return Container()


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic patient of the demonstration, two studies."""
    folder = tmp_path_factory.mktemp("patient")
    write_patient(make_patient(), folder / "in", "siemens")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / "in"


@pytest.fixture(scope="session")
def run_outside(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same patient outside the container."""
    done = run_app(synthetic, tmp_path_factory.mktemp("outside") / "out")
    assert done.code == 0, done.log
    return done


@pytest.fixture(scope="session")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is mounted into containers."""
    return tmp_path_factory.mktemp("mounts")


@pytest.fixture(scope="session")
def run_inside(synthetic: Path, container: Container, reachable: Path) -> Done:
    """The first run of the image, on the same patient."""
    return container.run(source=synthetic, out=reachable / "cold")


@pytest.fixture(scope="session")
def measured() -> Iterator[Callable[[str, float], None]]:
    """Takes measurements by name; they are printed and written to MS_IMAGE_REPORT at the end."""
    values: dict[str, float] = {}

    def measure(name: str, value: float) -> None:
        values[name] = round(value, 1)

    yield measure
    text = json.dumps(values, indent=1)
    if target := os.environ.get("MS_IMAGE_REPORT"):
        Path(target).write_text(text + "\n", encoding="utf-8")

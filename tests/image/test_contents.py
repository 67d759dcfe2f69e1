"""What the image is: labels, size, user, manifests, nothing that does not belong in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from container.bill import BILL, REPORT
from container.lock import pins
from operators.version import NAME, VERSION
from tests.conftest import ROOT
from tests.image.conftest import DOCKER, IMAGE, NOBODY, Container

LIMIT_GB = {"cpu": 2.5, "cuda13": 8.0}[os.environ.get("ACCELERATOR") or "cpu"]
FORBIDDEN = ("gcc", "cc", "g++", "c++", "clang", "ld", "as", "make", "git", "nvcc")


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    """``docker image inspect`` of the image."""
    done = subprocess.run([DOCKER, "image", "inspect", IMAGE], capture_output=True, check=True)
    return json.loads(done.stdout)[0]


def test_it_is_small_enough(
    description: dict[str, Any], measured: Callable[[str, float], None]
) -> None:
    measured("image size, MB", description["Size"] / 1e6)
    assert description["Size"] < LIMIT_GB * 1e9


def test_labels_and_user(description: dict[str, Any]) -> None:
    labels = description["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == NAME
    assert labels["org.opencontainers.image.version"] == VERSION
    assert description["Config"]["User"] == "10001:10001"


def test_show_prints_the_manifests(container: Container) -> None:
    app = container.run("show", "app")
    assert app.code == 0, app.errors
    manifest = json.loads(app.output)
    assert manifest["version"] == VERSION
    assert json.loads(manifest["command"]) == ["python3", "/opt/holoscan/app"]
    package = json.loads(container.run("show", "pkg").output)
    here = {path.parent.name for path in (ROOT / "models").glob("*/model.json")}
    assert {Path(model["path"]).name for model in package["models"]} == here
    assert container.run("show", "models").code == 64


def test_the_variables_name_what_is_there(container: Container) -> None:
    lines = container.run("env").output.splitlines()
    variables = dict(line.split("=", 1) for line in lines if line.startswith("HOLOSCAN_"))
    assert len(variables) >= 12
    paths = [path for path in variables.values() if path.startswith("/")]
    done = container.docker("run", "--rm", "--entrypoint", "ls", IMAGE, "-d", *paths)
    assert done.returncode == 0, done.stderr


def test_extract_gives_app_models_and_documents(container: Container, reachable: Path) -> None:
    export = reachable / "export"
    export.mkdir()
    os.chown(export, NOBODY, NOBODY)
    done = container.run("extract", options=("-v", f"{export}:/var/run/holoscan/export"))
    assert done.code == 0, done.errors
    assert (export / "app" / "app" / "application.py").is_file()
    assert (export / "config" / "pkg.json").is_file()
    assert (export / "config" / "app.yaml").read_bytes() == (ROOT / "app.yaml").read_bytes()
    for network in (ROOT / "models").glob("*/ensemble.onnx"):
        copy = export / "models" / network.parent.name / network.name
        assert copy.read_bytes() == network.read_bytes()
    bill = json.loads((export / "docs" / BILL).read_text(encoding="utf-8"))
    assert bill["bomFormat"] == "CycloneDX"
    named = {(entry["name"], entry["version"]) for entry in bill["components"]}
    locked = pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    missing = set(locked) - {re.sub(r"[-_.]+", "-", name) for name, _ in named}
    assert not missing
    assert {"libc6", "python3.11-minimal", "bash"} & {name for name, _ in named}
    report = (export / "docs" / REPORT).read_text(encoding="utf-8")
    assert "| pydicom |" in report
    assert "## GPL and LGPL" in report


def test_no_compiler_and_no_cache_is_left(container: Container) -> None:
    script = (
        f"for tool in {' '.join(FORBIDDEN)}; do command -v $tool; done; "
        "find /var/cache/apt /var/lib/apt/lists /root/.cache /tmp /var/tmp -type f 2>/dev/null; "
        "find / -xdev \\( -name '*.whl' -o -name 'pip.conf' -o -name '*.deb' \\) "
        "-not -path '*/ensurepip/*' -not -path '/usr/share/python-wheels/*' 2>/dev/null"
    )
    done = container.docker("run", "--rm", "--user=0", "--entrypoint=sh", IMAGE, "-c", script)
    assert done.stdout.split() == []


def test_nothing_is_writable_but_the_folders_to_mount(container: Container) -> None:
    script = "find / -xdev -writable \\( -type f -o -type d \\) -not -path '/proc/*' 2>/dev/null"
    user = f"--user={NOBODY}:{NOBODY}"
    done = container.docker("run", "--rm", user, "--entrypoint=sh", IMAGE, "-c", script)
    outside = {"/tmp", "/var/tmp", "/run/lock", "/dev/shm", "/dev/mqueue", "/var/lock"}
    found = set(done.stdout.split()) - outside
    assert found == {f"/var/holoscan/{name}" for name in ("input", "output", "logs", "engines")}


def registry_hosts() -> set[str]:
    """The package registries that pip is set to on this machine, public ones left out."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    hosts = set(re.findall(r"https?://(?:[^/@\s']*@)?([^/:\s']+)", listing))
    return {host for host in hosts if not re.search(r"(pypi|pythonhosted)\.org$|^localhost$", host)}


def test_nothing_of_the_building_machine_is_in_a_layer(container: Container) -> None:
    """Neither its paths nor its registries: pip's settings are secrets of the build."""
    history = container.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert "ENTRYPOINT" in history.stdout
    script = "cat /etc/pip.conf /run/ca_bundle.pem 2>/dev/null; find / -xdev -name direct_url.json"
    files = container.docker("run", "--rm", "--user=0", "--entrypoint=sh", IMAGE, "-c", script)
    assert files.stdout == ""
    for word in {str(ROOT), *registry_hosts()}:
        assert word not in history.stdout
        where = ("/etc", "/opt/holoscan", "/var")
        found = container.docker(
            *("run", "--rm", "--user=0", "--entrypoint=grep", IMAGE, "-rlF", word, *where)
        )
        assert found.stdout == "", word

"""The entrypoint: show, extract, and an application whose exit code is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from container import entrypoint
from tests.conftest import ROOT


@pytest.fixture
def image(tmp_path: Path) -> dict[str, str]:
    """Folders and variables as in an image, with a small application that ends as it is told."""
    root = tmp_path / "image"
    (root / "app").mkdir(parents=True)
    (root / "app" / "__main__.py").write_text(
        "import os, signal, sys\n"
        "print('ran', sys.argv[1:])\n"
        "if sys.argv[1:] == ['die']: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    (root / "models" / "one").mkdir(parents=True)
    (root / "models" / "one" / "model.json").write_text("{}")
    (root / "docs").mkdir()
    (root / "docs" / "sbom.cdx.json").write_text("{}")
    (root / "app.yaml").write_text("a: 1\n")
    command = json.dumps([sys.executable, str(root / "app")])
    (root / "app.json").write_text(json.dumps({"command": command, "version": "7"}))
    (root / "pkg.json").write_text(json.dumps({"models": []}))
    return os.environ | {
        "HOLOSCAN_APPLICATION": str(root / "app"),
        "HOLOSCAN_MODEL_PATH": str(root / "models"),
        "HOLOSCAN_DOCS_PATH": str(root / "docs"),
        "HOLOSCAN_CONFIG_PATH": str(root / "app.yaml"),
        "HOLOSCAN_APP_MANIFEST_PATH": str(root / "app.json"),
        "HOLOSCAN_PKG_MANIFEST_PATH": str(root / "pkg.json"),
    }


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "container.entrypoint", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 1, 2, 3, 77])
def test_the_exit_code_is_the_applications(image: dict[str, str], code: int) -> None:
    done = run(image, str(code), "-i", "in")
    assert done.returncode == code
    assert done.stdout == f"ran ['{code}', '-i', 'in']\n"


def test_a_signal_ends_it_as_it_ended_the_application(image: dict[str, str]) -> None:
    assert run(image, "die").returncode == -signal.SIGKILL


def test_show_prints_json(image: dict[str, str]) -> None:
    assert json.loads(run(image, "show", "app").stdout)["version"] == "7"
    assert json.loads(run(image, "show", "pkg").stdout) == {"models": []}
    both = run(image, "show")
    assert " app.json " in both.stdout
    assert " pkg.json " in both.stdout
    wrong = run(image, "show", "all")
    assert wrong.returncode == entrypoint.WRONG_USE
    assert "'all' is not app or pkg" in wrong.stderr


def test_extract_copies_all_or_what_is_mounted(
    image: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in image.items():
        monkeypatch.setenv(name, value)
    whole = tmp_path / "export"
    whole.mkdir()
    assert entrypoint.extract(whole) == 0
    files = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert files == {
        "app/__main__.py",
        "config/app.json",
        "config/pkg.json",
        "config/app.yaml",
        "models/one/model.json",
        "docs/sbom.cdx.json",
    }
    part = tmp_path / "part"
    (part / "docs").mkdir(parents=True)
    assert entrypoint.extract(part) == 0
    assert [path.name for path in part.rglob("*") if path.is_file()] == ["sbom.cdx.json"]


def test_extract_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entrypoint.extract(tmp_path / "absent") == entrypoint.WRONG_USE
    assert "mount a folder" in capsys.readouterr().err

"""Installation, upgrade, rollback and backup, with a stand-in for docker and systemctl."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.appliance.listener.settings import load_listener_settings
from tests.conftest import ROOT

FOLDER = ROOT / "deploy/appliance"

DOCKER = """#!/bin/bash
# keeps its state in $STATE; an image whose name holds "bad" never becomes healthy
echo "docker $*" >> "$STATE/calls"
case "$1" in
  load) echo "Loaded image: $(cat "${@: -1}")" ;;
  inspect) if grep -q bad "$STATE/image"; then echo unhealthy; else echo healthy; fi ;;
  compose)
    [[ "$*" == *" ps -q "* ]] && { echo id; exit 0; }
    [[ "$*" == *" up "* ]] && sed -n 's/^IMAGE=//p' "$3" > "$STATE/image"
    true ;;
esac
"""


class Site:
    """A box with its own folders."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, folder / "state"
        for name in ("state", "bin", "etc/ms-lesion", "units", "images"):
            (folder / name).mkdir(parents=True)
        for name, text in {
            "docker": DOCKER,
            "systemctl": DOCKER.replace('"docker', '"sys'),
        }.items():
            program = folder / "bin" / name
            program.write_text(text)
            program.chmod(0o755)
        (folder / "etc/ms-lesion/listener.yaml").write_text((FOLDER / "listener.yaml").read_text())

    def image(self, name: str) -> str:
        path = self.folder / "images" / f"{name.replace(':', '-')}.tar"
        path.write_text(name)
        digest = hashlib.sha256(name.encode()).hexdigest()
        path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
        return str(path)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "STATE": str(self.state),
            "CONFIG": str(self.folder / "etc/ms-lesion"),
            "SPOOL": str(self.folder / "spool"),
            "HOME_FOLDER": str(self.folder / "opt"),
            "UNITS": str(self.folder / "units"),
            "RUN_AS": f"{os.getuid()}:{os.getgid()}",
            "HEALTH_TRIES": "2",
            "HEALTH_WAIT": "0",
        }
        return subprocess.run(
            [str(FOLDER / "appliance.sh"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def versions(self) -> dict[str, str]:
        lines = (self.folder / "etc/ms-lesion/version.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def running(self) -> str:
        return (self.state / "image").read_text().strip()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    (site.state / "image").write_text("ms:1\n")
    done = site.run("install", site.image("ms:1"))
    assert done.returncode == 0, done.stderr
    return site


def test_installation_puts_the_files_in_place(site: Site) -> None:
    assert site.versions == {"IMAGE": "ms:1"}
    assert (site.folder / "units/ms-lesion.service").is_file()
    assert (site.folder / "opt/appliance.sh").is_file()
    assert "sys enable --now ms-lesion.service" in (site.state / "calls").read_text()


def test_upgrade_and_rollback(site: Site) -> None:
    assert site.run("upgrade", site.image("ms:2")).returncode == 0
    assert (site.running, site.versions) == ("ms:2", {"IMAGE": "ms:2", "PREVIOUS": "ms:1"})
    assert site.run("rollback").returncode == 0
    assert (site.running, site.versions["IMAGE"]) == ("ms:1", "ms:1")
    # and forward again
    assert site.run("rollback").returncode == 0
    assert site.running == "ms:2"


def test_upgrade_that_is_not_healthy_leaves_the_old_version_running(site: Site) -> None:
    done = site.run("upgrade", site.image("ms:bad"))
    assert done.returncode == 1
    assert "ms:1 runs again" in done.stderr
    assert (site.running, site.versions["IMAGE"]) == ("ms:1", "ms:1")


def test_damaged_image_is_not_loaded(site: Site) -> None:
    path = Path(site.image("ms:2"))
    path.write_text("other")
    done = site.run("upgrade", str(path))
    assert done.returncode == 1
    assert "differs from its checksum" in done.stderr
    assert site.versions == {"IMAGE": "ms:1"}
    path.with_name(path.name + ".sha256").unlink()
    assert "checksum is missing" in site.run("upgrade", str(path)).stderr


def test_gpu_is_a_line_in_the_settings(site: Site) -> None:
    with (site.folder / "etc/ms-lesion/version.env").open("a") as stream:
        stream.write("GPU=1\n")
    assert site.run("start").returncode == 0
    assert "compose.gpu.yaml" in (site.state / "calls").read_text().splitlines()[-1]


def test_backup_and_restore(site: Site) -> None:
    spool = site.folder / "spool"
    for name in ("store/a/1.2/1.2.3.dcm", "jobs/failed/j.json", "partial/half"):
        (spool / name).parent.mkdir(parents=True, exist_ok=True)
        (spool / name).write_text(name)
    saved = str(site.folder / "saved.tar.gz")
    assert site.run("backup", saved).returncode == 0
    assert "not empty" in site.run("restore", saved).stderr
    spool.rename(site.folder / "lost")
    (site.folder / "etc/ms-lesion/listener.yaml").unlink()
    done = site.run("restore", saved)
    assert done.returncode == 0, done.stderr
    assert (spool / "store/a/1.2/1.2.3.dcm").read_text() == "store/a/1.2/1.2.3.dcm"
    assert (spool / "jobs/failed/j.json").is_file()
    assert (site.folder / "etc/ms-lesion/listener.yaml").is_file()


def test_unknown_command_shows_the_usage(site: Site) -> None:
    done = site.run("explode")
    assert done.returncode == 2
    assert "appliance.sh upgrade IMAGE.tar" in done.stderr


def test_installation_without_settings_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    (tmp_path / "etc/ms-lesion/listener.yaml").unlink()
    assert "write the settings first" in site.run("install", site.image("ms:1")).stderr


def test_shipped_settings_are_valid_and_fit_the_compose_file() -> None:
    settings = load_listener_settings(FOLDER / "listener.yaml")
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["listener"]
    targets = {one["target"]: one for one in service["volumes"]}
    assert str(settings.spool) in targets
    assert targets["/etc/ms-lesion"]["read_only"] is True
    assert service["ports"] == [f"${{DICOM_PORT:-104}}:{settings.port}"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "docker.sock" not in (FOLDER / "compose.yaml").read_text()
    assert service["entrypoint"][-2:] == ["-c", "/etc/ms-lesion/listener.yaml"]

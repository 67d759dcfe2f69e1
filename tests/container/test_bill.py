"""The bill of materials is valid CycloneDX and complete, and unnoted GPL code stops the build."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from container.bill import NOTES, LicenceError, check_notes, main, make_bill, make_report
from container.inventory import Component, debian_packages, model_packages, python_packages
from container.lock import pins
from tests.conftest import ROOT

APPLICATION = {"title": "Application", "version": "1.2"}
SITE = Path(sysconfig.get_path("purelib"))
COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: GPL-2+
 long text
Files: lib/*
License: LGPL-2.1+
"""
STATUS = """Package: dash
Status: install ok installed
Architecture: amd64
Version: 0.5.12-2

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def make_package(
    site: Path, name: str, metadata: str = "", texts: dict[str, str] | None = None
) -> None:
    """A Python package as pip installs it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{metadata}")
    for path, text in (texts or {}).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    names = [*(texts or {}), f"{info.name}/METADATA", f"{info.name}/RECORD"]
    (info / "RECORD").write_text("".join(f"{path},,\n" for path in names))


def test_licences_are_read_as_declared(tmp_path: Path) -> None:
    make_package(tmp_path, "modern", "License-Expression: MIT\n")
    make_package(tmp_path, "older", "Classifier: License :: OSI Approved :: BSD License\n")
    make_package(tmp_path, "oldest", "License: ISC\n")
    make_package(tmp_path, "silent")
    found = {c.name: c for c in python_packages(tmp_path)}
    licences = {name: component.licence for name, component in found.items()}
    assert licences == {
        "modern": "MIT",
        "older": "BSD License",
        "oldest": "ISC",
        "silent": "not stated",
    }
    assert not any(component.gpl for component in found.values())


@pytest.mark.parametrize(
    ("metadata", "texts", "found"),
    [
        ("License-Expression: LGPL-3.0-or-later\n", {}, "declared"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3\n", {}, "declared"),
        ("License-Expression: MIT\n", {"p/COPYING": "GNU GENERAL PUBLIC\n  LICENSE v3"}, "text"),
        ("License-Expression: MIT\n", {"p.libs/libgfortran-04.so.5": "x"}, "library"),
    ],
)
def test_gpl_code_is_found_and_needs_a_note(
    tmp_path: Path, metadata: str, texts: dict[str, str], found: str
) -> None:
    make_package(tmp_path, "p", metadata, texts)
    (package,) = python_packages(tmp_path)
    assert [finding.split(":")[0] for finding in package.gpl] == [found]
    with pytest.raises(LicenceError, match=r"p 1\.0"):
        check_notes([package], {"q": "fine"})
    check_notes([package], {"p": "fine"})


def test_a_mention_of_the_gpl_is_no_finding(tmp_path: Path) -> None:
    text = "This licence is compatible with the GPL (the GNU General Public License)."
    make_package(tmp_path, "p", "License-Expression: PSF-2.0\n", {"p/LICENSE": text})
    assert not python_packages(tmp_path)[0].gpl


def test_debian_packages_are_those_installed(tmp_path: Path) -> None:
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    (tmp_path / "usr/share/doc/dash").mkdir(parents=True)
    (tmp_path / "usr/share/doc/dash/copyright").write_text(COPYRIGHT)
    (package,) = debian_packages(tmp_path)
    assert (package.name, package.version) == ("dash", "0.5.12-2")
    assert package.licence == "GPL-2+; LGPL-2.1+"


def runtime_packages() -> list[Component]:
    """This environment's packages that the image gets too."""
    locked = pins((ROOT / "requirements.lock").read_text(encoding="utf-8"))
    return [component for component in python_packages(SITE) if component.name in locked]


def test_the_notes_fit_the_packages_of_the_image() -> None:
    notes = yaml.safe_load(NOTES.read_text(encoding="utf-8"))
    packages = runtime_packages()
    check_notes(packages, notes)
    assert {package.name for package in packages if package.gpl} == notes.keys()


def test_the_bill_is_valid_and_complete() -> None:
    components = [
        *model_packages(ROOT / "models"),
        *runtime_packages(),
        Component("deb", "dash", "0.5.12-2", "GPL-2+", architecture="amd64"),
    ]
    text = make_bill(components, APPLICATION, datetime(2026, 1, 2, tzinfo=UTC))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["name"] == "Application"
    assert len(bill["components"]) == len(components)
    entries = {entry["name"]: entry for entry in bill["components"]}
    assert entries["pydicom"]["purl"].startswith("pkg:pypi/pydicom@")
    assert entries["dash"]["purl"] == "pkg:deb/debian/dash@0.5.12-2?arch=amd64"
    model = entries[model_packages(ROOT / "models")[0].name]
    assert model["type"] == "machine-learning-model"
    assert len(model["hashes"][0]["content"]) == 64


def test_the_report_has_every_package_with_its_note() -> None:
    package = Component("pypi", "p", "1.0", "MIT", gpl=("text: COPYING",))
    plain = replace(package, name="q", gpl=(), libraries=("libz.so.1",))
    report = make_report([package, plain], APPLICATION, {"p": "Why it may be here."})
    assert "- **p 1.0**: Why it may be here." in report
    assert "| q | 1.0 | MIT |" in report
    assert "- q: libz.so.1" in report
    assert "Research use only" in report


def test_the_command_fails_without_writing_where_a_note_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_package(tmp_path / "site", "evil", "License-Expression: GPL-3.0-only\n")
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    options = ["--site", str(tmp_path / "site"), "--root", str(tmp_path)]
    assert main([*options, "--out", str(tmp_path / "docs")]) == 1
    assert "evil 1.0" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
    (tmp_path / "site" / "evil-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: evil\nVersion: 1.0\nLicense-Expression: MIT\n"
    )
    assert main([*options, "--out", str(tmp_path / "docs")]) == 0
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"sbom.cdx.json", "licences.md"}


def test_the_environment_has_the_packages_of_the_lock() -> None:
    """Else the tests above would look at nothing."""
    assert len(runtime_packages()) > 60
    assert len(list(distributions(path=[str(SITE)]))) >= len(runtime_packages())

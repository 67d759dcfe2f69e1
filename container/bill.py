"""Software bill of materials and licence report of the image, made while it is built.

``python -m container.bill --site SITE --root / --out DOCS`` writes ``sbom.cdx.json`` (CycloneDX
1.6) and ``licences.md``, and fails where GPL code in a Python package has no note in
``licence_notes.yaml``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component as CycloneComponent
from cyclonedx.model.component import ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from container.inventory import Component, debian_packages, model_packages, python_packages

ROOT = Path(__file__).resolve().parents[1]
NOTES = Path(__file__).with_name("licence_notes.yaml")
BILL, REPORT = "sbom.cdx.json", "licences.md"


class LicenceError(ValueError):
    """GPL code in the image that nobody has looked at."""


def check_notes(components: Sequence[Component], notes: Mapping[str, str]) -> None:
    """Refuse GPL code without a note.

    Raises
    ------
    LicenceError
        Naming each package and where the licence was found.
    """
    unknown = [c for c in components if c.kind == "pypi" and c.gpl and c.name not in notes]
    if unknown:
        found = "; ".join(f"{c.name} {c.version} ({', '.join(c.gpl)})" for c in unknown)
        raise LicenceError(
            f"GPL code without a note: {found}. Replace the package, or say in "
            f"container/{NOTES.name} why it may be in the image."
        )


def make_bill(
    components: Sequence[Component], application: Mapping[str, Any], made: datetime
) -> str:
    """Make the CycloneDX document as JSON text.

    Parameters
    ----------
    components
        All that the image holds.
    application
        ``title`` and ``version`` of the application, from app.yaml.
    made
        When the image was built.
    """
    subject = CycloneComponent(
        type=ComponentType.APPLICATION,
        name=application["title"],
        version=application["version"],
        bom_ref="application",
    )
    bom = Bom(components=[_entry(component) for component in components])
    bom.metadata.component = subject
    bom.metadata.timestamp = made
    bom.register_dependency(subject, bom.components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)


def make_report(
    components: Sequence[Component], application: Mapping[str, Any], notes: Mapping[str, str]
) -> str:
    """Make the licence report as a Markdown page."""
    lines = [
        f"# Licences in the image of {application['title']} {application['version']}",
        "",
        "Research use only. Not a medical device.",
        "",
        "As each package states it. The full texts lie in the image: of a Python package in its",
        "`*.dist-info` folder, of a Debian package in `/usr/share/doc/PACKAGE/copyright`.",
        "",
        "## GPL and LGPL",
        "",
        "Python packages that declare it, carry its text or bring a library under it, each with",
        "why it is here. The Debian packages of the base system (shell, core utilities, C library)",
        "are separate programs and libraries, distributed unchanged; their sources are in Debian's",
        "archive under the same version.",
        "",
    ]
    for component in components:
        if component.gpl:
            lines += [f"- **{component.name} {component.version}**: {notes[component.name]}"]
            lines += [f"    - {finding}" for finding in component.gpl]
    for kind, heading in (
        ("model", "Models"),
        ("pypi", "Python packages"),
        ("deb", "Debian packages"),
    ):
        chosen = [component for component in components if component.kind == kind]
        lines += ["", f"## {heading} ({len(chosen)})", "", "| name | version | licence |"]
        lines += ["|---|---|---|"]
        lines += [f"| {c.name} | {c.version} | {c.licence.replace('|', '/')} |" for c in chosen]
    brought = [component for component in components if component.libraries]
    lines += ["", "## Shared libraries inside wheels", ""]
    lines += [f"- {c.name}: {', '.join(c.libraries)}" for c in brought]
    return "\n".join(lines) + "\n"


def _entry(component: Component) -> CycloneComponent:
    properties = [Property(name="library", value=name) for name in component.libraries]
    properties += [Property(name="gpl", value=finding) for finding in component.gpl]
    return CycloneComponent(
        type=(
            ComponentType.MACHINE_LEARNING_MODEL
            if component.kind == "model"
            else ComponentType.LIBRARY
        ),
        name=component.name,
        version=component.version,
        bom_ref=f"{component.kind}:{component.name}",
        purl=_purl(component),
        licenses=[DisjunctiveLicense(name=component.licence)],
        hashes=(
            [HashType(alg=HashAlgorithm.SHA_256, content=component.sha256)]
            if component.sha256
            else []
        ),
        properties=properties,
    )


def _purl(component: Component) -> PackageURL | None:
    if component.kind == "pypi":
        return PackageURL("pypi", name=component.name, version=component.version)
    if component.kind == "deb":
        return PackageURL(
            "deb",
            "debian",
            component.name,
            component.version,
            qualifiers={"arch": component.architecture},
        )
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m container.bill", description=__doc__)
    parser.add_argument("--site", type=Path, required=True, help="site-packages of the image")
    parser.add_argument("--root", type=Path, required=True, help="root folder of the image")
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    application = yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))["application"]
    notes = yaml.safe_load(NOTES.read_text(encoding="utf-8"))
    components = [
        *model_packages(options.models),
        *python_packages(options.site),
        *debian_packages(options.root),
    ]
    try:
        check_notes(components, notes)
    except LicenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    text = make_bill(components, application, datetime.now(UTC))
    (options.out / BILL).write_text(text, encoding="utf-8")
    report = make_report(components, application, notes)
    (options.out / REPORT).write_text(report, encoding="utf-8")
    print(json.dumps({kind: sum(c.kind == kind for c in components) for kind in _KINDS}))
    return 0


_KINDS = ("model", "pypi", "deb")

if __name__ == "__main__":
    sys.exit(main())

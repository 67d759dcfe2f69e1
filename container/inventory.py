"""What an image holds, read from its own records: Python packages, Debian packages, models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path

GNU_TITLE = re.compile(r"GNU\s+(?:AFFERO\s+|LESSER\s+|LIBRARY\s+)?GENERAL\s+PUBLIC\s+LICENSE")
"""The title of a GPL text, in capitals as in the licence itself; a mention does not match."""
DECLARED_GPL = re.compile(r"(?:\b|_)[AL]?GPL|GNU (?:Affero |Lesser |Library )?General Public")
GCC_RUNTIME = re.compile(r"lib(gfortran|quadmath|gomp|stdc\+\+|gcc_s)\b")
LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)


@dataclass(frozen=True)
class Component:
    """One package, or one model package, of the image."""

    kind: str
    """"pypi", "deb" or "model"."""
    name: str
    version: str
    licence: str
    """As the package itself states it; "not stated" where it does not."""
    architecture: str = ""
    sha256: str = ""
    libraries: tuple[str, ...] = ()
    """Shared libraries of others that a wheel brings along."""
    gpl: tuple[str, ...] = ()
    """Where GPL, LGPL or AGPL was found in a Python package, empty if nowhere."""


def python_packages(site: Path) -> list[Component]:
    """Every Python package of a site-packages folder, sorted by name."""
    found = {}
    for distribution in distributions(path=[str(site)]):
        component = _python_package(distribution)
        found[component.name] = component
    return [found[name] for name in sorted(found)]


def debian_packages(root: Path) -> list[Component]:
    """Every installed Debian package below a root folder, sorted by name.

    Licences are the short names of ``/usr/share/doc/PACKAGE/copyright``, where it is in Debian's
    machine-readable format.
    """
    status = (root / "var/lib/dpkg/status").read_text(encoding="utf-8")
    found = []
    for paragraph in status.split("\n\n"):
        fields = Parser().parsestr(paragraph)
        if "installed" not in str(fields.get("Status", "")).split():
            continue
        name = str(fields["Package"])
        found.append(
            Component(
                "deb",
                name,
                str(fields["Version"]),
                _debian_licence(root / "usr/share/doc" / name / "copyright"),
                architecture=str(fields["Architecture"]),
            )
        )
    return sorted(found, key=lambda component: component.name)


def model_packages(models: Path) -> list[Component]:
    """Every model package, identified by the hash of its network."""
    found = []
    for path in sorted(models.glob("*/model.json")):
        model = json.loads(path.read_text(encoding="utf-8"))
        networks = [digest for name, digest in model["files"].items() if name.endswith(".onnx")]
        found.append(
            Component(
                "model",
                model["name"],
                model["version"],
                model.get("licence") or "not stated",
                sha256=networks[0] if networks else "",
            )
        )
    return found


def _python_package(distribution: Distribution) -> Component:
    metadata = distribution.metadata
    name = re.sub(r"[-_.]+", "-", metadata["Name"]).lower()
    licence = _declared_licence(distribution)
    files = distribution.files or []
    libraries = sorted(
        {path.name for path in files if ".so" in path.name and path.parts[0].endswith(".libs")}
    )
    gpl = []
    if DECLARED_GPL.search(licence):
        gpl.append(f"declared: {licence}")
    texts = (p for p in files if LICENCE_FILE.search(p.name) and p.suffix not in {".py", ".pyc"})
    gpl += [f"text: {path}" for path in texts if _holds_gnu_title(distribution.locate_file(path))]
    gpl += [f"library: {library}" for library in libraries if GCC_RUNTIME.match(library)]
    return Component(
        "pypi",
        name,
        distribution.version,
        licence,
        libraries=tuple(libraries),
        gpl=tuple(sorted(gpl)),
    )


def _declared_licence(distribution: Distribution) -> str:
    """Licence expression, else classifiers, else the first line of the licence field."""
    metadata = distribution.metadata
    expression = metadata.get_all("License-Expression")
    if expression:
        return str(expression[0])
    classifiers = [
        text.rsplit(" :: ", 1)[-1]
        for text in metadata.get_all("Classifier") or []
        if text.startswith("License ::") and text != "License :: OSI Approved"
    ]
    if classifiers:
        return "; ".join(sorted(classifiers))
    return _first_line("".join(metadata.get_all("License") or [])) or "not stated"


def _first_line(text: str) -> str:
    lines: Iterable[str] = (line.strip(" =-") for line in text.splitlines())
    return next((line for line in lines if line), "")


def _holds_gnu_title(path: object) -> bool:
    try:
        text = Path(str(path)).read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, IsADirectoryError):
        return False
    return bool(GNU_TITLE.search(text))


def _debian_licence(copyright_file: Path) -> str:
    if not copyright_file.is_file():
        return "not stated"
    names = sorted(set(_short_names(copyright_file.read_text("utf-8", errors="replace"))))
    return "; ".join(names) or "see /usr/share/doc/*/copyright"


def _short_names(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("License:"):
            name = line.removeprefix("License:").strip()
            if name and len(name) < 80:
                yield name

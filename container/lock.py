"""Lock files with the hash of every wheel: ``python -m container.lock`` (``make lock``).

pip itself resolves the requirements for this platform (Linux x86-64, Python 3.11) under the
constraints and reports each chosen wheel with its SHA-256; nothing is installed. A lock file is for
the image, where packages are installed with ``--require-hashes``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS: Mapping[str, str] = {
    "requirements.txt": "requirements.lock",
    "requirements-gpu.txt": "requirements-gpu.lock",
    "container/requirements-bill.txt": "container/requirements-bill.lock",
}
"""Requirement file to its lock file."""
KEPT_BY_HAND: Mapping[str, str] = {"requirements-gpu.txt": "requirements-tensorrt.lock"}
"""Requirement file to the lock file of those of its packages that pip cannot be asked for."""
SOURCES = frozenset({"tensorrt-rtx-cu13"})
"""Published as source only: a module without code of its own that imports the two wheels."""


def lock_lines(report: Mapping[str, Any]) -> list[str]:
    """The lines of a lock file, sorted by name, from pip's installation report.

    Raises
    ------
    ValueError
        If a distribution has no SHA-256, or is no wheel and not one of ``SOURCES``.
    """
    lines = []
    for item in report["install"]:
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        source = item["download_info"]
        sha256 = source.get("archive_info", {}).get("hashes", {}).get("sha256")
        if not sha256 or not (source["url"].endswith(".whl") or name in SOURCES):
            raise ValueError(f"{name}: not a wheel with a SHA-256")
        lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{sha256}")
    return sorted(lines)


def resolve(requirements: str, constraints: Path) -> dict[str, Any]:
    """Ask pip which wheels it would install, as its installation report."""
    with tempfile.TemporaryDirectory() as folder:
        report, wanted = Path(folder) / "report.json", Path(folder) / "requirements.txt"
        wanted.write_text(requirements, encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"),
                *("--ignore-installed", "--only-binary", ":all:", "--report", str(report)),
                *("--no-binary", ",".join(sorted(SOURCES))),
                *("-r", str(wanted), "-c", str(constraints)),
            ],
            check=True,
        )
        content: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return content


def without(text: str, names: Collection[str]) -> str:
    """A requirement file without the lines of some packages."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not pins(line).keys() & set(names)
    )


def pins(text: str) -> dict[str, str]:
    """Name to version of every line ``name==version`` in a requirement or lock file."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def main(argv: Sequence[str]) -> int:
    """Write every lock file."""
    for source, target in LOCKS.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if source in KEPT_BY_HAND:
            text = without(text, pins((ROOT / KEPT_BY_HAND[source]).read_text(encoding="utf-8")))
        lines = lock_lines(resolve(text, ROOT / "constraints.txt"))
        head = f"# Packages of {source} for Linux x86-64 and Python 3.11. Made by: make lock"
        (ROOT / target).write_text("\n".join([head, *lines, ""]), encoding="utf-8")
        print(f"{target}: {len(lines)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

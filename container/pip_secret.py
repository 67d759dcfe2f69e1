"""This machine's pip settings as a pip.conf for the build: ``python -m container.pip_secret``.

Settings that name files of this machine are left out, as the build does not see them. The result
may hold credentials: pass it as a secret (``PIP_CONF``), keep it nowhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping

_LOCAL = frozenset({"cert", "client-cert", "find-links", "target", "prefix", "cache-dir", "log"})


def make_conf(settings: Mapping[str, str]) -> str:
    """Make the text of a pip.conf.

    Parameters
    ----------
    settings
        Value by key, such as ``index-url``; several values are separated by white space.
    """
    lines = ["[global]"]
    for key, value in sorted(settings.items()):
        words = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if key not in _LOCAL and words:
            lines.append(f"{key} = {' '.join(words)}")
    return "\n".join(lines) + "\n"


def parse_listing(text: str) -> dict[str, str]:
    """Read what ``pip config list`` prints; variables count above files."""
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)='(.*)'$", text, re.MULTILINE)
    ordered = sorted(found, key=lambda entry: entry[0] == ":env:")
    return {key: value.replace("\\n", " ") for _, key, value in ordered}


def main() -> int:
    """Print the pip.conf."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    print(make_conf(parse_listing(listing.stdout)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

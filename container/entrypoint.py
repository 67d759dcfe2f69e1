#!/usr/bin/env python3
"""The image's entrypoint: run the application, or show or extract what the image holds.

The packager's stock entrypoint loses the application's exit code. This one replaces its own process
by the application's, so that exit code and signals are the application's. It needs only the
standard library.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

EXPORT = Path("/var/run/holoscan/export")
USAGE = """usage: docker run IMAGE [command or options of the application]
  (nothing)         run the application: /var/holoscan/input -> /var/holoscan/output
  -i, -o, -m ...    run the application with these options; --help lists them
  show [app|pkg]    print the manifests app.json and pkg.json
  extract           copy app, config, models and docs to the folder mounted at
                    /var/run/holoscan/export, or only that part which is mounted below it
  env               print the environment
  help              this text"""
WRONG_USE = 64
"""Exit code of a wrong use of show or extract; none of the application's own (0 to 3)."""


def manifest_paths() -> dict[str, Path]:
    """Where the manifests lie, by the name that ``show`` takes."""
    return {
        "app": Path(os.environ.get("HOLOSCAN_APP_MANIFEST_PATH", "/etc/holoscan/app.json")),
        "pkg": Path(os.environ.get("HOLOSCAN_PKG_MANIFEST_PATH", "/etc/holoscan/pkg.json")),
    }


def show(names: Sequence[str]) -> int:
    """Print one manifest as JSON, or both with a heading each."""
    paths = manifest_paths()
    unknown = [name for name in names if name not in paths]
    if unknown:
        print(f"show: {unknown[0]!r} is not app or pkg", file=sys.stderr)
        return WRONG_USE
    for name in names or list(paths):
        if len(names) != 1:
            print(f"{f' {name}.json ':=^80}")
        print(json.dumps(json.loads(paths[name].read_text(encoding="utf-8")), indent=2))
    return 0


def parts() -> dict[str, list[Path]]:
    """What can be extracted: files and folders by part."""
    config = Path(os.environ.get("HOLOSCAN_CONFIG_PATH", "/var/holoscan/app.yaml"))
    return {
        "app": [Path(os.environ.get("HOLOSCAN_APPLICATION", "/opt/holoscan/app"))],
        "config": [*manifest_paths().values(), config],
        "models": [Path(os.environ.get("HOLOSCAN_MODEL_PATH", "/opt/holoscan/models"))],
        "docs": [Path(os.environ.get("HOLOSCAN_DOCS_PATH", "/opt/holoscan/docs"))],
    }


def extract(export: Path) -> int:
    """Copy the parts that are mounted below ``export``, or all of them."""
    if not export.is_dir():
        print(f"extract: mount a folder at {export} (-v FOLDER:{export})", file=sys.stderr)
        return WRONG_USE
    sources = parts()
    chosen = [name for name in sources if (export / name).is_dir()] or list(sources)
    for name in chosen:
        target = export / name
        try:
            target.mkdir(exist_ok=True)
            for source in sources[name]:
                if source.is_dir():
                    shutil.copytree(source, target, dirs_exist_ok=True)
                else:
                    shutil.copy(source, target / source.name)
        except (OSError, shutil.Error) as error:
            print(
                f"extract: {name} cannot be copied to {target} ({error}). The folder must exist "
                f"and be writable for user {os.getuid()}; or run with --user.",
                file=sys.stderr,
            )
            return WRONG_USE
        print(f"{name}: {target}")
    return 0


def application_command() -> list[str]:
    """The command in app.json, which is a JSON list inside a string."""
    manifest = json.loads(manifest_paths()["app"].read_text(encoding="utf-8"))
    return [str(word) for word in json.loads(manifest["command"])]


def main(argv: Sequence[str]) -> int:
    """Do what the container was asked to do; does not return where the application is run."""
    command, rest = (argv[0], argv[1:]) if argv else ("", [])
    if command == "show":
        return show(rest)
    if command == "extract":
        return extract(EXPORT)
    if command == "env":
        for name, value in sorted(os.environ.items()):
            print(f"{name}={value}")
        return 0
    if command == "help":
        print(USAGE)
        return 0
    words = [*application_command(), *argv]
    os.execvp(words[0], words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The manifests of a MONAI Application Package, made from app.yaml and the model packages.

``app.json`` says how the application is started, ``pkg.json`` what it is and what it needs; both
follow the MONAI Application Package specification 1.0 and carry the keys that ``monai-deploy run``
reads. Run: ``python -m container.manifest OUT``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

API_VERSION = "1.0.0"
APPLICATION_ROOT = "/opt/holoscan/app"
MODEL_ROOT = "/opt/holoscan/models"
WORKING_DIRECTORY = "/var/holoscan"
COMMAND = ("python3", APPLICATION_ROOT)
NO_TIMEOUT = 0

# HOLOSCAN_DOCS and HOLOSCAN_LOGS are the names in the specification's text, those with _PATH what
# the packager of holoscan-cli writes.
ENVIRONMENT: Mapping[str, str] = {
    "HOLOSCAN_APPLICATION": APPLICATION_ROOT,
    "HOLOSCAN_INPUT_PATH": f"{WORKING_DIRECTORY}/input",
    "HOLOSCAN_OUTPUT_PATH": f"{WORKING_DIRECTORY}/output",
    "HOLOSCAN_WORKDIR": WORKING_DIRECTORY,
    "HOLOSCAN_MODEL_PATH": MODEL_ROOT,
    "HOLOSCAN_CONFIG_PATH": f"{WORKING_DIRECTORY}/app.yaml",
    "HOLOSCAN_APP_MANIFEST_PATH": "/etc/holoscan/app.json",
    "HOLOSCAN_PKG_MANIFEST_PATH": "/etc/holoscan/pkg.json",
    "HOLOSCAN_DOCS": "/opt/holoscan/docs",
    "HOLOSCAN_DOCS_PATH": "/opt/holoscan/docs",
    "HOLOSCAN_LOGS": f"{WORKING_DIRECTORY}/logs",
    "HOLOSCAN_LOGS_PATH": f"{WORKING_DIRECTORY}/logs",
}


class ManifestError(ValueError):
    """app.yaml or a model package lacks what a manifest must state."""


def application_manifest(config: Mapping[str, Any], sdk_version: str) -> dict[str, Any]:
    """Make the content of ``app.json``.

    Parameters
    ----------
    config
        app.yaml as read.
    sdk_version
        Version of the MONAI Deploy App SDK in the image.

    Raises
    ------
    ManifestError
        If app.yaml has no version or no formats.
    """
    application = _section(config, "application")
    outputs = _formats(application, "output-formats")
    return {
        "apiVersion": API_VERSION,
        # A list in JSON inside a string: what the packager writes and its tools read.
        "command": json.dumps(list(COMMAND)),
        "type": "job",
        "environment": dict(ENVIRONMENT),
        "input": {"path": "input", "formats": _formats(application, "input-formats")},
        "output": {"path": "output", "format": outputs[0], "formats": outputs},
        "readiness": None,
        "liveness": None,
        "sdk": "monai-deploy",
        "sdkVersion": sdk_version,
        "timeout": NO_TIMEOUT,
        "version": _text(application, "version"),
        "workingDirectory": WORKING_DIRECTORY,
    }


def package_manifest(
    config: Mapping[str, Any], models: Sequence[Path], *, gpu: bool = False
) -> dict[str, Any]:
    """Make the content of ``pkg.json``.

    Parameters
    ----------
    config
        app.yaml as read.
    models
        Folders of the model packages, each with a ``model.json``.
    gpu
        Whether the image is built for a GPU; then at least one is requested.

    Raises
    ------
    ManifestError
        If app.yaml has no version or no resources, or a model package no description.
    """
    resources = dict(_section(config, "resources"))
    if gpu:
        resources["gpu"] = max(1, int(resources.get("gpu", 0)))
    return {
        "apiVersion": API_VERSION,
        "applicationRoot": APPLICATION_ROOT,
        "modelRoot": MODEL_ROOT,
        "models": [_model(folder) for folder in sorted(models)],
        "resources": resources,
        "version": _text(_section(config, "application"), "version"),
        "platformConfig": "dgpu" if gpu else "cpu",
    }


def labels(config: Mapping[str, Any]) -> dict[str, str]:
    """The image labels that say what is inside."""
    application = _section(config, "application")
    return {
        "org.opencontainers.image.title": _text(application, "title"),
        "org.opencontainers.image.version": _text(application, "version"),
    }


def _model(folder: Path) -> dict[str, str]:
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        name, number = str(description["name"]), str(description["version"])
    except (OSError, ValueError, KeyError) as error:
        raise ManifestError(
            f"model package {folder.name}: model.json does not give a name and a version"
        ) from error
    return {"name": name, "version": number, "path": f"{MODEL_ROOT}/{folder.name}"}


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    if not isinstance(section, Mapping):
        raise ManifestError(f"app.yaml: the section {name!r} is missing")
    return section


def _text(section: Mapping[str, Any], key: str) -> str:
    value = section.get(key)
    if not isinstance(value, str) or not value:
        raise ManifestError(f"app.yaml: application.{key} must be a text")
    return value


def _formats(application: Mapping[str, Any], key: str) -> list[str]:
    formats = application.get(key)
    if not isinstance(formats, list) or not formats:
        raise ManifestError(f"app.yaml: application.{key} must be a list with at least one format")
    return [str(name) for name in formats]


def main(argv: Sequence[str]) -> int:
    """Write ``app.json`` and ``pkg.json`` of the repository into a folder."""
    if len(argv) not in {1, 2}:
        print("usage: python -m container.manifest OUT [cpu|cuda13]", file=sys.stderr)
        return 2
    root, out = Path(__file__).resolve().parents[1], Path(argv[0])
    config = yaml.safe_load((root / "app.yaml").read_text(encoding="utf-8"))
    models = [path.parent for path in (root / "models").glob("*/model.json")]
    contents = {
        "app.json": application_manifest(config, version("monai-deploy-app-sdk")),
        "pkg.json": package_manifest(config, models, gpu=argv[1:] == ["cuda13"]),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

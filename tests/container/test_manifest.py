"""The manifests hold what app.yaml and the models say, under the names that the tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from container.manifest import (
    ENVIRONMENT,
    ManifestError,
    application_manifest,
    labels,
    main,
    package_manifest,
)
from operators.version import NAME, VERSION
from tests.conftest import ROOT

MODELS = sorted(path.parent for path in (ROOT / "models").glob("*/model.json"))


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))


def test_the_application_manifest_has_what_the_specification_asks(config: dict[str, Any]) -> None:
    manifest = application_manifest(config, "4.0.0")
    assert json.loads(manifest["command"]) == ["python3", "/opt/holoscan/app"]
    assert manifest["version"] == VERSION
    assert manifest["input"] == {"path": "input", "formats": ["file"]}
    assert manifest["output"]["format"] == "file"
    assert manifest["workingDirectory"] == "/var/holoscan"
    assert manifest["timeout"] == 0
    required = {"apiVersion", "command", "type", "environment", "input", "output", "sdk"}
    assert required <= manifest.keys()


def test_the_package_manifest_names_every_model_and_the_resources(config: dict[str, Any]) -> None:
    manifest = package_manifest(config, MODELS)
    assert [model["path"] for model in manifest["models"]] == [
        f"/opt/holoscan/models/{folder.name}" for folder in MODELS
    ]
    assert len(manifest["models"]) >= 2
    assert manifest["resources"] == config["resources"]
    assert manifest["applicationRoot"] == "/opt/holoscan/app"
    assert package_manifest(config, MODELS, gpu=True)["resources"]["gpu"] == 1


def test_the_image_declares_the_same_variables_and_labels(config: dict[str, Any]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name, value in ENVIRONMENT.items():
        assert f"    {name}={value}" in dockerfile, name
    declared = labels(config)
    assert declared == {
        "org.opencontainers.image.title": NAME,
        "org.opencontainers.image.version": VERSION,
    }
    assert all(f"{name}=" in dockerfile for name in declared)


def test_a_missing_entry_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    del config["application"]["output-formats"]
    with pytest.raises(ManifestError, match="output-formats"):
        application_manifest(config, "4.0.0")
    with pytest.raises(ManifestError, match="'resources'"):
        package_manifest({"application": config["application"]}, MODELS)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ManifestError, match=tmp_path.name):
        package_manifest(config, [tmp_path])


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    assert main([str(tmp_path / "etc"), "cuda13"]) == 0
    package = json.loads((tmp_path / "etc" / "pkg.json").read_text(encoding="utf-8"))
    assert package["platformConfig"] == "dgpu"
    assert json.loads((tmp_path / "etc" / "app.json").read_text())["sdkVersion"] == "4.0.0"
    assert main([]) == 2

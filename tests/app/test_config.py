"""app.yaml: the shipped file is valid; a wrong one is refused with the key's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import load_settings
from operators.errors import ConfigurationError
from operators.version import NAME, VERSION
from tests.conftest import ROOT


def test_the_shipped_file_is_valid_and_names_this_version() -> None:
    import yaml

    load_settings(ROOT / "app.yaml")
    application = yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))["application"]
    assert (application["title"], application["version"]) == (NAME, VERSION)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [", "YAML (line"),
        ("[]", "no section 'settings'"),
        ("settings: {series_selector: {roles: 3}}", "series_selector"),
        ("settings: {dicom_writer: {first_series_number: 0}}", "first_series_number"),
        ("settings: {typo: {}}", "typo"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"site\.yaml") as refusal:
        load_settings(path)
    assert word in str(refusal.value)
    assert refusal.value.exit_code == 3

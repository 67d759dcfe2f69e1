"""The shipped rules and hand-made studies."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from operators.series_selector.settings import SeriesSelectorSettings
from tests.conftest import ROOT


def shipped_rules() -> dict[str, Any]:
    """The section settings.series_selector of the project's app.yaml."""
    content = yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))
    rules = content["settings"]["series_selector"]
    assert isinstance(rules, dict)
    return rules


@pytest.fixture(scope="session")
def rules() -> SeriesSelectorSettings:
    """The shipped rules, validated."""
    return SeriesSelectorSettings.model_validate(shipped_rules())

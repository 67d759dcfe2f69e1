"""The page on configuration says what the code does."""

from __future__ import annotations

from app.describe_settings import page
from tests.conftest import ROOT


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == page()

"""What several tests of the comparison share."""

from __future__ import annotations

import pytest

from operators.longitudinal_comparator import follow_up
from tests.operators.longitudinal_comparator.scenes import nowhere


@pytest.fixture
def without_anatomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of lesions has its own tests; elsewhere it would only cost time."""
    monkeypatch.setattr(follow_up, "locate", nowhere)

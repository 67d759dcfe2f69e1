"""Log lines: one per stage, progress on a terminal, and nothing that could name a patient."""

from __future__ import annotations

import io
import logging
import warnings

import pytest

from app.console import set_up_logging
from operators.stages import stage


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restore_logging():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level
    stages = logging.getLogger("operators.stage")
    stages.handlers, stages.propagate = [], True


def test_one_line_per_stage_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    assert set_up_logging(None, stream) is None
    with stage("registration"):
        pass
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "registration finished in 0.0 s" in lines[0]


def test_a_terminal_shows_the_running_stage_and_its_time() -> None:
    stream = Terminal()
    progress = set_up_logging(None, stream)
    assert progress is not None
    with stage("registration"):
        pass
    text = stream.getvalue()
    assert "registration … 0 s" in text
    assert "registration finished in 0.0 s" in text


def test_a_failed_stage_leaves_no_live_line() -> None:
    stream = Terminal()
    progress = set_up_logging(None, stream)
    assert progress is not None
    with pytest.raises(ValueError, match="no"), stage("registration"):
        raise ValueError("no")
    progress.stop()
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_warnings_that_quote_attributes_are_not_shown() -> None:
    stream = io.StringIO()
    set_up_logging("DEBUG", stream)
    warnings.warn("Invalid value 'Sørensen^Åse' for VR PN", UserWarning, stacklevel=1)
    logging.getLogger("pydicom").error("value 'Sørensen^Åse'")
    assert "Sørensen" not in stream.getvalue()

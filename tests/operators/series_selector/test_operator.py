"""The operator's ports, and what it passes on."""

from __future__ import annotations

from typing import Any

import pytest
from monai.deploy.core import Application, OperatorSpec

from operators.messages import SelectedStudies, StudyCollection
from operators.series_selector import operator as stage_module
from operators.series_selector.operator import SeriesSelectorOperator
from operators.series_selector.settings import SeriesSelectorSettings
from tests.operators.series_selector.studies import FLAIR_2D, T2_2D, make_study, read_nothing


class Empty(Application):
    """An application to hang an operator into."""

    def compose(self) -> None:
        """Nothing."""


class Ports:
    """Input and output of one call."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.emitted: dict[str, Any] = {}

    def receive(self, name: str) -> Any:
        assert name == "study_collection"
        return self.message

    def emit(self, message: Any, name: str) -> None:
        self.emitted[name] = message


@pytest.fixture
def selector(rules: SeriesSelectorSettings) -> SeriesSelectorOperator:
    return SeriesSelectorOperator(Empty([]), settings=rules, name="series_selector")


def test_ports(selector: SeriesSelectorOperator) -> None:
    spec = selector.spec
    assert isinstance(spec, OperatorSpec)
    assert list(spec.inputs) == ["study_collection"]
    assert list(spec.outputs) == ["selected_studies"]


def test_compute(selector: SeriesSelectorOperator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "read_volume", read_nothing)
    ports = Ports(
        StudyCollection((make_study("1.1", FLAIR_2D, T2_2D),), {}, timing_s={"dicom_loader": 1.0})
    )
    selector.compute(ports, ports, None)
    selected = ports.emitted["selected_studies"]
    assert isinstance(selected, SelectedStudies)
    assert list(selected.current.series) == ["flair", "t2"]
    assert set(selected.timing_s) == {"dicom_loader", "series_selector"}

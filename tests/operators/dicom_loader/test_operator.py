"""The operator's port, and an application that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Operator, OperatorSpec

from operators.dicom_loader.operator import DICOMLoaderOperator
from operators.errors import InputError
from operators.messages import StudyCollection
from tests.operators.dicom_loader.builders import make_classic_series, write_files


class Sink(Operator):
    """Keeps what it receives."""

    def __init__(self, fragment: Any, *args: Any, **kwargs: Any) -> None:
        self.received: list[Any] = []
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the port."""
        spec.input("study_collection")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Keep the message."""
        self.received.append(op_input.receive("study_collection"))


class Flow(Application):
    """The loader and a sink."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__([])

    def compose(self) -> None:
        """Connect the two."""
        once = CountCondition(self, 1)
        self.loader = DICOMLoaderOperator(self, once, input_folder=self.folder, name="dicom_loader")
        self.sink = Sink(self, name="sink")
        self.add_flow(self.loader, self.sink, {("study_collection", "study_collection")})


def test_application_run(tmp_path: Path) -> None:
    write_files(make_classic_series(), tmp_path)
    flow = Flow(tmp_path)
    flow.run()
    (collection,) = flow.sink.received
    assert isinstance(collection, StudyCollection)
    assert len(collection.studies[0].series[0].instances) == 7
    assert list(collection.timing_s) == ["dicom_loader"]
    assert collection.timing_s["dicom_loader"] > 0


def test_error_leaves_the_application(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no files"):
        Flow(tmp_path).run()

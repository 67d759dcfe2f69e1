"""The operator inside a Holoscan application: port, settings, and what happens on failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Fragment, Operator, OperatorSpec

from operators.dicom_writer.operator import DICOMWriterOperator
from operators.dicom_writer.settings import DICOMWriterSettings
from operators.errors import OutputError
from operators.messages import FollowUp
from tests.operators.followup_example import LESIONS, make_follow_up


class Source(Operator):
    """Emits one follow-up."""

    def __init__(self, fragment: Fragment, *args: Any, follow_up: FollowUp, **kwargs: Any) -> None:
        self._follow_up = follow_up
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("follow_up")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        op_output.emit(self._follow_up, "follow_up")


class WriterOnly(Application):
    """A source and the writer."""

    def __init__(self, follow_up: FollowUp, folder: Path, settings: DICOMWriterSettings) -> None:
        self._parts = follow_up, folder, settings
        super().__init__([])

    def compose(self) -> None:
        follow_up, folder, settings = self._parts
        source = Source(self, CountCondition(self, 1), follow_up=follow_up, name="source")
        writer = DICOMWriterOperator(
            self, output_folder=folder, settings=settings, name="dicom_writer"
        )
        self.add_flow(source, writer, {("follow_up", "follow_up")})


def test_the_operator_writes_the_result_and_its_own_time(tmp_path: Path) -> None:
    follow_up = make_follow_up(tmp_path, lesions=LESIONS[:1])
    WriterOnly(follow_up, tmp_path / "out", DICOMWriterSettings()).run()
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert set(results["timing_s"]) == {*follow_up.timing_s, "dicom_writer"}
    assert 0 < results["timing_s"]["dicom_writer"] < 60
    assert (tmp_path / "out" / "dicom" / "segmentation.dcm").exists()


def test_an_error_of_the_operator_reaches_the_caller(tmp_path: Path) -> None:
    follow_up = make_follow_up(tmp_path, lesions=LESIONS[:1])
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match="is a file"):
        WriterOnly(follow_up, tmp_path / "out", DICOMWriterSettings()).run()

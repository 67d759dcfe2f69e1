"""The stage ``dicom_writer`` as a MONAI Deploy operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.dicom_writer.settings import DICOMWriterSettings
from operators.dicom_writer.writing import STAGE, write_outputs
from operators.messages import FollowUp
from operators.stages import stage


class DICOMWriterOperator(Operator):  # type: ignore[misc]
    """Writes SEG, SR, preview, PDF and results.json into the output folder.

    Ports
    -----
    follow_up : FollowUp
        Input.

    Parameters
    ----------
    output_folder
        Where ``dicom``, ``report.pdf`` and ``results.json`` go; an earlier result is replaced as a
        whole.
    settings
        The section ``dicom_writer`` of app.yaml.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        output_folder: Path,
        settings: DICOMWriterSettings | None = None,
        **kwargs: Any,
    ) -> None:
        self._output_folder = output_folder
        self._settings = settings or DICOMWriterSettings()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the port."""
        spec.input("follow_up")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the result."""
        follow_up: FollowUp = op_input.receive("follow_up")
        with stage(STAGE) as clock:
            write_outputs(self._output_folder, follow_up, self._settings, clock.stop)

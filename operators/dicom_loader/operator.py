"""The first stage: finds the MR studies in the input folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.stages import stage


class DICOMLoaderOperator(Operator):  # type: ignore[misc]
    """Scans a folder by headers.

    It has no input: give it a ``CountCondition(fragment, 1)``, or it scans for ever.

    Named output
    ------------
    study_collection : StudyCollection
        The studies found, oldest first; pixels unread.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        input_folder: Path,
        settings: DICOMLoaderSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Create the operator.

        Parameters
        ----------
        fragment
            The application.
        input_folder
            Folder with DICOM files, nested as they come.
        settings
            Limits of plausible geometry and dates; the defaults when None.
        """
        self._input_folder = Path(input_folder)
        self._settings = settings or DICOMLoaderSettings()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the port."""
        spec.output("study_collection")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Scan the folder and emit what was found."""
        with stage("dicom_loader") as clock:
            collection = scan_folder(self._input_folder, self._settings)
        timing = {**collection.timing_s, "dicom_loader": clock.seconds}
        op_output.emit(replace(collection, timing_s=timing), "study_collection")

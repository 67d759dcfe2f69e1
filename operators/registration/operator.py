"""The MONAI Deploy operator of the registration stage."""

from __future__ import annotations

import dataclasses
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.registration.align import align_studies
from operators.registration.settings import RegistrationSettings
from operators.stages import stage


class RegistrationOperator(Operator):  # type: ignore[misc]
    """Relates all images to the current FLAIR.

    Input ``selected_studies``: :class:`operators.messages.SelectedStudies`.
    Output ``aligned_studies``: :class:`operators.messages.AlignedStudies`.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, settings: RegistrationSettings, **kwargs: Any
    ) -> None:
        self._settings = settings
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("selected_studies")
        spec.output("aligned_studies")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Align the selected studies."""
        selected = op_input.receive("selected_studies")
        with stage("registration") as clock:
            aligned = align_studies(selected, self._settings)
        timing = {**selected.timing_s, "registration": clock.seconds}
        op_output.emit(dataclasses.replace(aligned, timing_s=timing), "aligned_studies")

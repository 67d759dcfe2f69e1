"""The stage ``longitudinal_comparator`` as a MONAI Deploy operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.longitudinal_comparator.follow_up import compare
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import FollowUp, LesionProbabilities
from operators.stages import stage

NAME = "longitudinal_comparator"


class LongitudinalComparatorOperator(Operator):  # type: ignore[misc]
    """Lesions as objects, with identity, place and change.

    Ports
    -----
    lesion_probabilities : LesionProbabilities
        Input.
    follow_up : FollowUp
        Output.

    Parameters
    ----------
    settings
        The section ``longitudinal_comparator`` of app.yaml.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        settings: LongitudinalComparatorSettings | None = None,
        **kwargs: Any,
    ) -> None:
        self._settings = settings or LongitudinalComparatorSettings()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("lesion_probabilities")
        spec.output("follow_up")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Compare the time points."""
        probabilities: LesionProbabilities = op_input.receive("lesion_probabilities")
        with stage(NAME) as clock:
            result: FollowUp = compare(probabilities, self._settings)
            result = replace(result, timing_s={**result.timing_s, NAME: clock.stop()})
        op_output.emit(result, "follow_up")

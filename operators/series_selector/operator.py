"""The stage as a MONAI Deploy operator."""

from __future__ import annotations

from datetime import date
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from operators.dicom_loader.volume import read_volume
from operators.messages import StudyCollection
from operators.series_selector.selection import select_studies, with_timing
from operators.series_selector.settings import SeriesSelectorSettings
from operators.stages import stage

NAME = "series_selector"


class SeriesSelectorOperator(Operator):  # type: ignore[misc]
    """Chooses the current and the earlier studies and their series, and reads the pixels of those.

    Ports
    -----
    study_collection : StudyCollection
        Input.
    selected_studies : SelectedStudies
        Output, with the notes and seconds of the loader passed on.

    Parameters
    ----------
    settings
        The selection rules.
    """

    def __init__(
        self, fragment: Fragment, *args: Any, settings: SeriesSelectorSettings, **kwargs: Any
    ) -> None:
        self._settings = settings
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        """Declare the ports."""
        spec.input("study_collection")
        spec.output("selected_studies")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Select, and pass on."""
        collection: StudyCollection = op_input.receive("study_collection")
        with stage(NAME) as clock:
            selected = select_studies(collection, self._settings, read_volume, date.today())
            selected = with_timing(selected, NAME, clock.stop())
        op_output.emit(selected, "selected_studies")

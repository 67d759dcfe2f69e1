"""The operator's ports and timing, with the stage itself replaced."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from monai.deploy.core import Application

from operators.messages import AlignedStudies, AlignedStudy, SelectedStudies
from operators.registration import operator as stage_operator
from operators.registration.operator import RegistrationOperator
from operators.registration.settings import RegistrationSettings
from tests.operators.registration.real_data import selected_study


def test_the_operator_hands_on_the_message_with_its_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = hd.Volume(
        np.zeros((5, 6, 7), np.float32), affine=np.eye(4), coordinate_system="PATIENT"
    )
    study = selected_study({"flair": volume})
    selected = dataclasses.replace(
        SelectedStudies(study, None, ()), timing_s={"series_selector": 1.5}
    )
    settings = RegistrationSettings(seed=7)

    def align(message: SelectedStudies, given: RegistrationSettings) -> AlignedStudies:
        assert message is selected
        assert given is settings
        brain = volume.with_array(np.ones((5, 6, 7), bool))
        current = AlignedStudy(study, {}, brain, np.eye(4))
        return AlignedStudies(selected, current, None, None)

    monkeypatch.setattr(stage_operator, "align_studies", align)
    sent: dict[str, Any] = {}
    operator = RegistrationOperator(Application([]), settings=settings, name="registration")
    operator.compute(
        SimpleNamespace(receive={"selected_studies": selected}.__getitem__),
        SimpleNamespace(emit=lambda message, port: sent.update({port: message})),
        None,
    )
    aligned = sent["aligned_studies"]
    assert aligned.selected is selected
    assert set(aligned.timing_s) == {"series_selector", "registration"}
    assert aligned.timing_s["series_selector"] == 1.5

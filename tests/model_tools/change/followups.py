"""A made-up answer of the comparison, to score."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import highdicom as hd
import numpy as np

from operators.messages import Lesion


def lesion(number: int | None, change: str, now: float, before: float | None) -> Lesion:
    """A lesion of these volumes in mm³."""
    return Lesion(
        tracking_uid=f"1.2.{number or 99}",
        tracking_id=f"L{number or 99}",
        segment_number=number,
        volume_ml=now / 1000,
        prior_volume_ml=None if before is None else before / 1000,
        diameter_mm=5.0,
        centroid_lps_mm=(1.0, 2.0, 3.0),
        region="deep_white_matter",
        change=change,  # type: ignore[arg-type]
        confidence=0.8,
        change_confidence=0.9,
        volume_interval_ml=(0.8 * now / 1000, 1.2 * now / 1000),
    )


def answer(lesions: list[Lesion], labels: np.ndarray, prior_labels: np.ndarray) -> Any:
    """What the scoring reads of a FollowUp; voxels of 1 x 1.5 x 3 mm, oblique."""
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    turn = np.deg2rad(20)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    volume = hd.Volume(
        labels.astype(np.uint16), affine=rotation @ affine, coordinate_system="PATIENT"
    )
    probability = SimpleNamespace(probability=volume.with_array((labels > 0) * np.float32(0.9)))
    return SimpleNamespace(
        lesions=tuple(lesions),
        labels=volume,
        prior_labels=volume.with_array(prior_labels.astype(np.uint16)),
        probabilities=SimpleNamespace(current=probability),
    )

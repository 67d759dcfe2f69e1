"""Dissemination in space and time, as the McDonald criteria count it on T2-weighted brain MRI.

In space: which of the five locations hold at least one T2 lesion (Thompson et al., Lancet Neurol
17:162, 2018; with the optic nerve since the 2024 revision, Montalban et al., Lancet Neurol 2025,
doi 10.1016/S1474-4422(25)00270-4). A brain MRI shows three of them. In time: a new T2 lesion with
reference to an earlier scan. The table counts; whether a count matters for a patient is the
reader's judgement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from operators.messages import FollowUp, Region

EXAMINED: tuple[Region, ...] = ("periventricular", "juxtacortical", "infratentorial")
NOT_EXAMINED = ("spinal_cord", "optic_nerve")


@dataclass(frozen=True)
class NewLesions:
    """New T2 lesions with reference to one earlier study."""

    study_uid: str
    interval_days: int | None
    """Days from that study to the current one; None when undated."""
    count: int


@dataclass(frozen=True)
class Dissemination:
    """What the current study shows of both."""

    in_space: Mapping[Region, int]
    """Lesions present now in each examined location."""
    in_time: tuple[NewLesions, ...]
    """Against the prior study, and against the first one where that is another; empty without a
    comparison."""

    @property
    def regions(self) -> int:
        """How many of the examined locations hold at least one lesion."""
        return sum(count > 0 for count in self.in_space.values())


def dissemination(follow_up: FollowUp) -> Dissemination:
    """Count both for a follow-up."""
    present = [lesion for lesion in follow_up.lesions if lesion.segment_number is not None]
    in_space = {region: sum(lesion.region == region for lesion in present) for region in EXAMINED}
    aligned = follow_up.probabilities.aligned
    in_time: list[NewLesions] = []
    if follow_up.prior_labels is not None and aligned.prior is not None:
        prior = aligned.prior.selected
        in_time.append(
            NewLesions(prior.study.study_uid, prior.interval_days, follow_up.totals.new_count)
        )
        first = follow_up.time_points[0] if follow_up.time_points else None
        if first is not None and first.study_uid not in (
            prior.study.study_uid,
            aligned.current.selected.study.study_uid,
        ):
            since = sum(lesion.change_since_first == "new" for lesion in present)
            in_time.append(NewLesions(first.study_uid, first.interval_days, since))
    return Dissemination(in_space, tuple(in_time))

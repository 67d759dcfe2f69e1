"""The roles of all series of one study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from operators.messages import RejectedSeries, Series, SeriesAttributes, Study
from operators.series_selector.choice import Candidate, choose
from operators.series_selector.classification import classify, obstacle
from operators.series_selector.settings import SeriesSelectorSettings


@dataclass(frozen=True)
class ChosenSeries:
    """A series with its role, pixels unread."""

    series: Series
    reason: str
    contrast: bool
    """Whether contrast agent was given."""
    confirmed: bool
    """Whether attributes, and not only the description, say that it has the role."""


@dataclass(frozen=True)
class StudyAssessment:
    """What a study offers."""

    study: Study
    chosen: Mapping[str, ChosenSeries]
    rejected: tuple[RejectedSeries, ...]
    """Every other series, in the order of their numbers, with the reason."""
    ambiguous: Mapping[str, str]
    """Role to the reason why its candidates cannot be told apart."""

    def lacks(self, roles: Sequence[str]) -> tuple[str, ...]:
        """Those of ``roles`` that no series was chosen for."""
        return tuple(role for role in roles if role not in self.chosen)


def assess(study: Study, settings: SeriesSelectorSettings) -> StudyAssessment:
    """Give each wanted role of a study its series, and every other series the reason why not.

    Parameters
    ----------
    study
        The study, pixels unread.
    settings
        The selection rules.
    """
    wanted = settings.wanted_roles
    candidates: dict[str, list[Candidate]] = {role: [] for role in wanted}
    rejected: list[RejectedSeries] = []
    for series in study.series:
        classification = classify(_with_b_value(series, study.series), settings)
        if classification.role is None:
            reason = f"{classification.code}: {classification.reason}"
            rejected.append(RejectedSeries(series, classification.considered, reason))
            continue
        problem = obstacle(series, settings)
        if problem is not None:
            reason = f"{problem.code}: {problem.reason}"
            rejected.append(RejectedSeries(series, classification.role, reason))
        elif classification.role not in candidates:
            reason = "not_wanted: this role is neither required nor optional"
            rejected.append(RejectedSeries(series, classification.role, reason))
        else:
            candidates[classification.role].append(Candidate(series, classification))

    chosen: dict[str, ChosenSeries] = {}
    ambiguous: dict[str, str] = {}
    frame: str | None = None
    for role in wanted:
        if not candidates[role]:
            continue
        choice = choose(candidates[role], settings.roles[role].order, frame)
        if choice.chosen is None:
            ambiguous[role] = choice.reason
        else:
            taken = choice.chosen
            given = taken.classification.facts.contrast is not None
            chosen[role] = ChosenSeries(
                taken.series, choice.reason, given, taken.classification.confirmed
            )
            if role == settings.reference_role:
                frame = taken.series.frame_of_reference_uid
        code = "ambiguous" if choice.chosen is None else "not_preferred"
        rejected += [
            RejectedSeries(candidate.series, role, f"{code}: {reason}")
            for candidate, reason in choice.lost
        ]
    rejected.sort(key=lambda item: _number(item.series))
    return StudyAssessment(study, chosen, tuple(rejected), ambiguous)


def _with_b_value(series: Series, all_series: Sequence[Series]) -> SeriesAttributes:
    """Attributes with the highest b-value of any stack of the same DICOM series: the images
    without diffusion weighting of a diffusion series are not T2-weighted images of their own."""
    b_values = [
        other.attributes.b_value
        for other in all_series
        if other.series_uid == series.series_uid and other.attributes.b_value is not None
    ]
    return replace(series.attributes, b_value=max(b_values, default=None))


def _number(series: Series) -> tuple[float, str]:
    number = series.attributes.series_number
    return (float("inf") if number is None else number, series.stack)

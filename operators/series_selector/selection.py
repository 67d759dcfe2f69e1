"""From all that the input holds to the series that are used, with their pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date

from highdicom import Volume
from pydicom import Dataset

from operators.messages import (
    QualityNote,
    SelectedSeries,
    SelectedStudies,
    SelectedStudy,
    Series,
    StudyCollection,
)
from operators.series_selector.assessment import StudyAssessment
from operators.series_selector.prior_segmentations import own_segmentations
from operators.series_selector.settings import SeriesSelectorSettings
from operators.series_selector.time_points import TimePoints, find_time_points

ReadVolume = Callable[[Series], tuple[Volume, Sequence[Dataset]]]


def select_studies(
    collection: StudyCollection,
    settings: SeriesSelectorSettings,
    read_volume: ReadVolume,
    today: date,
) -> SelectedStudies:
    """Choose the current and the prior study and their series, and read the pixels of those.

    Parameters
    ----------
    collection
        What the loader found.
    settings
        The selection rules.
    read_volume
        Reads one series: float32 volume on the acquired grid and headers in slice order.
    today
        Studies dated after this day are refused.

    Raises
    ------
    InputError
        If no current study can be chosen, or a chosen series cannot be read.
    """
    points = find_time_points(collection.studies, settings, today)
    notes = [*collection.quality, *points.notes, *_remarks(points, settings)]
    current = _read(points.current, points.current, settings, read_volume)
    prior = None
    if points.prior is not None:
        prior = _read(points.prior, points.current, settings, read_volume)
    return SelectedStudies(
        current=current,
        prior=prior,
        prior_segmentations=own_segmentations(points.earlier),
        quality=tuple(notes),
        timing_s=dict(collection.timing_s),
    )


def with_timing(selected: SelectedStudies, stage: str, seconds: float) -> SelectedStudies:
    """``selected`` with the duration of one more stage."""
    return replace(selected, timing_s={**selected.timing_s, stage: seconds})


def _read(
    assessment: StudyAssessment,
    current: StudyAssessment,
    settings: SeriesSelectorSettings,
    read_volume: ReadVolume,
) -> SelectedStudy:
    series = {}
    for role in settings.wanted_roles:
        chosen = assessment.chosen.get(role)
        if chosen is None:
            continue
        volume, headers = read_volume(chosen.series)
        series[role] = SelectedSeries(role, chosen.reason, chosen.series, volume, tuple(headers))
    interval = None
    if assessment.study.acquired is not None and current.study.acquired is not None:
        interval = (current.study.acquired - assessment.study.acquired).days
    return SelectedStudy(assessment.study, series, assessment.rejected, interval)


def _remarks(points: TimePoints, settings: SeriesSelectorSettings) -> list[QualityNote]:
    notes = []
    named = [("current", points.current), ("prior", points.prior)]
    present = [(name, assessment) for name, assessment in named if assessment is not None]
    for name, assessment in present:
        for role, reason in assessment.ambiguous.items():
            notes.append(
                QualityNote(
                    "role_ambiguous",
                    "warning",
                    f"The {name} study is used without {role}: {reason}.",
                )
            )
        for role, chosen in assessment.chosen.items():
            label = chosen.series.label
            if chosen.contrast:
                notes.append(
                    QualityNote(
                        "contrast_agent",
                        "info",
                        f"The {name} {role} ({label}) was acquired after contrast agent.",
                    )
                )
            if not chosen.confirmed:
                notes.append(
                    QualityNote(
                        "role_by_description",
                        "info",
                        f"The {name} {role} ({label}) is known by its description only.",
                    )
                )
            notes += [
                QualityNote(problem.code, "warning", f"{name} {role}, {label}: {problem.message}")
                for problem in chosen.series.problems
            ]
    if points.prior is not None:
        for role in settings.optional_roles:
            if (role in points.current.chosen) != (role in points.prior.chosen):
                notes.append(
                    QualityNote(
                        "roles_differ",
                        "info",
                        f"Only one of the two studies has a usable {role} series.",
                    )
                )
    return notes

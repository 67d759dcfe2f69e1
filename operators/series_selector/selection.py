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
    Study,
    StudyCollection,
)
from operators.series_selector.assessment import StudyAssessment
from operators.series_selector.lesion_objects import (
    LesionObjects,
    find_lesion_objects,
    remarks,
)
from operators.series_selector.protocol import compare_protocols
from operators.series_selector.settings import SeriesSelectorSettings
from operators.series_selector.time_points import TimePoints, find_time_points

ReadVolume = Callable[[Series], tuple[Volume, Sequence[Dataset]]]


def select_studies(
    collection: StudyCollection,
    settings: SeriesSelectorSettings,
    read_volume: ReadVolume,
    today: date,
) -> SelectedStudies:
    """Choose the current and the earlier studies and their series, and read the pixels of those.

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
    named = _named(points)
    objects = {a.study.study_uid: find_lesion_objects(a.study) for _, a in named}
    current, *earlier = [
        _read(
            assessment, points.current, objects[assessment.study.study_uid], settings, read_volume
        )
        for _, assessment in named
    ]
    notes = [*collection.quality, *points.notes, *_remarks(points, settings)]
    for name, assessment in named:
        notes += remarks(objects[assessment.study.study_uid], name)
    notes += _objects_left_aside(collection.studies, named)
    notes += compare_protocols(
        current,
        [(name, one) for (name, _), one in zip(named[1:], earlier, strict=True)],
        settings.protocol,
    )
    prior = earlier[0] if earlier else None
    return SelectedStudies(
        current=current,
        prior=prior,
        prior_segmentations=()
        if prior is None
        else objects[prior.study.study_uid].segmentations(prior.study),
        earlier=tuple(earlier[1:]),
        quality=tuple(notes),
        timing_s=dict(collection.timing_s),
    )


def with_timing(selected: SelectedStudies, stage: str, seconds: float) -> SelectedStudies:
    """``selected`` with the duration of one more stage."""
    return replace(selected, timing_s={**selected.timing_s, stage: seconds})


def _named(points: TimePoints) -> list[tuple[str, StudyAssessment]]:
    """Every study that is used with its name in notes, the current one first."""
    named = [("current", points.current)]
    if points.prior is not None:
        named.append(("prior", points.prior))
    for assessment in points.earlier:
        days = _interval(assessment, points.current)
        named.append((f"earlier ({days} days before)", assessment))
    return named


def _interval(assessment: StudyAssessment, current: StudyAssessment) -> int | None:
    if assessment.study.acquired is None or current.study.acquired is None:
        return None
    return (current.study.acquired - assessment.study.acquired).days


def _objects_left_aside(
    studies: Sequence[Study], named: Sequence[tuple[str, StudyAssessment]]
) -> list[QualityNote]:
    """A remark on results of this application for studies that are not used."""
    used = {assessment.study.study_uid for _, assessment in named}
    number = sum(
        len(find_lesion_objects(study).own) for study in studies if study.study_uid not in used
    )
    if number == 0:
        return []
    return [
        QualityNote(
            "lesion_objects_without_study",
            "info",
            f"{number} result object(s) of this application belong to studies whose images are not "
            "used; lesion identities are not taken from them.",
        )
    ]


def _read(
    assessment: StudyAssessment,
    current: StudyAssessment,
    objects: LesionObjects,
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
    return SelectedStudy(
        assessment.study,
        series,
        assessment.rejected,
        _interval(assessment, current),
        objects.own,
    )


def _remarks(points: TimePoints, settings: SeriesSelectorSettings) -> list[QualityNote]:
    notes = []
    for name, assessment in _named(points):
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
    earlier = [] if points.prior is None else [points.prior, *points.earlier]
    for role in settings.optional_roles:
        having = sum(role in assessment.chosen for assessment in earlier)
        if (role in points.current.chosen and having < len(earlier)) or (
            role not in points.current.chosen and having
        ):
            notes.append(
                QualityNote(
                    "roles_differ",
                    "info",
                    f"Only one of the two studies has a usable {role} series."
                    if len(earlier) == 1
                    else f"Only some of the studies have a usable {role} series.",
                )
            )
    return notes

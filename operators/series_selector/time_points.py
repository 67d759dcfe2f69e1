"""Which study is current and which are earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from operators.errors import InputError
from operators.messages import QualityNote, Study
from operators.series_selector.assessment import StudyAssessment, assess
from operators.series_selector.settings import SeriesSelectorSettings
from operators.series_selector.table import found_table

_FORCE = "Set current_study_uid and prior_study_uid in the section series_selector of app.yaml"


@dataclass(frozen=True)
class TimePoints:
    """The studies that are used, pixels unread."""

    current: StudyAssessment
    prior: StudyAssessment | None
    """The latest earlier study that can be used."""
    earlier: tuple[StudyAssessment, ...]
    """The usable studies before ``prior``, newest first."""
    notes: tuple[QualityNote, ...]


def find_time_points(
    studies: Sequence[Study], settings: SeriesSelectorSettings, today: date
) -> TimePoints:
    """Choose the current and the earlier studies.

    The current study is the last one of the newest day that has the reference role; an older day
    is never taken instead. Every study before it that has every required role is an earlier one,
    the newest of them the prior. Beyond the largest number of them, the newest ones and the very
    first are kept. Studies of one day are ordered by their time.

    Parameters
    ----------
    studies
        All studies of the input.
    settings
        The selection rules.
    today
        Studies dated after this day (and the tolerance for time zones) are refused.

    Raises
    ------
    InputError
        If the studies are of several patients, of the future or cannot be ordered, or if the
        current study lacks a required role or has two series that the rules cannot tell apart.
    """
    _check_patients(studies)
    _check_forced(studies, settings)
    imaging = [study for study in studies if _is_imaging(study, settings)]
    if not imaging:
        modalities = " or ".join(settings.modalities)
        raise InputError(
            "input",
            f"It holds no {modalities} image series.",
            "Send a complete study of the patient."
            + _found([assess(s, settings) for s in studies]),
        )
    _check_dates(imaging, settings, today)
    notes: list[QualityNote] = []
    current = _find_current(imaging, settings, notes)
    _require_roles(current, settings)
    found = _find_earlier(current, imaging, settings, notes)
    return TimePoints(current, found[0] if found else None, tuple(found[1:]), tuple(notes))


def _is_imaging(study: Study, settings: SeriesSelectorSettings) -> bool:
    return any(series.attributes.modality in settings.modalities for series in study.series)


def _found(assessments: Sequence[StudyAssessment]) -> str:
    return f"\nFound:\n{found_table(assessments)}" if assessments else ""


def _label(study: Study) -> str:
    return f"study {study.study_uid}"


def _check_patients(studies: Sequence[Study]) -> None:
    patients = len({study.patient_key for study in studies})
    if patients > 1:
        raise InputError(
            "input",
            f"It holds studies of {patients} patients.",
            "Send the studies of one patient at a time.",
        )


def _check_forced(studies: Sequence[Study], settings: SeriesSelectorSettings) -> None:
    present = {study.study_uid for study in studies}
    for key in ("current_study_uid", "prior_study_uid"):
        uid = getattr(settings, key)
        if uid is not None and uid not in present:
            raise InputError(
                f"setting series_selector.{key}",
                f"Study {uid} is not in the input.",
                "Send this study too, or remove the setting.",
            )


def _check_dates(studies: Sequence[Study], settings: SeriesSelectorSettings, today: date) -> None:
    latest = today + timedelta(days=settings.future_tolerance_days)
    for study in studies:
        if study.acquired is not None and study.acquired > latest:
            raise InputError(
                _label(study),
                "Its study date lies in the future.",
                "Correct the date at the scanner or the PACS, or the clock of this computer.",
            )
    if len(studies) == 1 or (settings.current_study_uid and settings.prior_study_uid):
        return
    undated = next((study for study in studies if study.acquired is None), None)
    if undated is not None:
        raise InputError(
            _label(undated),
            "It has no study date, and there are other studies to order it with.",
            f"{_FORCE}, or send one study.",
        )


def _when(study: Study) -> tuple[date, str]:
    time = "".join(c for c in study.acquired_time or "" if c.isdigit())
    return (study.acquired or date.min, time.ljust(12, "0") if time else "")


def _before(study: Study, studies: Sequence[Study]) -> list[Study]:
    """Studies before ``study``, newest first; none where ``study`` is undated."""
    if study.acquired is None:
        return []
    earlier = [
        other for other in studies if other.acquired is not None and _when(other) < _when(study)
    ]
    return sorted(earlier, key=lambda other: (*_when(other), other.study_uid), reverse=True)


def _undated(studies: Sequence[Study]) -> list[Study]:
    return [study for study in studies if study.acquired is None]


def _find_current(
    studies: Sequence[Study], settings: SeriesSelectorSettings, notes: list[QualityNote]
) -> StudyAssessment:
    role = settings.reference_role
    if settings.current_study_uid is not None:
        forced = next((s for s in studies if s.study_uid == settings.current_study_uid), None)
        if forced is None:
            raise InputError(
                "setting series_selector.current_study_uid",
                "The study has no usable kind of image series.",
                "Give the study that holds the images.",
            )
        later = [s for s in studies if s.acquired and forced.acquired and _when(s) > _when(forced)]
        if later:
            notes.append(
                QualityNote(
                    "later_studies_not_used",
                    "warning",
                    f"The settings name the current study; {_count(len(later))} after it is not"
                    " used.",
                )
            )
        return assess(forced, settings)

    dated = [s for s in studies if s.study_uid != settings.prior_study_uid] or list(studies)
    newest = max(_when(study)[0] for study in dated)
    of_day = sorted((s for s in dated if _when(s)[0] == newest), key=_when, reverse=True)
    assessments = [assess(study, settings) for study in of_day]
    having = [a for a in assessments if role in a.chosen or role in a.ambiguous]
    if not having:
        older = len(dated) - len(of_day)
        raise InputError(
            _label(of_day[0]),
            f"This newest study has {_lacking(assessments[0], (role,))}."
            + (f" {_count(older).capitalize()} before it cannot take its place." if older else ""),
            "Send the complete study, or correct the rules in the section series_selector of"
            " app.yaml." + _found(assessments),
        )
    if len(having) > 1 and _when(having[0].study) == _when(having[1].study):
        raise InputError(
            _label(having[0].study),
            f"It and another study with a {role} series have the same date and time.",
            f"{_FORCE}." + _found(having),
        )
    if len(of_day) > len(having):
        notes.append(
            QualityNote(
                "study_not_used",
                "info",
                f"{_count(len(of_day) - len(having)).capitalize()} of the current day without a"
                f" usable {role} series is not used.",
            )
        )
    return having[0]


def _require_roles(assessment: StudyAssessment, settings: SeriesSelectorSettings) -> None:
    ambiguous = [role for role in settings.wanted_roles if role in assessment.ambiguous]
    if ambiguous:
        role = ambiguous[0]
        raise InputError(
            _label(assessment.study),
            f"The choice of the {role} series is ambiguous: {assessment.ambiguous[role]}.",
            f"Send only one of them, or extend the order of {role} in the section series_selector"
            " of app.yaml." + _found([assessment]),
        )
    lacking = assessment.lacks(settings.required_roles)
    if lacking:
        raise InputError(
            _label(assessment.study),
            f"It has {_lacking(assessment, lacking)}.",
            "Send the complete study, or correct the rules in the section series_selector of"
            " app.yaml." + _found([assessment]),
        )


def _find_earlier(
    current: StudyAssessment,
    studies: Sequence[Study],
    settings: SeriesSelectorSettings,
    notes: list[QualityNote],
) -> list[StudyAssessment]:
    """The studies to compare with, newest first."""
    before = _before(current.study, studies)
    if not settings.use_prior:
        if before:
            notes.append(
                QualityNote(
                    "prior_switched_off",
                    "info",
                    f"{_count(len(before)).capitalize()} before the current one is not used: the"
                    " settings switch the comparison off.",
                )
            )
        return []
    if settings.prior_study_uid is not None:
        prior = _forced_prior(current, studies, settings)
        used = {current.study.study_uid, prior.study.study_uid}
        others = sum(study.study_uid not in used for study in [*before, *_undated(studies)])
        if others:
            notes.append(
                QualityNote(
                    "other_studies_not_used",
                    "warning",
                    f"The settings name the prior study; {_count(others)} besides it and the"
                    " current one is not used.",
                )
            )
        return [prior]
    usable = []
    for study in before:
        assessment = assess(study, settings)
        reason = _why_not_prior(assessment, settings)
        if reason is None:
            usable.append(assessment)
        else:
            notes.append(
                QualityNote(
                    "prior_unusable",
                    "warning",
                    f"{_label(study).capitalize()} is not compared with: {reason}.",
                )
            )
    kept = _at_most(usable, settings.maximum_earlier_studies, notes)
    _note_same_days(current, kept, notes)
    return kept


def _at_most(
    usable: list[StudyAssessment], limit: int, notes: list[QualityNote]
) -> list[StudyAssessment]:
    """The newest studies and the first one."""
    left = len(usable) - limit
    if left <= 0:
        return usable
    kept = usable[:1] if limit == 1 else [*usable[: limit - 1], usable[-1]]
    notes.append(
        QualityNote(
            "older_studies_not_used",
            "warning",
            f"{len(usable)} earlier studies can be compared with, and at most {limit} are (setting"
            f" maximum_earlier_studies): {_count(left)} between the first and the newer ones is"
            " not used."
            if limit > 1
            else f"{len(usable)} earlier studies can be compared with; the settings allow the"
            " latest one only.",
        )
    )
    return kept


def _note_same_days(
    current: StudyAssessment, earlier: Sequence[StudyAssessment], notes: list[QualityNote]
) -> None:
    if earlier and earlier[0].study.acquired == current.study.acquired:
        notes.append(
            QualityNote(
                "prior_of_same_day",
                "warning",
                "The prior study was acquired on the day of the current one.",
            )
        )
    days = [assessment.study.acquired for assessment in earlier]
    for day in sorted({day for day in days if day is not None and days.count(day) > 1}):
        interval = (current.study.acquired - day).days if current.study.acquired else 0
        notes.append(
            QualityNote(
                "earlier_studies_of_one_day",
                "info",
                f"{days.count(day)} earlier studies were acquired on one day, {interval} days"
                " before the current one.",
            )
        )


def _why_not_prior(assessment: StudyAssessment, settings: SeriesSelectorSettings) -> str | None:
    for role in settings.required_roles:
        if role in assessment.ambiguous:
            return f"the choice of its {role} series is ambiguous ({assessment.ambiguous[role]})"
    lacking = assessment.lacks(settings.required_roles)
    return f"it has {_lacking(assessment, lacking)}" if lacking else None


def _lacking(assessment: StudyAssessment, roles: Sequence[str]) -> str:
    """As "no usable flair series (series 4 was refused for missing_slices: ...)"."""
    refused = [
        f"{rejected.series.label} was refused for {rejected.reason}"
        for rejected in assessment.rejected
        if rejected.role in roles
    ]
    text = f"no usable {' and no usable '.join(roles)} series"
    return f"{text} ({'; '.join(refused)})" if refused else text


def _forced_prior(
    current: StudyAssessment, studies: Sequence[Study], settings: SeriesSelectorSettings
) -> StudyAssessment:
    study = next((s for s in studies if s.study_uid == settings.prior_study_uid), None)
    if study is None:
        raise InputError(
            "setting series_selector.prior_study_uid",
            "The study has no usable kind of image series.",
            "Give the study that holds the images.",
        )
    both_dated = study.acquired is not None and current.study.acquired is not None
    if study.study_uid == current.study.study_uid or (
        both_dated and _when(study) > _when(current.study)
    ):
        raise InputError(
            "setting series_selector.prior_study_uid",
            f"{_label(study).capitalize()} is not before the current study.",
            "Exchange current_study_uid and prior_study_uid, or remove them.",
        )
    assessment = assess(study, settings)
    _require_roles(assessment, settings)
    return assessment


def _count(number: int) -> str:
    return "one study" if number == 1 else f"each of {number} studies"

"""All images of the current and the earlier studies related to the current FLAIR."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import highdicom as hd
import numpy as np
from threadpoolctl import threadpool_limits

from operators.errors import InputError
from operators.geometry import resample_to
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    EarlierStudy,
    QualityNote,
    Registration,
    SelectedStudies,
    SelectedStudy,
)
from operators.registration.brain_mask import BrainMask, find_brain
from operators.registration.rigid import register_rigid
from operators.registration.settings import RegistrationSettings
from operators.registration.similarity import dice
from operators.registration.template import load_template


def align_studies(selected: SelectedStudies, settings: RegistrationSettings) -> AlignedStudies:
    """Find the brain of each study and relate every image to the current FLAIR.

    A registration that cannot be trusted is kept with ``accepted`` False and named in a quality
    note: a study whose FLAIR it concerns is not compared, a T1 or T2 is not used. Change is
    reported against the latest study that can be compared, which becomes ``prior``. An earlier
    study whose FLAIR shows no brain is left out with a note.

    Each image is matched in one thread, several at the same time, so that the result is the same
    to the last bit whatever the number of processors.

    Parameters
    ----------
    selected
        The current study and any number of earlier ones, each with a FLAIR.
    settings
        The stage's settings.

    Returns
    -------
    AlignedStudies
        Its ``selected`` names the same ``prior`` as itself.

    Raises
    ------
    operators.errors.InputError
        If the current FLAIR holds no brain.
    """
    notes: list[QualityNote] = []
    studies = [selected.current]
    names = ["current"]
    if selected.prior is not None:
        studies += [selected.prior, *selected.earlier]
        names += ["prior", *(_name(study) for study in selected.earlier)]
    load_template()
    pool = ThreadPoolExecutor(settings.threads or len(os.sched_getaffinity(0)))
    # one thread in the linear algebra too: how it shares sums out would change their last bits
    with threadpool_limits(1, user_api="blas"), pool:
        try:
            aligned = _align_each(studies, names, settings, pool, notes)
            earlier = _relate(aligned, settings, pool, notes)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    current = aligned[0][0]
    if not earlier:
        bare = dataclasses.replace(selected, prior=None, prior_segmentations=(), earlier=())
        return AlignedStudies(bare, current, None, None, quality=tuple(notes))
    prior, others = _promote(earlier, notes)
    return AlignedStudies(
        selected=_with_prior(selected, prior, others),
        current=current,
        prior=prior.aligned,
        prior_to_current=prior.to_current,
        earlier=others,
        quality=tuple(notes),
    )


def brain_overlap(current: hd.Volume, prior: hd.Volume, current_to_prior: np.ndarray) -> float:
    """Dice of two brain masks after alignment, where both images have voxels.

    Parameters
    ----------
    current, prior
        bool masks, each on its own grid.
    current_to_prior
        4×4, current points to prior points, LPS.
    """
    seen = resample_to(
        prior.with_array(np.ones_like(prior.array)), current, current_to_prior, nearest=True
    )
    moved = resample_to(prior, current, current_to_prior, nearest=True)
    return dice(current.array & seen.array, moved.array)


def _name(study: SelectedStudy) -> str:
    """What to call an earlier study in a note, as "earlier (400 days before)"."""
    days = study.interval_days
    return "earlier (undated)" if days is None else f"earlier ({days} days before)"


def _align_each(
    studies: Sequence[SelectedStudy],
    names: Sequence[str],
    settings: RegistrationSettings,
    pool: ThreadPoolExecutor,
    notes: list[QualityNote],
) -> list[tuple[AlignedStudy, str]]:
    """Brain mask and own sequences of every study, with its name; the current one comes first."""
    searches = [
        pool.submit(
            find_brain,
            study.series["flair"].volume,
            settings,
            f"{name} FLAIR, {study.series['flair'].series.label}",
        )
        for study, name in zip(studies, names, strict=True)
    ]
    brains: list[BrainMask | None] = [searches[0].result()]
    for search in searches[1:]:
        try:
            brains.append(search.result())
        except InputError as error:
            notes.append(
                QualityNote(
                    "brain_not_found",
                    "warning",
                    f"{error.subject[0].upper()}{error.subject[1:]}: {error.rule} The study is not "
                    "compared with.",
                )
            )
            brains.append(None)
    matches = [
        {} if brain is None else _match_sequences(study, brain, settings, pool)
        for study, brain in zip(studies, brains, strict=True)
    ]
    aligned = []
    for study, name, brain, found in zip(studies, names, brains, matches, strict=True):
        if brain is None:
            continue
        notes.extend(_mask_notes(brain, name, settings))
        to_flair = {role: match.result() for role, match in found.items()}
        notes.extend(_refusals(study, name, to_flair))
        aligned.append(
            (AlignedStudy(study, to_flair, brain.mask, brain.template_to_flair), name),
        )
    return aligned


def _match_sequences(
    study: SelectedStudy,
    brain: BrainMask,
    settings: RegistrationSettings,
    pool: ThreadPoolExecutor,
) -> dict[str, Future[Registration]]:
    return {
        role: pool.submit(
            register_rigid,
            study.series["flair"].volume,
            series.volume,
            brain.mask,
            settings,
            min_similarity=settings.min_similarity_within_study,
            max_translation_mm=settings.max_translation_within_study_mm,
            max_rotation_deg=settings.max_rotation_within_study_deg,
        )
        for role, series in study.series.items()
        if role != "flair"
    }


def _refusals(
    study: SelectedStudy, name: str, to_flair: dict[str, Registration]
) -> list[QualityNote]:
    return [
        QualityNote(
            f"{role}_registration_refused",
            "warning",
            f"The {role.upper()} of the {name} study ({study.series[role].series.label}) could not "
            f"be aligned with its FLAIR ({_described(result)}) and is not used.",
        )
        for role, result in to_flair.items()
        if not result.accepted
    ]


def _relate(
    aligned: Sequence[tuple[AlignedStudy, str]],
    settings: RegistrationSettings,
    pool: ThreadPoolExecutor,
    notes: list[QualityNote],
) -> list[EarlierStudy]:
    """Every earlier study with its registration to the current one, newest first."""
    current = aligned[0][0]
    matches = [pool.submit(_align_flairs, current, earlier, settings) for earlier, _ in aligned[1:]]
    related = []
    for (study, name), match in zip(aligned[1:], matches, strict=True):
        result, overlap = match.result()
        if not result.accepted:
            notes.append(
                QualityNote(
                    "prior_registration_refused"
                    if name == "prior"
                    else "earlier_registration_refused",
                    "warning",
                    f"The {name} FLAIR could not be aligned with the current one "
                    f"({_described(result)}, brain overlap {overlap:.2f}): no comparison with that "
                    "study.",
                )
            )
        related.append(EarlierStudy(study, result))
    return related


def _align_flairs(
    current: AlignedStudy, earlier: AlignedStudy, settings: RegistrationSettings
) -> tuple[Registration, float]:
    """Current FLAIR points to earlier FLAIR points, and the overlap of the two brains."""
    result = register_rigid(
        current.selected.series["flair"].volume,
        earlier.selected.series["flair"].volume,
        current.brain_mask,
        settings,
        starts=[np.linalg.inv(earlier.template_to_flair) @ current.template_to_flair],
        min_similarity=settings.min_similarity_between_studies,
        max_rotation_deg=settings.max_rotation_between_studies_deg,
    )
    overlap = brain_overlap(current.brain_mask, earlier.brain_mask, result.matrix_lps)
    if overlap < settings.min_brain_overlap:
        result = dataclasses.replace(result, accepted=False)
    return result, overlap


def _promote(
    earlier: Sequence[EarlierStudy], notes: list[QualityNote]
) -> tuple[EarlierStudy, tuple[EarlierStudy, ...]]:
    """The study that change is reported against, and the others, newest first."""
    position = next((n for n, one in enumerate(earlier) if one.to_current.accepted), 0)
    prior = earlier[position]
    if position > 0:
        days = prior.aligned.selected.interval_days
        notes.append(
            QualityNote(
                "prior_not_the_latest",
                "warning",
                "The latest earlier study cannot be compared; change is reported against an "
                f"older one{'' if days is None else f', {days} days before the current one'}.",
            )
        )
    return prior, (*earlier[:position], *earlier[position + 1 :])


def _with_prior(
    selected: SelectedStudies, prior: EarlierStudy, others: Sequence[EarlierStudy]
) -> SelectedStudies:
    """``selected`` with the studies that were kept, under the roles that they have now."""
    study = prior.aligned.selected
    if study is selected.prior and len(others) == len(selected.earlier):
        return selected
    own = {reference.sop_instance_uid for reference in study.study.segmentations}
    return dataclasses.replace(
        selected,
        prior=study,
        prior_segmentations=tuple(
            reference for reference in study.lesion_objects if reference.sop_instance_uid in own
        ),
        earlier=tuple(one.aligned.selected for one in others),
    )


def _described(result: Registration) -> str:
    return (
        f"similarity {result.similarity:.3f}, moved {result.translation_mm:.0f} mm, "
        f"turned {result.rotation_deg:.0f}°"
    )


def _mask_notes(brain: BrainMask, name: str, settings: RegistrationSettings) -> list[QualityNote]:
    notes = []
    if not settings.min_brain_volume_ml <= brain.volume_ml <= settings.max_brain_volume_ml:
        notes.append(
            QualityNote(
                "brain_mask_implausible",
                "warning",
                f"The brain found in the {name} FLAIR measures {brain.volume_ml:.0f} ml.",
            )
        )
    if brain.cut_fraction > settings.max_brain_cut:
        notes.append(
            QualityNote(
                "brain_incomplete",
                "warning",
                f"About {100 * brain.cut_fraction:.0f} % of the brain lies outside the {name} "
                "FLAIR's field of view.",
            )
        )
    return notes

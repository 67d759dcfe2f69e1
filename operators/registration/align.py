"""All images of the current and the prior study related to the current FLAIR."""

from __future__ import annotations

import dataclasses

import highdicom as hd
import numpy as np

from operators.geometry import resample_to
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    QualityNote,
    Registration,
    SelectedStudies,
    SelectedStudy,
)
from operators.registration.brain_mask import BrainMask, find_brain
from operators.registration.rigid import register_rigid
from operators.registration.settings import RegistrationSettings
from operators.registration.similarity import dice


def align_studies(selected: SelectedStudies, settings: RegistrationSettings) -> AlignedStudies:
    """Find the brain of each study and relate every image to the current FLAIR.

    A registration that cannot be trusted is kept with ``accepted`` False and named in a quality
    note: without the one of the prior there is no comparison, without the one of a T1 or T2 that
    image is not used.

    Parameters
    ----------
    selected
        The current study and, for a follow-up, the prior one, each with a FLAIR.
    settings
        The stage's settings.

    Raises
    ------
    operators.errors.InputError
        If a FLAIR holds no brain.
    """
    notes: list[QualityNote] = []
    current = _align_study(selected.current, "current", settings, notes)
    prior = None
    prior_to_current = None
    if selected.prior is not None:
        prior = _align_study(selected.prior, "prior", settings, notes)
        prior_to_current = _align_prior(current, prior, settings, notes)
    return AlignedStudies(
        selected=selected,
        current=current,
        prior=prior,
        prior_to_current=prior_to_current,
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


def _align_study(
    study: SelectedStudy, when: str, settings: RegistrationSettings, notes: list[QualityNote]
) -> AlignedStudy:
    flair = study.series["flair"]
    brain = find_brain(flair.volume, settings, f"{when} FLAIR, {flair.series.label}")
    notes.extend(_mask_notes(brain, when, settings))
    to_flair: dict[str, Registration] = {}
    for role, series in study.series.items():
        if role == "flair":
            continue
        result = register_rigid(
            flair.volume,
            series.volume,
            brain.mask,
            settings,
            min_similarity=settings.min_similarity_within_study,
            max_translation_mm=settings.max_translation_within_study_mm,
            max_rotation_deg=settings.max_rotation_within_study_deg,
        )
        to_flair[role] = result
        if not result.accepted:
            notes.append(
                QualityNote(
                    f"{role}_registration_refused",
                    "warning",
                    f"The {role.upper()} of the {when} study ({series.series.label}) could not be "
                    f"aligned with its FLAIR ({_described(result)}) and is not used.",
                )
            )
    return AlignedStudy(
        selected=study,
        to_flair=to_flair,
        brain_mask=brain.mask,
        template_to_flair=brain.template_to_flair,
    )


def _align_prior(
    current: AlignedStudy,
    prior: AlignedStudy,
    settings: RegistrationSettings,
    notes: list[QualityNote],
) -> Registration:
    result = register_rigid(
        current.selected.series["flair"].volume,
        prior.selected.series["flair"].volume,
        current.brain_mask,
        settings,
        starts=[np.linalg.inv(prior.template_to_flair) @ current.template_to_flair],
        min_similarity=settings.min_similarity_between_studies,
        max_rotation_deg=settings.max_rotation_between_studies_deg,
    )
    overlap = brain_overlap(current.brain_mask, prior.brain_mask, result.matrix_lps)
    if overlap < settings.min_brain_overlap:
        result = dataclasses.replace(result, accepted=False)
    if not result.accepted:
        notes.append(
            QualityNote(
                "prior_registration_refused",
                "warning",
                "The prior FLAIR could not be aligned with the current one "
                f"({_described(result)}, brain overlap {overlap:.2f}): no comparison over time.",
            )
        )
    return result


def _described(result: Registration) -> str:
    return (
        f"similarity {result.similarity:.3f}, moved {result.translation_mm:.0f} mm, "
        f"turned {result.rotation_deg:.0f}°"
    )


def _mask_notes(brain: BrainMask, when: str, settings: RegistrationSettings) -> list[QualityNote]:
    notes = []
    if not settings.min_brain_volume_ml <= brain.volume_ml <= settings.max_brain_volume_ml:
        notes.append(
            QualityNote(
                "brain_mask_implausible",
                "warning",
                f"The brain found in the {when} FLAIR measures {brain.volume_ml:.0f} ml.",
            )
        )
    if brain.cut_fraction > settings.max_brain_cut:
        notes.append(
            QualityNote(
                "brain_incomplete",
                "warning",
                f"About {100 * brain.cut_fraction:.0f} % of the brain lies outside the {when} "
                "FLAIR's field of view.",
            )
        )
    return notes

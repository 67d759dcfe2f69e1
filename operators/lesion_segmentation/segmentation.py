"""From aligned studies to the lesion probability at each time point."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import highdicom as hd
import numpy as np
from scipy.ndimage import binary_dilation

from operators.errors import ConfigurationError
from operators.lesion_segmentation.engine import Engine
from operators.lesion_segmentation.grids import prepare, to_flair_grid
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage, choose_package
from operators.lesion_segmentation.nnunet import predict, softmax, target_probability
from operators.lesion_segmentation.reference import anchor_role, on_reference, to_study_grid
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.lesion_segmentation.tiling import run_tiled, tile_sum_of
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    LesionProbabilities,
    LesionProbability,
    ModelIdentity,
    QualityNote,
)

logger = logging.getLogger(__name__)

EngineSource = Callable[[ModelPackage, Network], Engine]
"""Gives the loaded engine of one of a package's networks; the operator keeps them between calls."""


def lesion_probability(output: np.ndarray, package: ModelPackage) -> np.ndarray:
    """The lesion's probability from the network's blended output.

    Parameters
    ----------
    output
        float32 (labels, z, y, x): logits or probabilities, as the package's ``averaging`` says;
        it is overwritten.
    package
        The model package.

    Returns
    -------
    numpy.ndarray
        float32 (z, y, x) in [0, 1]; see ``nnunet.target_probability``.
    """
    description = package.description
    if description.averaging == "logits" and len(description.labels) == 2:
        # two labels: softmax is the logistic function of the difference
        lesion = description.target_values[0]
        difference = np.clip(output[1 - lesion] - output[lesion], -80, 80)
        return np.asarray(1 / (1 + np.exp(difference)), dtype=np.float32)
    if description.averaging == "logits":
        softmax(output)
    return target_probability(output, description)


def segment_study(
    study: AlignedStudy,
    package: ModelPackage,
    engine_of: EngineSource,
    settings: LesionSegmentationSettings,
) -> tuple[LesionProbability, tuple[QualityNote, ...]]:
    """Run the package over one time point.

    Parameters
    ----------
    study
        The time point; it must hold every role that the package needs.
    package
        The model.
    engine_of
        Gives what runs each of its networks.
    settings
        The stage's settings.

    Returns
    -------
    LesionProbability
        On the study's FLAIR grid.
    tuple of QualityNote
        A warning for each sequence that does not cover the brain.

    Raises
    ------
    InputError
        If the brain mask is empty or a series does not show the brain.
    ConfigurationError
        If the network's answer is not finite.
    """
    description = package.description
    run = _run_nnunet if description.preprocessing == "nnunet" else _run_aligned_grid
    probability, coverage = run(study, package, engine_of)
    notes = tuple(
        QualityNote(
            "sequence_covers_part_of_brain",
            "warning",
            f"{study.selected.series[role].series.label} ({role.upper()}) covers "
            f"{100 * share:.0f} % of the brain; lesions outside it are less certain.",
        )
        for role, share in coverage.items()
        if share < settings.minimum_coverage
    )
    engine = engine_of(package, description.networks[-1])
    result = LesionProbability(
        probability=probability,
        # without a threshold the largest label decides, which target_probability puts at one half
        threshold=settings.threshold or description.threshold or 0.5,
        model=ModelIdentity(
            name=description.name,
            version=description.version,
            sha256=package.sha256,
            engine=engine.name,
            precision=engine.precision,
        ),
    )
    return result, notes


def _run_aligned_grid(
    study: AlignedStudy, package: ModelPackage, engine_of: EngineSource
) -> tuple[hd.Volume, Mapping[str, float]]:
    """Preprocessing "aligned_grid": one interpolation to the working grid, one back."""
    description = package.description
    prepared = prepare(study, description)
    # one voxel more than the brain: the return trip interpolates between neighbours
    needed = binary_dilation(prepared.mask, np.ones((3, 3, 3)))
    output = run_tiled(
        prepared.image,
        needed,
        tile_sum_of(engine_of(package, description.networks[-1]), len(description.labels)),
        patch=description.patch_size_zyx,
        step=description.tile_step,
        sigma=description.gaussian_sigma,
    )
    probability = lesion_probability(output, package)
    probability[~needed] = 0
    return to_flair_grid(probability, prepared.grid, study.brain_mask), prepared.coverage


def _run_nnunet(
    study: AlignedStudy, package: ModelPackage, engine_of: EngineSource
) -> tuple[hd.Volume, Mapping[str, float]]:
    """Preprocessing "nnunet": the reference's grid, then nnU-Net's own steps."""
    description = package.description
    begun = time.perf_counter()
    prepared = on_reference(study, description)
    aligned = time.perf_counter() - begun
    answer = predict(
        prepared.image,
        prepared.spacing_zyx_mm,
        description,
        lambda network: tile_sum_of(engine_of(package, network), len(description.labels)),
        prepared.mask,
    )
    logger.info(
        "aligned in %.1f s, resampled in %.1f s, network %.1f s, return %.1f s",
        aligned,
        answer.seconds["resample"],
        answer.seconds["network"],
        answer.seconds["return"],
    )
    probability = target_probability(answer.probabilities, description)
    return to_study_grid(probability, prepared, study, description), prepared.coverage


def usable_roles(study: AlignedStudy) -> frozenset[str]:
    """Roles of the series that are there and related to the FLAIR by an accepted registration."""
    return frozenset(
        role
        for role in study.selected.series
        if role == anchor_role(study) or (role in study.to_flair and study.to_flair[role].accepted)
    )


def choose_packages(
    aligned: AlignedStudies, packages: Sequence[ModelPackage]
) -> tuple[
    ModelPackage,
    ModelPackage | None,
    tuple[ModelPackage | None, ...],
    tuple[QualityNote, ...],
]:
    """Which package segments which study.

    All time points get the same package wherever one fits all, even where one of them has a
    sequence more: two models find different volumes in the same brain, and the difference would
    look like a change of the lesions.

    Returns
    -------
    ModelPackage
        For the current study.
    ModelPackage or None
        For the prior study; None if it is not to be segmented.
    tuple of ModelPackage or None
        Likewise for ``aligned.earlier``.
    tuple of QualityNote
        What the reader must know about the choice.

    Raises
    ------
    ConfigurationError
        If no package fits the current study.
    """
    notes: list[QualityNote] = []
    roles = usable_roles(aligned.current)
    for role in sorted(set(aligned.current.selected.series) - roles):
        notes.append(
            QualityNote(
                "sequence_not_aligned",
                "warning",
                f"The current {role.upper()} could not be aligned with the FLAIR and was not used.",
            )
        )
    if "t1" not in aligned.current.selected.series:
        notes.append(
            QualityNote(
                "no_t1",
                "info",
                "The current study has no T1 without contrast; lesions were found without it.",
            )
        )
    current = choose_package(packages, roles)
    studies = [aligned.prior if aligned.comparable else None]
    studies += [one.aligned if one.to_current.accepted else None for one in aligned.earlier]
    found = [
        None if study is None else _package_of(study, packages, "earlier" if n else "prior", notes)
        for n, study in enumerate(studies)
    ]
    chosen = [package for package in found if package is not None]
    if any(package.sha256 != current.sha256 for package in chosen):
        shared = roles.intersection(
            *(
                usable_roles(one)
                for one, package in zip(studies, found, strict=True)
                if one is not None and package is not None
            )
        )
        try:
            common = choose_package(packages, shared)
        except ConfigurationError:
            names = sorted({package.description.name for package in [current, *chosen]})
            notes.append(
                QualityNote(
                    "different_models",
                    "warning",
                    f"The lesion volumes of the studies come from {len(names)} model variants "
                    f"({' and '.join(names)}) because no variant fits all; part of any change may "
                    "come from that.",
                )
            )
        else:
            every = {role for package in [current, *chosen] for role in package.roles}
            extra = ", ".join(role.upper() for role in sorted(every - set(common.roles)))
            only = ", ".join(common.roles).upper()
            notes.append(
                QualityNote(
                    "common_model",
                    "info",
                    f"{extra} is missing in one of the studies; all were segmented with {only} "
                    "only, so that their volumes can be compared.",
                )
            )
            current = common
            found = [None if package is None else common for package in found]
    return current, found[0], tuple(found[1:]), tuple(notes)


def _package_of(
    study: AlignedStudy, packages: Sequence[ModelPackage], name: str, notes: list[QualityNote]
) -> ModelPackage | None:
    roles = usable_roles(study)
    try:
        return choose_package(packages, roles)
    except ConfigurationError:
        which = f"the {name} study"
        if name != "prior" and study.selected.interval_days is not None:
            which = f"the study {study.selected.interval_days} days before the current one"
        notes.append(
            QualityNote(
                f"{name}_not_segmented",
                "warning",
                f"No model package fits the series of {which} ({', '.join(sorted(roles))}); it "
                "was not compared.",
            )
        )
        return None


def segment_studies(
    aligned: AlignedStudies,
    packages: Sequence[ModelPackage],
    engine_of: EngineSource,
    settings: LesionSegmentationSettings,
) -> LesionProbabilities:
    """Lesion probability of the current study and of each earlier one that can be compared.

    Parameters
    ----------
    aligned
        The time points.
    packages
        The model packages at hand.
    engine_of
        Gives the loaded engine of a package.
    settings
        The stage's settings.

    Returns
    -------
    LesionProbabilities
        ``quality`` holds this stage's notes only; ``timing_s`` is empty. Of the studies in
        ``aligned.earlier`` only the FLAIR keeps its pixels.

    Raises
    ------
    ConfigurationError
        If no package fits, or its network cannot run.
    InputError
        If a series does not show the brain.
    """
    of_current, of_prior, of_earlier, chosen_notes = choose_packages(aligned, packages)
    notes = list(chosen_notes)

    def segment(study: AlignedStudy, package: ModelPackage | None) -> LesionProbability | None:
        if package is None:
            return None
        found, remarks = segment_study(study, package, engine_of, settings)
        notes.extend(remarks)
        return found

    current, current_notes = segment_study(aligned.current, of_current, engine_of, settings)
    notes.extend(current_notes)
    prior = None if aligned.prior is None else segment(aligned.prior, of_prior)
    earlier = []
    kept = []
    for one, package in zip(aligned.earlier, of_earlier, strict=True):
        earlier.append(segment(one.aligned, package))
        kept.append(replace(one, aligned=_without_pixels(one.aligned)))
    if kept:
        selected = replace(aligned.selected, earlier=tuple(one.aligned.selected for one in kept))
        aligned = replace(aligned, selected=selected, earlier=tuple(kept))
    return LesionProbabilities(
        aligned=aligned,
        current=current,
        prior=prior,
        earlier=tuple(earlier),
        quality=tuple(notes),
    )


def _without_pixels(study: AlignedStudy) -> AlignedStudy:
    """The study with the pixels of its FLAIR only, so that many studies fit into memory; the other
    volumes keep their grid, and every voxel of them is not a number."""
    series = {}
    for role, one in study.selected.series.items():
        if role != anchor_role(study):
            empty = np.broadcast_to(np.float32(np.nan), one.volume.spatial_shape)
            one = replace(one, volume=one.volume.with_array(empty))
        series[role] = one
    return replace(study, selected=replace(study.selected, series=series))

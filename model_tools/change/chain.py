"""The application's own stages on images in memory: registration, segmentation, comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np

from model_tools.engines import PaddedEngine
from operators.lesion_segmentation.engine import Engine, open_engine
from operators.lesion_segmentation.model_description import Network
from operators.lesion_segmentation.model_package import ModelPackage, find_packages
from operators.lesion_segmentation.segmentation import EngineSource, segment_study, usable_roles
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.longitudinal_comparator.follow_up import compare
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.messages import (
    AlignedStudies,
    AlignedStudy,
    FollowUp,
    LesionProbabilities,
    LesionProbability,
    Registration,
    SelectedSeries,
    SelectedStudies,
    SelectedStudy,
    Series,
    SeriesAttributes,
    Study,
)
from operators.registration.align import align_studies, brain_overlap
from operators.registration.rigid import register_rigid
from operators.registration.settings import RegistrationSettings

INTERVAL_DAYS = 365
"""The pretended interval between the two examinations."""
_ROOT = "1.2.826.0.1.3680043.8.498.5"
_NUMBER = {"flair": 1, "t2": 2, "t1": 3}


def study_of(volumes: Mapping[str, hd.Volume], when: int, *, current: bool) -> SelectedStudy:
    """A study as the selector would hand it on, with made-up but plausible headers.

    Parameters
    ----------
    volumes
        By role.
    when
        1 for the earlier study, 2 for the later one: goes into the UIDs.
    current
        Whether it is the current study.
    """
    study_uid = f"{_ROOT}.{when}"
    frame = f"{study_uid}.9"
    series = {}
    for role, volume in volumes.items():
        thick = int(np.argmax(volume.spacing))
        in_plane = [float(s) for axis, s in enumerate(volume.spacing) if axis != thick]
        attributes = SeriesAttributes(
            modality="MR",
            series_number=_NUMBER[role],
            series_description=role.upper(),
            mr_acquisition_type="2D",
            rows=volume.spatial_shape[0],
            columns=volume.spatial_shape[1],
            slice_count=volume.spatial_shape[thick],
            spacing_mm=(in_plane[0], in_plane[1], float(volume.spacing[thick])),
            orientation="axial",
            coverage_mm=float(volume.spacing[thick] * volume.spatial_shape[thick]),
        )
        described = Series(
            series_uid=f"{study_uid}.{_NUMBER[role]}",
            stack="",
            study_uid=study_uid,
            frame_of_reference_uid=frame,
            attributes=attributes,
            instances=(),
            frame_numbers=None,
        )
        placed = hd.Volume(
            volume.array,
            affine=volume.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid=frame,
        )
        series[role] = SelectedSeries(role, "made for the evaluation", described, placed, ())
    study = Study(study_uid, "evaluation", None, None, ())
    return SelectedStudy(study, series, (), 0 if current else INTERVAL_DAYS)


def align_alone(study: SelectedStudy, settings: RegistrationSettings) -> AlignedStudy:
    """Find the brain of one study and relate its sequences to its FLAIR."""
    alone = SelectedStudies(
        current=dataclasses.replace(study, interval_days=0), prior=None, prior_segmentations=()
    )
    found = align_studies(alone, settings).current
    return dataclasses.replace(found, selected=study)


def relate(
    current: AlignedStudy, prior: AlignedStudy, settings: RegistrationSettings
) -> Registration:
    """Register the prior FLAIR to the current one, as `align_studies` does for a pair.

    It is done apart so that what concerns one study only is computed once for many trials.
    """
    found = register_rigid(
        current.selected.series["flair"].volume,
        prior.selected.series["flair"].volume,
        current.brain_mask,
        settings,
        starts=[np.linalg.inv(prior.template_to_flair) @ current.template_to_flair],
        min_similarity=settings.min_similarity_between_studies,
        max_rotation_deg=settings.max_rotation_between_studies_deg,
    )
    overlap = brain_overlap(current.brain_mask, prior.brain_mask, found.matrix_lps)
    accepted = found.accepted and overlap >= settings.min_brain_overlap
    return dataclasses.replace(found, accepted=accepted)


def pair(current: AlignedStudy, prior: AlignedStudy, registration: Registration) -> AlignedStudies:
    """Two aligned studies as the comparison takes them."""
    selected = SelectedStudies(
        current=current.selected, prior=prior.selected, prior_segmentations=()
    )
    return AlignedStudies(selected, current, prior, registration)


class Segmenter:
    """The shipped packages, each loaded once.

    Parameters
    ----------
    models
        Folder of the packages.
    settings
        The stage's settings; ``threads`` counts.
    """

    def __init__(self, models: Path, settings: LesionSegmentationSettings) -> None:
        self._packages = find_packages(models)
        self._settings = settings
        self._engines: dict[tuple[str, str], Engine] = {}

    @property
    def packages(self) -> tuple[ModelPackage, ...]:
        """The packages found."""
        return self._packages

    def package_for(self, roles: frozenset[str]) -> tuple[ModelPackage, bool]:
        """The package that makes the most of these sequences, and whether it is a makeshift.

        Where no shipped package fits (a study without T2), the one with the most channels runs
        with zeros for what is missing. The application itself refuses such a study.
        """
        fitting = [p for p in self._packages if set(p.roles) <= roles]
        if fitting:
            return max(fitting, key=lambda p: len(p.roles)), False
        full = max(self._packages, key=lambda p: len(p.roles))
        channels = tuple(c for c in full.description.channels if c.role in roles)
        part = full.description.model_copy(update={"channels": channels})
        return ModelPackage(full.folder, part, full.sha256), True

    def segment(self, study: AlignedStudy, roles: frozenset[str]) -> LesionProbability:
        """Lesion probability of one time point from these sequences."""
        package, makeshift = self.package_for(roles)
        engine_of = self._padded(package) if makeshift else self._engine_of
        return segment_study(study, package, engine_of, self._settings)[0]

    def _padded(self, part: ModelPackage) -> EngineSource:
        full = max(self._packages, key=lambda p: len(p.roles))
        position = [full.roles.index(role) for role in part.roles]

        def engine_of(_: ModelPackage, network: Network) -> Engine:
            return PaddedEngine(self._engine_of(full, network), position, len(full.roles))

        return engine_of

    def _engine_of(self, package: ModelPackage, network: Network) -> Engine:
        key = package.sha256, network.file
        if key not in self._engines:
            self._engines[key] = open_engine(package, self._settings, network=network)
        return self._engines[key]


def common_roles(current: AlignedStudy, prior: AlignedStudy) -> frozenset[str]:
    """Sequences that both time points have, related to their FLAIR."""
    return usable_roles(current) & usable_roles(prior)


def follow_up(
    aligned: AlignedStudies,
    current: LesionProbability,
    prior: LesionProbability,
    settings: LongitudinalComparatorSettings,
) -> FollowUp:
    """Compare the time points."""
    return compare(LesionProbabilities(aligned=aligned, current=current, prior=prior), settings)

"""A study's series on the reference series' grid, in the axes that a network was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np

from operators.errors import InputError
from operators.geometry import resample_to
from operators.lesion_segmentation.model_description import ModelDescription
from operators.messages import AlignedStudy

_HIGHDICOM_LETTERS = str.maketrans("SI", "HF")
"""nibabel's letters for superior and inferior to DICOM's for head and foot."""


@dataclass(frozen=True)
class ReferenceInput:
    """A study as nnU-Net's preprocessing takes it.

    Attributes
    ----------
    image
        float32 (channels, z, y, x), intensities as acquired; 0 where a series has no voxel, and
        outside the mask if the network was trained so.
    mask
        bool (z, y, x): where an answer is wanted.
    grid
        The reference series' own voxels with axes (i, j, k) = (x, y, z).
    spacing_zyx_mm
        Of the grid.
    coverage
        By role, the share of the mask that the series' images cover.
    """

    image: np.ndarray
    mask: np.ndarray
    grid: hd.Volume
    spacing_zyx_mm: tuple[float, float, float]
    coverage: Mapping[str, float]


def anchor_role(study: AlignedStudy) -> str:
    """The role of the series that the others are registered to and whose grid the mask is on."""
    series = study.selected.series
    return "flair" if "flair" in series else next(r for r in series if r not in study.to_flair)


def on_reference(study: AlignedStudy, description: ModelDescription) -> ReferenceInput:
    """Bring a study's series onto the grid of the package's reference series.

    The reference itself keeps its voxels: its axes are only put in the order and direction that
    the network was trained on. The other series are interpolated once, linearly.

    Raises
    ------
    InputError
        If the mask is empty, or a series covers none of it or has one value everywhere in it.
    """
    reference = study.selected.series[description.reference_role].volume
    to_reference = _from_anchor(study, description.reference_role)
    letters = description.orientation.translate(_HIGHDICOM_LETTERS)
    grid = reference.to_patient_orientation(letters)
    back = np.linalg.inv(to_reference)
    if description.reference_role == anchor_role(study):
        mask = np.asarray(study.brain_mask.to_patient_orientation(letters).array, dtype=bool)
    else:
        mask = resample_to(study.brain_mask, grid, back).array >= 0.5
    if not mask.any():
        raise InputError(
            "brain mask",
            "It holds no voxel.",
            "Check that the reference series shows the body part, and its orientation.",
        )
    image = np.zeros((len(description.channels), *mask.shape[::-1]), dtype=np.float32)
    coverage = {}
    for number, channel in enumerate(description.channels):
        selected = study.selected.series[channel.role]
        if channel.role == description.reference_role:
            values = np.array(grid.array, dtype=np.float32)
        else:
            matrix = _from_anchor(study, channel.role) @ back
            values = resample_to(selected.volume, grid, matrix, outside=float("nan")).array
        known = np.isfinite(values)
        inside = known & mask
        coverage[channel.role] = float(inside.sum() / mask.sum())
        if not (inside.any() and float(values[inside].std(dtype=np.float64)) > 0):
            raise InputError(
                selected.series.label,
                "It covers no part of the brain, or has one value everywhere in it.",
                "Check the series, or leave it out of the input.",
            )
        values[~(inside if description.brain_only else known)] = 0
        image[number] = values.transpose(2, 1, 0)
    x, y, z = (float(s) for s in grid.spacing)
    return ReferenceInput(
        image=image,
        mask=np.ascontiguousarray(mask.transpose(2, 1, 0)),
        grid=grid,
        spacing_zyx_mm=(z, y, x),
        coverage=coverage,
    )


def to_study_grid(
    probability: np.ndarray,
    prepared: ReferenceInput,
    study: AlignedStudy,
    description: ModelDescription,
) -> hd.Volume:
    """The probability on the grid of the study's brain mask.

    Parameters
    ----------
    probability
        float32 (z, y, x) on the reference grid.
    prepared
        What ``on_reference`` returned.
    study, description
        As for ``on_reference``.

    Returns
    -------
    highdicom.Volume
        float32 in [0, 1], 0 outside the brain. The voxels are those of ``probability`` where the
        reference is the study's FLAIR; from another series they are interpolated linearly.
    """
    volume = prepared.grid.with_array(np.ascontiguousarray(probability.transpose(2, 1, 0)))
    target = study.brain_mask
    if description.reference_role == anchor_role(study):
        values = volume.to_patient_orientation(target.get_closest_patient_orientation()).array
    else:
        matrix = _from_anchor(study, description.reference_role)
        values = resample_to(volume, target, matrix).array
    values = np.clip(values, 0, 1).astype(np.float32)
    values[~np.asarray(target.array, dtype=bool)] = 0
    return target.with_array(np.ascontiguousarray(values))


def _from_anchor(study: AlignedStudy, role: str) -> np.ndarray:
    """4×4: points of the study's FLAIR to points of a series."""
    if role == anchor_role(study):
        return np.eye(4)
    return np.asarray(study.to_flair[role].matrix_lps, dtype=float)

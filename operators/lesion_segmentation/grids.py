"""From the acquired images to the network's grid, and from there back to the FLAIR's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import highdicom as hd
import numpy as np

from operators.errors import InputError
from operators.geometry import resample_to
from operators.lesion_segmentation.model_package import ModelDescription
from operators.messages import AlignedStudy

_ORIENTATION = "LPH"
"""Array axes (i, j, k) towards left, posterior and head: the closest of the image's own axes."""


@dataclass(frozen=True)
class NetworkInput:
    """A study as the network sees it.

    Attributes
    ----------
    image
        float32 (channels, z, y, x), normalised, 0 outside the brain.
    mask
        bool (z, y, x): the brain.
    grid
        The working grid; its axes (i, j, k) are (x, y, z).
    coverage
        By role, the share of the brain that the series' images cover.
    """

    image: np.ndarray
    mask: np.ndarray
    grid: hd.Volume
    coverage: Mapping[str, float]


def working_grid(brain_mask: hd.Volume, spacing_zyx_mm: tuple[float, float, float]) -> hd.Volume:
    """The network's grid around the brain.

    Its axes are the FLAIR's own (oblique) axes, ordered towards left, posterior and head, so that
    only the sampling distance changes along each of them. It begins at the edge of the brain's
    bounding box; as everything outside the brain is 0 for the network, no margin is needed.

    Parameters
    ----------
    brain_mask
        bool on the FLAIR's grid.
    spacing_zyx_mm
        The model's spacing.

    Returns
    -------
    highdicom.Volume
        uint8 zeros.

    Raises
    ------
    InputError
        If the mask is empty.
    """
    mask = brain_mask.to_patient_orientation(_ORIENTATION)
    inside = np.asarray(mask.array, dtype=bool)
    if not inside.any():
        raise InputError(
            "brain mask",
            "It holds no voxel.",
            "Check that the FLAIR series shows the head, and that its orientation is right.",
        )
    spacing = np.asarray(spacing_zyx_mm, dtype=float)[::-1]
    first, count = np.empty(3), np.empty(3, dtype=int)
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        edges = (found[0] - 0.5) * mask.spacing[axis], (found[-1] + 0.5) * mask.spacing[axis]
        first[axis] = edges[0] + spacing[axis] / 2
        count[axis] = np.ceil((edges[1] - edges[0]) / spacing[axis] - 1e-6)
    direction = np.asarray(mask.direction, dtype=float)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = np.asarray(mask.position) + direction @ first
    return hd.Volume(
        np.zeros(tuple(count), dtype=np.uint8),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=brain_mask.frame_of_reference_uid,
    )


def prepare(study: AlignedStudy, description: ModelDescription) -> NetworkInput:
    """Bring a study's series onto the network's grid and normalise them.

    Each series is interpolated (linearly) once, from its acquired grid straight to the working
    grid through its registration. Its intensities become (x - mean) / standard deviation over the
    part of the brain that it covers; the rest is 0, the mean.

    Raises
    ------
    InputError
        If a series covers none of the brain, or has the same value everywhere in it.
    """
    grid = working_grid(study.brain_mask, description.spacing_zyx_mm)
    inside = resample_to(study.brain_mask, grid).array >= 0.5
    channels, coverage = [], {}
    for channel in description.channels:
        selected = study.selected.series[channel.role]
        matrix = (
            study.to_flair[channel.role].matrix_lps if channel.role in study.to_flair else np.eye(4)
        )
        values = resample_to(selected.volume, grid, matrix, outside=float("nan")).array
        known = inside & np.isfinite(values)
        coverage[channel.role] = float(known.sum() / inside.sum())
        deviation = float(values[known].std(dtype=np.float64)) if known.any() else 0.0
        if not deviation > 0:
            raise InputError(
                selected.series.label,
                "It covers no part of the brain, or has one value everywhere in it.",
                "Check the series, or leave it out of the input.",
            )
        normalised = np.zeros_like(values)
        mean = float(values[known].mean(dtype=np.float64))
        normalised[known] = (values[known] - mean) / deviation
        channels.append(normalised.transpose(2, 1, 0))
    return NetworkInput(
        image=np.ascontiguousarray(np.stack(channels), dtype=np.float32),
        mask=np.ascontiguousarray(inside.transpose(2, 1, 0)),
        grid=grid,
        coverage=coverage,
    )


def to_flair_grid(probability: np.ndarray, grid: hd.Volume, brain_mask: hd.Volume) -> hd.Volume:
    """The network's probability at the centre of each FLAIR voxel, by linear interpolation.

    A FLAIR slice is often thicker than the network's voxels. Sampling at the slice's centre makes
    the thresholded volume the sum of section areas times the slice distance, which is unbiased
    (Cavalieri's principle). The mean over the slice loses the caps of a lesion: for spheres of
    5 mm on 3 mm slices it gave 0.86 of the true volume (root mean square error 0.21 over random
    positions), the centre 0.94 (0.15); for 8 mm 0.97 (0.06) against 0.99 (0.05).

    Parameters
    ----------
    probability
        float32 (z, y, x) on the working grid.
    grid
        The working grid.
    brain_mask
        bool on the FLAIR's grid.

    Returns
    -------
    highdicom.Volume
        float32 in [0, 1] on the FLAIR's grid, 0 outside the brain.
    """
    volume = grid.with_array(np.ascontiguousarray(probability.transpose(2, 1, 0)))
    values = resample_to(volume, brain_mask).array
    values[~np.asarray(brain_mask.array, dtype=bool)] = 0
    return brain_mask.with_array(np.clip(values, 0, 1))

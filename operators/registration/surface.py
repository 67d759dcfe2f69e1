"""Fit of a closed surface to the edge of the brain in a FLAIR.

The surface of the template's brain mask is moved along its normals. Each point has a table of
costs over its displacement, from the profile of brightness along the normal: dark inside and brain
inside-bright outside cost. The tables are averaged over neighbouring points, over a wide
neighbourhood first and narrower ones later, so that shape is fitted before detail (a discrete
active shape search, after Cootes et al. 1995, with the region cost of Chan and Vese 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from operators.registration.linear import Matrix, index_matrix, sample


@dataclass(frozen=True)
class Fit:
    """How the surface is fitted; distances in millimetres, brightness relative to the brain's."""

    points: int = 5000
    reach: float = 12.0
    step: float = 0.75
    dark: float = 0.45
    bright: float = 0.75
    too_bright: float = 1.3
    dark_inside: float = 0.8
    """Cost of a dark millimetre inside, against 1 for a brain-bright one outside; less than 1, so
    that sulci do not pull the surface in."""
    outward: float = 0.4
    """Moves the fitted edge outwards: half a voxel of partial volume and pia belong to the mask."""
    passes: tuple[tuple[float, float, float], ...] = (
        (14.0, 8.0, 8.0),
        (7.0, 5.0, 4.0),
        (3.5, 3.0, 2.5),
    )
    """(neighbourhood, widest displacement from the last pass, scale of the prior)."""


def fit_surface(start: sitk.Image, relative: sitk.Image, fit: Fit | None = None) -> sitk.Image:
    """Move the surface of a mask to the edge of the brain.

    Parameters
    ----------
    start
        Soft mask in [0, 1] on a grid of cubic voxels that covers the image.
    relative
        FLAIR divided by the local brightness of brain tissue.
    fit
        How to fit; the defaults when None.

    Returns
    -------
    SimpleITK.Image
        float32, about the signed distance to the fitted surface in millimetres, negative inside,
        on ``start``'s grid.
    """
    fit = fit or Fit()
    signed = sitk.SignedMaurerDistanceMap(
        start > 0.5, insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    smooth = sitk.SmoothingRecursiveGaussian(signed, 2.0)
    distance = sitk.GetArrayFromImage(smooth)
    surface, normals = _surface_points(smooth, distance, fit.points)

    steps = np.arange(-fit.reach, fit.reach + fit.step / 2, fit.step)
    positions = surface[:, :, None] + normals[:, :, None] * steps
    count = surface.shape[1]
    flat = np.vstack([positions.reshape(3, -1), np.ones(count * steps.size)])
    values, inside = sample(relative, flat)
    brain = np.clip((values - fit.dark) / (fit.bright - fit.dark), 0, 1)
    brain = np.where(values > fit.too_bright, 0.0, brain)
    brain = brain.reshape(count, -1)
    seen = inside.reshape(count, -1)
    lost_inside = np.cumsum(np.where(seen, 1 - brain, 0.0), axis=1) * fit.dark_inside * fit.step
    left = np.where(seen, brain, 0.0)
    left_outside = (left.sum(1, keepdims=True) - np.cumsum(left, axis=1)) * fit.step
    cost = lost_inside + left_outside

    displacement = np.zeros(count)
    tree = cKDTree(surface.T)
    for width, widest, scale in fit.passes:
        weights = _neighbours(tree, surface, normals, width)
        pooled = weights @ cost
        offset = steps[None, :] - displacement[:, None]
        pooled = pooled + (offset / scale) ** 2
        pooled[np.abs(offset) > widest] = np.inf
        displacement = weights @ steps[np.argmin(pooled, axis=1)]

    band = np.abs(distance) < fit.reach + 4
    index = np.argwhere(band)[:, ::-1].T
    to_points = np.linalg.inv(index_matrix(smooth))
    points = (to_points @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    near, which = tree.query(points.T, k=6)
    weight = 1.0 / (near + 1.0) ** 2
    moved = (displacement[which] * weight).sum(1) / weight.sum(1)
    distance[band] -= moved + fit.outward
    result = sitk.GetImageFromArray(distance)
    result.CopyInformation(smooth)
    return result


def _surface_points(
    image: sitk.Image, distance: NDArray[np.float32], count: int
) -> tuple[Matrix, Matrix]:
    """Points (3, n) on the zero level and their outward unit normals (3, n), LPS."""
    to_points = np.linalg.inv(index_matrix(image))
    index = np.argwhere(np.abs(distance) < 1.0)
    index = index[:: max(1, len(index) // count)]
    spacing = np.asarray(image.GetSpacing())
    gradient = np.stack(list(np.gradient(distance, *(float(s) for s in spacing[::-1]))))[::-1]
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    normal = direction @ gradient[:, *index.T]
    normal /= np.linalg.norm(normal, axis=0) + 1e-9
    points = (to_points @ np.vstack([index[:, ::-1].T, np.ones(len(index))]))[:3]
    return points - normal * distance[*index.T], normal


def _neighbours(tree: cKDTree, points: Matrix, normals: Matrix, width: float) -> csr_matrix:
    """Row-normalised weights (n, n): near points that face the same way."""
    pairs = tree.sparse_distance_matrix(tree, 1.7 * width, output_type="coo_matrix").tocoo()
    facing = np.clip((normals[:, pairs.row] * normals[:, pairs.col]).sum(0), 0, 1)
    weight = np.exp(-0.5 * (pairs.data / width) ** 2) * facing
    diagonal = np.arange(points.shape[1])
    rows = np.concatenate([pairs.row, diagonal])
    cols = np.concatenate([pairs.col, diagonal])
    matrix = csr_matrix((np.concatenate([weight, np.full(diagonal.size, 1e-6)]), (rows, cols)))
    return csr_matrix(matrix.multiply(1.0 / matrix.sum(1)))

"""Two studies on one grid that favours neither of them.

Resampling one study onto the other blurs it alone, and the blur then looks like a change (Reuter,
Fischl, NeuroImage 57:19, 2011). Both are therefore brought half of the way: the space between them
is reached from either by the square root of the transform that relates them. Its axes are those of
patient space and its voxels are cubes, so that exchanging the studies changes the sign of their
difference and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage
from scipy.linalg import sqrtm

from operators.geometry import resample_to
from operators.longitudinal_comparator.points import transform_points

FINEST_MM, COARSEST_MM = 1.0, 1.5
"""Limits of the common grid's spacing."""
_MARGIN_MM = 6.0


@dataclass(frozen=True)
class Halfway:
    """The common space of two studies.

    Attributes
    ----------
    grid
        uint8 zeros; cubic voxels around both brains, axes along patient space.
    to_current, to_prior
        float64 (4, 4): points of the common space to points of each study's FLAIR, LPS mm.
    """

    grid: hd.Volume
    to_current: np.ndarray
    to_prior: np.ndarray

    @property
    def spacing_mm(self) -> float:
        """Edge of a voxel."""
        return float(self.grid.spacing[0])

    def index(self, points: np.ndarray) -> np.ndarray:
        """Fractional voxel indices (n, 3) of points (n, 3) of the common space."""
        return transform_points(np.linalg.inv(np.asarray(self.grid.affine, dtype=float)), points)

    def from_current(self, points: np.ndarray) -> np.ndarray:
        """Fractional voxel indices (n, 3) of points (n, 3) of the current study."""
        return self.index(transform_points(np.linalg.inv(self.to_current), points))

    def from_prior(self, points: np.ndarray) -> np.ndarray:
        """Fractional voxel indices (n, 3) of points (n, 3) of the prior study."""
        return self.index(transform_points(np.linalg.inv(self.to_prior), points))


def half_of(matrix: np.ndarray) -> np.ndarray:
    """The principal square root of a transform of space: applied twice, it is the transform.

    Parameters
    ----------
    matrix
        float (4, 4), rigid but for a slight stretch, turning by less than 180 degrees.

    Raises
    ------
    ValueError
        If the transform has no real square root.
    """
    matrix = np.asarray(matrix, dtype=float)
    root = np.real(np.asarray(sqrtm(matrix)))
    if not np.allclose(root @ root, matrix, atol=1e-6):
        raise ValueError("the transform turns by 180 degrees or mirrors; it cannot be halved")
    return root


def halfway(
    current_brain: hd.Volume,
    prior_brain: hd.Volume,
    current: hd.Volume,
    prior: hd.Volume,
    matrix: np.ndarray,
) -> Halfway:
    """The common space of two studies.

    The edge of its voxels is the finest spacing of the coarser image, between 1 and 1.5 mm.

    Parameters
    ----------
    current_brain, prior_brain
        bool masks, each on its own grid.
    current, prior
        The images.
    matrix
        4×4: points of the current image to points of the prior one.
    """
    root = half_of(matrix)
    to_current, to_prior = np.linalg.inv(root), root
    spacing = float(np.clip(max(min(current.spacing), min(prior.spacing)), FINEST_MM, COARSEST_MM))
    corners = np.concatenate(
        [
            transform_points(np.linalg.inv(back), _corners(brain))
            for brain, back in ((current_brain, to_current), (prior_brain, to_prior))
        ]
    )
    low, high = corners.min(axis=0) - _MARGIN_MM, corners.max(axis=0) + _MARGIN_MM
    shape = np.maximum(np.ceil((high - low) / spacing).astype(int) + 1, 1)
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = (low + high) / 2 - (shape - 1) / 2 * spacing
    grid = hd.Volume(np.zeros(shape, np.uint8), affine=affine, coordinate_system="PATIENT")
    return Halfway(grid, to_current, to_prior)


def _corners(brain: hd.Volume) -> np.ndarray:
    """Points (n, 3) of the mask's voxels that are outermost along some axis of the grid."""
    mask = np.asarray(brain.array, dtype=bool)
    if not mask.any():
        raise ValueError("a brain mask holds no voxel")
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    edges = np.asarray([(part.start - 0.5, part.stop - 0.5) for part in box])
    corners = np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1).reshape(-1, 3)
    return transform_points(np.asarray(brain.affine, dtype=float), corners)


def at_common_resolution(
    image: hd.Volume, other: hd.Volume, to_image: np.ndarray, to_other: np.ndarray, least_mm: float
) -> hd.Volume:
    """Blur an image where the other one is coarser.

    A voxel averages over its edges, so its profile along a direction has the variance of a box.
    Along each of the image's own axes, a Gaussian adds what the other's profile has more.

    Parameters
    ----------
    image, other
        The two images.
    to_image, to_other
        4×4: points of the common space to points of each.
    least_mm
        Box width below which no image need be sharper: the spacing of the common grid.
    """
    own = np.asarray(image.spacing, dtype=float)
    axes = np.linalg.inv(to_image)[:3, :3] @ np.asarray(image.direction, dtype=float)
    back = np.linalg.inv(to_other)[:3, :3]
    profile = (back @ np.asarray(other.direction)) * np.asarray(other.spacing, dtype=float)
    of_other = ((axes.T @ profile) ** 2).sum(axis=1)
    extra = np.maximum(np.maximum(of_other, least_mm**2) - own**2, 0) / 12
    sigma = np.sqrt(extra) / own
    # a hundredth of a voxel is rounding of the directions, not a coarser image
    sigma[sigma < 0.05] = 0
    if not sigma.any():
        return image
    blurred = ndimage.gaussian_filter(image.array.astype(np.float32), sigma, mode="nearest")
    return image.with_array(blurred)


def onto(volume: hd.Volume, space: Halfway, to_volume: np.ndarray) -> np.ndarray:
    """float32 on the common grid by linear interpolation; NaN where the volume has no voxel."""
    return np.asarray(resample_to(volume, space.grid, to_volume, outside=float("nan")).array)

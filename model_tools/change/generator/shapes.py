"""Shapes of real lesions from the consensus masks, scaled to a given volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cc3d
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.train.atlas import load_lesion_masks

FINE_MM = 0.5
_EDGE_SIGMA_MM = 0.5
"""Softness of a lesion's edge in the tissue; it does not change the volume."""
_LEAST_VOXELS = 12


def ball_diameter(volume_mm3: float) -> float:
    """Diameter in mm of the ball with this volume."""
    return float((6 * volume_mm3 / np.pi) ** (1 / 3))


def ball_volume(diameter_mm: float) -> float:
    """Volume in mm³ of the ball with this diameter."""
    return float(np.pi * diameter_mm**3 / 6)


@dataclass(frozen=True)
class Shape:
    """A real lesion.

    Attributes
    ----------
    source
        Patient folder and number of the lesion in it.
    mask
        bool (i, j, k) of 1 mm along L, P and H, with a margin of one voxel.
    """

    source: str
    mask: NDArray[np.bool_]

    @property
    def diameter_mm(self) -> float:
        """Of the ball with its volume."""
        return ball_diameter(float(self.mask.sum()))


def load_shapes(data: Path) -> tuple[Shape, ...]:
    """Every lesion (26-connected, 12 mm³ or more) of the 28 consensus masks in MNI space."""
    shapes = []
    for patient, mask in load_lesion_masks(data).items():
        labels = cc3d.connected_components(mask, connectivity=26)
        for number, box in enumerate(ndimage.find_objects(labels), 1):
            part = labels[box] == number
            if part.sum() >= _LEAST_VOXELS:
                turned = np.pad(part, 1).transpose(2, 1, 0)
                shapes.append(Shape(f"{patient}/{number}", np.ascontiguousarray(turned)))
    return tuple(shapes)


def choose_shape(shapes: tuple[Shape, ...], diameter_mm: float, rng: np.random.Generator) -> Shape:
    """A random lesion that is naturally about this large (at most 1.25 times, where there is one)
    and not thin: it fills a fifth of its bounding box."""
    near = [
        s
        for s in shapes
        if abs(np.log(s.diameter_mm / diameter_mm)) < np.log(1.25)
        and s.mask.sum() >= 0.2 * np.prod(np.array(s.mask.shape) - 2)
    ]
    if not near:
        near = [min(shapes, key=lambda s: abs(np.log(s.diameter_mm / diameter_mm)))]
    return near[rng.integers(len(near))]


def occupancy(shape: Shape, volume_mm3: float, centre_lps: NDArray[np.float64]) -> hd.Volume:
    """The share of each small cube of tissue that is lesion.

    The shape is scaled alike in all directions, its surface smoothed through the signed distance
    from it, its volume made exact by moving the surface, and its edge softened.

    Parameters
    ----------
    shape
        The lesion.
    volume_mm3
        Its volume afterwards.
    centre_lps
        Where its centre of gravity lies, patient millimetres.

    Returns
    -------
    highdicom.Volume
        float32 in [0, 1], cubes of 0.5 mm along the patient's axes.
    """
    mask = np.pad(shape.mask, 3)
    inside = ndimage.distance_transform_edt(mask)
    outside = ndimage.distance_transform_edt(~mask)
    distance = np.where(mask, inside - 0.5, 0.5 - outside)
    scale = (volume_mm3 / float(mask.sum())) ** (1 / 3)
    step = FINE_MM / scale
    count = [int(np.ceil((n - 1) / step)) + 1 for n in mask.shape]
    index = np.stack(np.meshgrid(*(np.arange(n) * step for n in count), indexing="ij"))
    fine = ndimage.map_coordinates(distance, index, order=1, mode="nearest") * scale / FINE_MM
    low, high = -12.0, 12.0
    for _ in range(40):
        middle = (low + high) / 2
        if np.clip(fine + middle + 0.5, 0, 1).sum() * FINE_MM**3 > volume_mm3:
            high = middle
        else:
            low = middle
    sharp = np.pad(np.clip(fine + low + 0.5, 0, 1), 4)
    soft = ndimage.gaussian_filter(sharp, _EDGE_SIGMA_MM / FINE_MM, mode="constant")
    soft = np.clip(soft, 0, 1).astype(np.float32)
    gravity = np.array(
        [
            float(
                (soft.sum((1, 2)) if a == 0 else soft.sum((0, 2)) if a == 1 else soft.sum((0, 1)))
                @ np.arange(soft.shape[a])
            )
            for a in range(3)
        ]
    )
    gravity /= float(soft.sum())
    affine = np.diag([FINE_MM, FINE_MM, FINE_MM, 1.0])
    affine[:3, 3] = np.asarray(centre_lps) - FINE_MM * gravity
    return hd.Volume(soft, affine=affine, coordinate_system="PATIENT")

"""A small made-up scan with oblique, anisotropic, non-cubic voxels, for the generator."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from model_tools.change.generator.scans import Scan, Tissue, one_millimetre_grid
from model_tools.change.generator.shapes import Shape

WHITE = {"flair": 200.0, "t2": 300.0, "t1": 400.0}


def oblique(degrees: tuple[float, float, float]) -> np.ndarray:
    """A rotation, 3 x 3."""
    turn = sitk.Euler3DTransform((0.0, 0.0, 0.0), *(float(np.radians(d)) for d in degrees))
    return np.array(turn.GetMatrix()).reshape(3, 3)


def volume(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    turn: np.ndarray,
    centre: np.ndarray,
    value: float,
) -> hd.Volume:
    """A constant image about a centre."""
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    array = np.full(shape, value, np.float32)
    return hd.Volume(array, affine=affine, coordinate_system="PATIENT")


def small_scan() -> Scan:
    """Plain white matter in three sequences on grids of their own; T1 and T2 are moved against
    the FLAIR by known amounts."""
    centre = np.array([12.0, -30.0, 45.0])
    turn = oblique((9.0, -6.0, 4.0))
    flair = volume((90, 76, 22), (0.72, 0.85, 3.3), turn, centre, WHITE["flair"])
    to_t2 = np.eye(4)
    to_t2[:3, :3] = oblique((1.0, 2.0, -1.0))
    to_t2[:3, 3] = [1.5, -2.0, 0.7]
    to_t1 = np.eye(4)
    to_t1[:3, 3] = [-1.0, 0.5, 2.0]
    images = {
        "flair": flair,
        "t2": volume(
            (110, 100, 20), (0.6, 0.6, 3.6), oblique((4.0, 0.0, 7.0)), (to_t2 @ [*centre, 1])[:3],
            WHITE["t2"],
        ),
        "t1": volume(
            (70, 72, 24), (0.95, 0.9, 3.0), turn, (to_t1 @ [*centre, 1])[:3], WHITE["t1"]
        ),
    }  # fmt: skip
    shape = (65, 65, 73)
    grid = one_millimetre_grid(flair, shape)
    free = np.zeros(shape, bool)
    free[8:-8, 8:-8, 8:-8] = True
    ones = np.ones(shape, np.float32)
    tissue = Tissue(
        grid=grid,
        white={role: ones * value for role, value in WHITE.items()},
        flair_ratio=ones,
        free=free,
        room=ndimage.distance_transform_edt(free).astype(np.float32),
        own=np.zeros(shape, bool),
        fluid=ones * 0,
        region=np.full(shape, 4, np.uint8),
    )
    return Scan("small", images, {"flair": np.eye(4), "t2": to_t2, "t1": to_t1}, tissue)


def blob() -> Shape:
    """A lopsided shape of about 150 mm³."""
    i, j, k = np.indices((13, 9, 9))
    body = ((i - 5) / 4.2) ** 2 + ((j - 4) / 2.8) ** 2 + ((k - 4) / 2.9) ** 2 < 1
    body |= ((i - 9) / 2.0) ** 2 + ((j - 5) / 1.8) ** 2 + ((k - 4) / 1.8) ** 2 < 1
    return Shape("blob/1", body)

"""Which slices are shown, and which way round."""

from __future__ import annotations

import io

import highdicom as hd
import numpy as np
import pytest
from PIL import Image

from model_tools.evaluate.pictures import case_figure, levels_of, oriented, plane

SPACING = {"axial": (0.8, 0.7, 3.1), "sagittal": (3.1, 0.8, 0.7), "equal": (1.0, 1.0, 1.0)}


def volume(kind: str, flips: tuple[int, int, int] = (1, 1, 1)) -> hd.Volume:
    """Oblique, non-cubic, its axes towards left, posterior, head or away; 0 everywhere."""
    angle = 0.2
    turn = np.array(
        [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = turn * np.array(SPACING[kind]) * np.array(flips)
    return hd.Volume(np.zeros((30, 36, 24), np.float32), affine=affine, coordinate_system="PATIENT")


def marked(kind: str, flips: tuple[int, int, int]) -> hd.Volume:
    """One voxel far to the patient's left, front and head."""
    empty = volume(kind, flips)
    array = empty.array.copy()
    wanted = (26, 3, 20)  # towards left, posterior, head
    place = tuple(
        w if flip > 0 else n - 1 - w for w, flip, n in zip(wanted, flips, array.shape, strict=True)
    )
    array[place] = 1
    return empty.with_array(array)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_slices_are_in_the_radiological_convention(flips: tuple[int, int, int]) -> None:
    array, across, spacing = oriented(marked("axial", flips))
    assert (across, spacing) == (2, pytest.approx(SPACING["axial"]))
    picture = plane(array, across, 20)
    row, column = np.argwhere(picture > 0)[0]
    assert picture.shape == (36, 30)
    assert (row, column) == (3, 26), "front on top, the patient's left on the right"
    array, across, _ = oriented(marked("sagittal", flips))
    assert across == 0
    row, column = np.argwhere(plane(array, across, 26) > 0)[0]
    assert (row, column) == (3, 3), "head on top, front on the left"
    assert oriented(marked("equal", flips))[1] == 2, "axial where all voxels are cubes"


def test_levels_have_most_lesion_and_lie_apart() -> None:
    area = np.zeros(40)
    area[[5, 6, 7, 20, 30]] = [9, 10, 8, 3, 5]
    assert levels_of(area, 3.0) == [6, 20, 30]
    assert levels_of(area, 12.0) == [5, 6, 7, 30]
    assert levels_of(np.zeros(9), 3.0) == []


def test_contours_are_drawn_in_their_colours() -> None:
    flair = volume("axial")
    rng = np.random.default_rng(1)
    flair = flair.with_array(rng.normal(100, 5, flair.spatial_shape).astype(np.float32))
    true, found = np.zeros(flair.spatial_shape, bool), np.zeros(flair.spatial_shape, bool)
    true[5:12, 8:16, 4:7] = True
    found[18:26, 20:30, 15:18] = True

    def colours(picture: bytes | None) -> tuple[bool, bool]:
        assert picture is not None
        with Image.open(io.BytesIO(picture)) as image:
            red, green, blue = np.asarray(image.convert("RGB")).astype(int).transpose(2, 0, 1)
        yellow = (red > 180) & (green > 150) & (blue < 110)
        return bool(yellow.any()), bool(((red > 180) & (green < 110)).any())

    outline = {"model": flair.with_array(found)}
    assert colours(case_figure(flair, flair.with_array(true), outline)) == (True, True)
    assert colours(case_figure(flair, None, outline)) == (False, True)
    assert case_figure(flair, None, {"model": flair.with_array(np.zeros_like(found))}) is None

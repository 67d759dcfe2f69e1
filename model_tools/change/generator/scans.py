"""The real raw studies of open_ms_data, with what lies where in their brains.

Points are LPS millimetres of the study's FLAIR. The relation of T1 and T2 to the FLAIR, the brain
mask and the change mask come from the data set, not from the application.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.train.atlas import Atlas
from model_tools.train.backgrounds import STUDIES, load_backgrounds
from operators.geometry import from_sitk, matrix_of, resample_to

FILES = {"flair": "FLAIR", "t2": "T2W", "t1": "T1W"}
SCANS = ("12_2", "03_2", "04_1", "09_2", "20_2")
"""Patient and study of the scans that change is planted into; of 04 only study 1 is at hand."""
PAIRS = {"12_2": "12_1", "03_2": "03_1"}
"""The scans with a real earlier study."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """What the FLAIR shows, on a grid of 1 mm along its axes; arrays are (i, j, k).

    Attributes
    ----------
    grid
        uint8 zeros; the geometry of the arrays.
    white
        By role: local intensity of normal white matter, float32, bias field included.
    flair_ratio
        FLAIR over local white matter, float32.
    free
        bool: normal-appearing white matter, 3 mm and more from every hyperintensity, brain
        surface and fluid.
    room
        float32: distance in mm from what is not ``free``.
    own
        bool: hyperintensities in white matter, most of them the patient's own lesions.
    fluid
        float32 in [0, 1]: share of fluid.
    region
        uint8: white-matter region of the atlas (1 periventricular, 2 juxtacortical,
        3 infratentorial, 4 deep), 0 elsewhere.
    """

    grid: hd.Volume
    white: Mapping[str, NDArray[np.float32]]
    flair_ratio: NDArray[np.float32]
    free: NDArray[np.bool_]
    room: NDArray[np.float32]
    own: NDArray[np.bool_]
    fluid: NDArray[np.float32]
    region: NDArray[np.uint8]


@dataclass(frozen=True)
class Scan:
    """One real study: its images as acquired."""

    name: str
    volumes: Mapping[str, hd.Volume]
    """By role, float32, on the acquired grids."""
    flair_to: Mapping[str, Matrix]
    """By role: 4x4, FLAIR points to points of that image; identity for the FLAIR."""
    tissue: Tissue


def read_images(data: Path, name: str) -> tuple[dict[str, hd.Volume], dict[str, Matrix]]:
    """The images of a study by role, and the data set's transforms from FLAIR points to theirs."""
    patient, study = STUDIES[name]
    folder = data / "longitudinal" / patient
    volumes, flair_to = {}, {}
    for role, file in FILES.items():
        path = folder / f"study{study}_{file}.nii.gz"
        if not path.is_file():
            continue
        volumes[role] = from_sitk(sitk.ReadImage(str(path), sitk.sitkFloat32))
        flair_to[role] = (
            np.eye(4)
            if role == "flair"
            else matrix_of(
                sitk.ReadTransform(str(folder / f"study{study}_{file}_intrastudy_to_FLAIR.txt"))
            )
        )
    return volumes, flair_to


def change_mask(data: Path, name: str, flair: hd.Volume) -> NDArray[np.bool_]:
    """The data set's (unsigned) change mask of a patient on a study's FLAIR grid."""
    patient, study = STUDIES[name]
    folder = data / "longitudinal" / patient
    to_raw = matrix_of(sitk.ReadTransform(str(folder / f"study{study}_FLAIR_to_common_space.txt")))
    mask = from_sitk(sitk.ReadImage(str(folder / "gt.nii.gz"), sitk.sitkFloat32))
    moved = resample_to(mask, flair, np.linalg.inv(to_raw))
    return np.asarray(moved.array >= 0.5)


def one_millimetre_grid(flair: hd.Volume, shape: tuple[int, ...]) -> hd.Volume:
    """The grid of 1 mm along the FLAIR's axes that `model_tools.train.backgrounds` works on.

    Parameters
    ----------
    flair
        The image.
    shape
        Of the prepared background, (i, j, k): the image's extent in mm, rounded up.
    """
    spacing = np.asarray(flair.spacing)
    extent = np.asarray(flair.spatial_shape) * spacing
    if (np.abs(np.asarray(shape) - extent) > 1.01).any():
        raise ValueError(f"a grid of {shape} does not fit an image of {extent} mm")
    affine = np.array(flair.affine, dtype=float)
    affine[:3, 3] += affine[:3, :3] @ (0.5 / spacing - 0.5)
    affine[:3, :3] /= spacing
    return hd.Volume(np.zeros(shape, np.uint8), affine=affine, coordinate_system="PATIENT")


def load_scan(data: Path, cache: Path, name: str, atlas: Atlas) -> Scan:
    """Read a study and describe its tissue.

    Parameters
    ----------
    data
        The open_ms folder.
    cache
        Folder for the prepared backgrounds (20 s each on first use).
    name
        A key of `model_tools.train.backgrounds.STUDIES`.
    atlas
        As `load_atlas` gives it.
    """
    volumes, flair_to = read_images(data, name)
    background = load_backgrounds(data, cache, atlas, (name,))[name]

    def turned(array: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(array.transpose(2, 1, 0))

    brain = turned(background.brain) > 0
    grid = one_millimetre_grid(volumes["flair"], brain.shape)
    regions = ndimage.affine_transform(
        atlas.regions,
        background.to_atlas[:3, :3],
        background.to_atlas[:3, 3],
        output_shape=background.brain.shape,
        order=0,
    )
    ratio = turned(background.images[0]) / np.maximum(turned(background.white_local[0]), 1e-3)
    own = turned(background.ignore) > 0
    # The rule behind `ignore` asks for the white-matter prior; what is as bright elsewhere is
    # no place for a lesion either.
    bright = ndimage.gaussian_filter(ratio, 0.7) > 1.25
    fluid = turned(background.fluid)
    free = brain & ~ndimage.binary_dilation(own | bright, iterations=3)
    free &= ndimage.binary_erosion(brain, iterations=4)
    free &= ~ndimage.binary_dilation(fluid > 0.3, iterations=2)
    free &= (regions.transpose(2, 1, 0) > 0) & (ratio > 0.8) & (ratio < 1.2)
    white = {
        role: turned(background.white_local[number])
        for number, role in enumerate(FILES)
        if role in volumes
    }
    tissue = Tissue(
        grid=grid,
        white=white,
        flair_ratio=ratio.astype(np.float32),
        free=free,
        room=ndimage.distance_transform_edt(free).astype(np.float32),
        own=own,
        fluid=fluid,
        region=np.ascontiguousarray(regions.transpose(2, 1, 0)),
    )
    return Scan(name, volumes, flair_to, tissue)

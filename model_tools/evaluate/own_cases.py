"""The project's own validation data set, as a table for ``evaluate``.

- ``26``: the real case with its consensus mask, which only members that have not seen it may score.
- ``26-…``: further real lesion shapes transplanted into it; a real 3D background of 1 mm.
- ``04-2d-…``: lesions transplanted into the raw 2D scans of patient 04, which no network has seen,
  slice by slice on the grids that the scanner gave; the application registers them and finds the
  brain.
- ``04-3d-…``: the same lesions at 1 mm; the background is interpolated from the 2D slices.
- ``clinic-…``: raw 2D studies without a reference.

Patient 04's own hyperintensities are not outlined by anybody and count nowhere.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray

from model_tools.change.generator.scans import FILES, one_millimetre_grid, read_images
from model_tools.train.atlas import FIRST_LPS, load_atlas, load_case, load_lesion_masks
from model_tools.train.backgrounds import (
    HELD_OUT,
    STUDIES,
    Background,
    describe_case,
    load_backgrounds,
)
from model_tools.train.generate import Sources
from model_tools.train.lesions import severity_map, subset
from model_tools.train.resample import about_centre, gaussian, rotation, sample
from model_tools.train.trainer import REAL_CASE
from operators.geometry import resample_to, to_sitk

log = logging.getLogger(__name__)
LOADS_ML = (1.0, 8.0, 40.0)
ADDED_ML = (10.0, 30.0)
"""Transplanted into the real case, beside its own lesions (8.2 ml)."""
CLINIC = ("04_1", "09_2", "12_2", "20_2")
COLUMNS = (
    "case",
    "group",
    *FILES,
    "reference",
    "ignore",
    "brain",
    "aligned",
    "seen_by",
)
_SUB_SLICES = 5
_THICKNESS = 0.9
"""Of a slice, as a share of the distance between slices."""
_ATTEMPTS = 20
_RATIOS = ((1.25, 1.55), (1.3, 2.2), (0.6, 0.95))
"""Lesion over local white matter in FLAIR, T2 and T1: what case 26 and the raw scans show. Kept
apart from the training's own tables, so that these may change."""
_GREY_FLAIR = 1.15
"""Grey over white matter in a FLAIR whose lesions have these ratios."""
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Lesions:
    """Lesions to be painted, on a background's grid of 1 mm, (z, y, x).

    Attributes
    ----------
    occupancy
        Share of each voxel that is lesion.
    change
        By role, what they add to the image.
    """

    occupancy: NDArray[np.float32]
    change: Mapping[str, NDArray[np.float32]]

    @property
    def ml(self) -> float:
        """Volume."""
        return float((self.occupancy >= 0.5).sum() / 1000)


def shapes(
    sources: Sources,
    to_atlas: Matrix,
    shape: tuple[int, ...],
    load_ml: float,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Lesions of one real patient of about a load, brought to a scan by the atlas; (z, y, x).

    Parameters
    ----------
    sources
        Lesion masks on the atlas's grid.
    to_atlas
        4×4, the scan's voxels to the atlas's, (z, y, x).
    shape
        Of the scan.
    load_ml
        Wanted volume.
    rng
        Patient, lesions, side, and a jitter of 5 % in size, 2° and 1.5 mm.
    """
    names = sorted(sources.masks)
    loads = np.array([sources.masks[name].sum() / 1000 for name in names])
    fit = np.exp(-0.5 * (np.log(loads / load_ml) / 1.2) ** 2) + 0.02
    chosen = subset(sources.masks[names[rng.choice(len(names), p=fit / fit.sum())]], load_ml, rng)
    if rng.random() < 0.5:
        chosen = np.flip(chosen, 2).copy()
    jitter = rotation(rng.normal(0, 0.03, 3)) @ np.diag([*np.exp(rng.normal(0, 0.05, 3)), 1])
    matrix = about_centre(jitter, chosen.shape, chosen.shape, rng.normal(0, 1.5, 3)) @ to_atlas
    return sample(torch.from_numpy(chosen)[None].float(), matrix, shape)[0]  # type: ignore[arg-type]


def paint(sources: Sources, background: Background, load_ml: float, seed: int) -> Lesions:
    """Real lesion shapes of about a load, with the contrast of real lesions.

    Lesions of random patients are drawn until their volume is within a fifth of what is wanted (at
    most 20 times, then the nearest).

    Parameters
    ----------
    sources
        Atlas and lesion masks.
    background
        Where they go; its own lesions are left alone.
    load_ml
        Wanted volume.
    seed
        Decides everything.
    """
    shape = background.brain.shape
    free = torch.from_numpy((1 - background.fluid) * background.brain)
    if background.lesions is not None:
        free = free * ~(gaussian(torch.from_numpy(background.lesions)[None], 2.0)[0] > 0.02)
    best: tuple[float, torch.Tensor, np.random.Generator] | None = None
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        occupancy = free * shapes(sources, background.to_atlas, shape, load_ml, rng)
        ratio = max(float((occupancy >= 0.5).sum()), 1.0) / (1000 * load_ml)
        if best is None or abs(np.log(ratio)) < best[0]:
            best = float(abs(np.log(ratio))), occupancy, rng
        if best[0] < np.log(1.2):
            break
    assert best is not None
    _, occupancy, rng = best
    severity = severity_map(occupancy, rng)
    normal = (background.brain > 0) & (background.ignore == 0) & (background.fluid == 0)
    flat = background.images[0] / np.maximum(background.white_local[0], 1e-3)
    table = np.array([rng.uniform(low, high) for low, high in _RATIOS])
    # no fainter than this scan's grey matter
    table[0] *= max(1.0, float(np.percentile(flat[normal][::29], 80)) / _GREY_FLAIR)
    soft = gaussian(occupancy[None], float(rng.uniform(0.0, 0.8)))[0]
    change = {}
    for number, role in enumerate(FILES):
        image = torch.from_numpy(background.images[number])
        if not image.any():
            continue
        # a lesion's own severity moves it by up to half of its contrast
        ratio_map = 1 + (table[number] - 1) * (0.6 + 0.8 * severity)
        local = torch.from_numpy(background.white_local[number])
        change[role] = np.asarray(
            soft * (local * ratio_map - gaussian(image[None], 1.5)[0]), dtype=np.float32
        )
    return Lesions(np.asarray(occupancy, dtype=np.float32), change)


def acquired(
    volume: hd.Volume, grid: hd.Volume, to_volume: Matrix, thickness: float = _THICKNESS
) -> NDArray[np.float32]:
    """What thick slices see of a volume: the mean over each slice's thickness.

    Parameters
    ----------
    volume
        On its own grid.
    grid
        The acquisition; its coarsest axis runs across the slices.
    to_volume
        4×4, points of the grid to points of the volume, LPS.
    thickness
        Of a slice, as a share of the distance between slices.
    """
    across = int(np.argmax(grid.spacing))
    step = np.asarray(grid.affine)[:3, across]
    total = np.zeros(grid.spatial_shape, np.float32)
    for part in range(_SUB_SLICES):
        shift = np.eye(4)
        shift[:3, 3] = step * thickness * ((part + 0.5) / _SUB_SLICES - 0.5)
        total += resample_to(volume, grid, to_volume @ shift).array
    return np.asarray(total / _SUB_SLICES, dtype=np.float32)


def _write(array: NDArray[np.generic], grid: hd.Volume, path: Path, dtype: type) -> str:
    sitk.WriteImage(to_sitk(grid.with_array(array), dtype), str(path), True)
    return path.name


def _turned(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """(z, y, x) to (i, j, k)."""
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def make_scans_of_04(
    data: Path, cache: Path, sources: Sources, output: Path
) -> list[dict[str, str]]:
    """Transplants into the held-out scan, as 2D slices and at 1 mm; rows of the table."""
    volumes, flair_to = read_images(data, HELD_OUT)
    background = load_backgrounds(data, cache, sources.atlas, (HELD_OUT,))[HELD_OUT]
    own, brain = _turned(background.ignore), _turned(background.brain)
    millimetre = one_millimetre_grid(volumes["flair"], own.shape)
    slices = max(float(s) for s in volumes["flair"].spacing)
    rows = []
    for number, load in enumerate(LOADS_ML):
        lesions = paint(sources, background, load, 4000 + number)
        log.info("patient 04, %g ml wanted: %.1f ml", load, lesions.ml)
        occupancy = millimetre.with_array(_turned(lesions.occupancy))
        for kind in ("2d", "3d"):
            name = f"04-{kind}-{load:g}ml"
            row = {"case": name}
            for position, role in enumerate(volumes):
                change = millimetre.with_array(_turned(lesions.change[role]))
                if kind == "2d":
                    grid = volumes[role]
                    added = acquired(
                        change, grid, np.asarray(np.linalg.inv(flair_to[role]), dtype=np.float64)
                    )
                    image = grid.array + added
                else:
                    grid = millimetre
                    image = _turned(background.images[position]) + change.array
                row[role] = _write(image, grid, output / f"{name}_{role}.nii.gz", np.float32)
            if kind == "2d":
                grid = volumes["flair"]
                truth = acquired(occupancy, grid, np.eye(4)) >= 0.5
                hidden = resample_to(millimetre.with_array(own), grid, nearest=True).array > 0
                row["group"] = f"04, 2D slices of {slices:.1f} mm"
            else:
                grid = millimetre
                truth, hidden = occupancy.array >= 0.5, own > 0
                row["group"] = "04, 1 mm (interpolated background)"
                row["aligned"] = "yes"
                row["brain"] = _write(brain, grid, output / f"{name}_brain.nii.gz", np.uint8)
            row["reference"] = _write(truth, grid, output / f"{name}_reference.nii.gz", np.uint8)
            hidden = hidden & ~truth
            row["ignore"] = _write(hidden, grid, output / f"{name}_ignore.nii.gz", np.uint8)
            rows.append(row)
    return rows


def make_scans_of_26(
    data: Path,
    sources: Sources,
    output: Path,
    seen_by: Sequence[str],
    added_ml: Sequence[float] = ADDED_ML,
) -> list[dict[str, str]]:
    """The real case, alone and with ``added_ml`` transplanted; rows of the table."""
    case = describe_case(sources.atlas, *load_case(data, REAL_CASE))
    assert case.lesions is not None
    affine = np.eye(4)
    affine[:3, 3] = np.asarray(FIRST_LPS) + case.to_atlas[:3, 3][::-1]
    grid = hd.Volume(
        np.zeros(case.brain.shape[::-1], np.uint8), affine=affine, coordinate_system="PATIENT"
    )
    rows = []
    for number, load in enumerate((0.0, *added_ml)):
        name = "26" if not load else f"26-plus-{load:g}ml"
        truth = case.lesions > 0
        images = {role: case.images[position] for position, role in enumerate(FILES)}
        if load:
            lesions = paint(sources, case, load, 2600 + number)
            log.info("case 26, %g ml wanted: %.1f ml", load, lesions.ml)
            truth = truth | (lesions.occupancy >= 0.5)
            images = {role: image + lesions.change[role] for role, image in images.items()}
        row = {
            "case": name,
            "group": "26, real, 3D 1 mm" if not load else "26 with added lesions, 3D 1 mm",
            "aligned": "yes",
            "seen_by": ";".join(seen_by),
        }
        for role, image in images.items():
            row[role] = _write(_turned(image), grid, output / f"{name}_{role}.nii.gz", np.float32)
        for column, array in (("reference", truth.astype(np.float32)), ("brain", case.brain)):
            path = output / f"{name}_{column}.nii.gz"
            row[column] = _write(_turned(array), grid, path, np.uint8)
        rows.append(row)
    return rows


def clinic_rows(data: Path, output: Path) -> list[dict[str, str]]:
    """The raw 2D studies where they lie; no copy."""
    rows = []
    for name in CLINIC:
        patient, study = STUDIES[name]
        row = {"case": f"clinic-{name}", "group": "raw 2D, no reference"}
        for role, file in FILES.items():
            path = data / "longitudinal" / patient / f"study{study}_{file}.nii.gz"
            if path.is_file():
                row[role] = str(path.resolve())
        rows.append(row)
    return rows


def make_own_cases(data: Path, output: Path, seen_by: Sequence[str]) -> Path:
    """Write the data set.

    Parameters
    ----------
    data
        The open_ms folder.
    output
        Folder to write.
    seen_by
        Names of the models, as ``evaluate`` will name them, that were trained on case 26.

    Returns
    -------
    Path
        The table.
    """
    output.mkdir(parents=True, exist_ok=True)
    atlas = load_atlas()
    sources = Sources(atlas, load_lesion_masks(data, without=(REAL_CASE,)), {})
    rows = make_scans_of_26(data, sources, output, seen_by)
    rows += make_scans_of_04(data, output / "backgrounds", sources, output)
    rows += clinic_rows(data, output)
    path = output / "cases.csv"
    write_table(rows, path)
    return path


def write_table(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """The table that ``evaluate`` reads."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)

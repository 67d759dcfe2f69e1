"""Training volumes: transplanted lesions in real scans, and synthetic scans from tissue maps.

A training volume is what the network sees at inference: three channels (FLAIR, T2, T1) at 1 mm,
z-scored over the brain mask of the whole volume and 0 outside it, with its truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_tools.train.atlas import Atlas
from model_tools.train.backgrounds import Background
from model_tools.train.device import CPU, onto
from model_tools.train.lesions import add_blobs, severity_map, strata_points, subset
from model_tools.train.negatives import bright_fluid, midline_sheet
from model_tools.train.resample import (
    Matrix,
    about_centre,
    along,
    gaussian,
    noise_field,
    rotation,
    sample,
    slice_matrix,
)

IGNORE = 255
SYNTHETIC_SHARE = 0.42
HEAVY_SHARE = 0.35
"""Of the volumes, with a load of `HEAVY_ML`: wide, confluent lesions are rare otherwise."""
HEAVY_ML = (12.0, 60.0)
FAINT_T2_SHARE = 0.2
"""Of the volumes, with lesions that are no brighter than grey matter on T2."""
Shape = tuple[int, int, int]
FULL_SHAPE: Shape = (165, 200, 165)
"""Field of view of synthetic scans in mm: every adult brain with its augmentation fits."""


@dataclass
class Sample:
    """One training volume.

    Attributes
    ----------
    image
        (3, z, y, x) float16; a missing sequence is all 0.
    label
        (z, y, x) uint8: 1 lesion, 0 not, 255 ignored by the loss.
    points
        Centres for patch sampling, see `strata_points`.
    kind
        "transplanted", "synthetic" or "real".
    """

    image: NDArray[np.float16]
    label: NDArray[np.uint8]
    points: dict[str, NDArray[np.int16]]
    kind: str
    name: str = ""

    def save(self, folder: Path, stem: str) -> None:
        """Write image, label and points; the image can be memory-mapped."""
        np.save(folder / f"{stem}.label.npy", self.label)
        np.savez(folder / f"{stem}.points.npz", **self.points, kind=self.kind, name=self.name)  # type: ignore[arg-type]
        partial = folder / f"{stem}.partial.npy"
        np.save(partial, self.image)
        partial.rename(folder / f"{stem}.image.npy")


@dataclass(frozen=True)
class Sources:
    """Everything volumes are made from, and the device they are made on."""

    atlas: Atlas
    masks: dict[str, NDArray[np.uint8]]
    backgrounds: dict[str, Background]
    extra: dict[str, Background] = field(default_factory=dict)
    device: torch.device = CPU

    @cached_property
    def sheet(self) -> NDArray[np.float32]:
        """The atlas's `midline_sheet`, (z, y, x)."""
        return midline_sheet(self.atlas.ventricles)


def patient_lesions(
    masks: dict[str, NDArray[np.uint8]], load_ml: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Some lesions of a random patient, up to a load, in half of all draws mirrored; (z, y, x)."""
    names = sorted(masks)
    volumes = np.array([masks[n].sum() / 1000 for n in names])
    # Patients whose load is at least half of what is wanted, the nearest ones more often.
    fit = np.exp(-0.5 * (np.log(volumes / load_ml) / 1.2) ** 2) + 0.02
    chosen = subset(masks[names[rng.choice(len(names), p=fit / fit.sum())]], load_ml, rng)
    return np.flip(chosen, 2).copy() if rng.random() < 0.5 else chosen


def lesion_occupancy(
    sources: Sources,
    to_atlas: Matrix,
    shape: Shape,
    regions: NDArray[np.uint8],
    rng: np.random.Generator,
    blobs_only: float,
    load_ml: float | None = None,
) -> torch.Tensor:
    """Occupancy of real lesions (a random patient's, a random subset) and of random blobs."""
    device = sources.device
    result = torch.zeros(shape, device=device)
    heavy = load_ml is None and rng.random() < HEAVY_SHARE
    if load_ml is None:
        load_ml = float(np.exp(rng.uniform(*np.log(HEAVY_ML if heavy else (0.4, 40.0)))))
    if heavy or rng.random() >= blobs_only:
        chosen = patient_lesions(sources.masks, load_ml, rng)
        if heavy and rng.random() < 0.4:
            chosen = np.maximum(chosen, patient_lesions(sources.masks, load_ml, rng))
        jitter = rotation(rng.normal(0, 0.03, 3)) @ np.diag([*np.exp(rng.normal(0, 0.05, 3)), 1])
        matrix = about_centre(jitter, chosen.shape, chosen.shape, rng.normal(0, 1.5, 3)) @ to_atlas
        move = noise_field(rng, shape, 24.0, 3, device) * float(rng.uniform(0.3, 2.0))
        result = sample(onto(device, chosen)[None].float(), matrix, shape, move)[0]
        # A sharper edge than linear interpolation leaves: occupancy, not smoothing.
        result = ((result - 0.5) * 1.6 + 0.5).clamp(0, 1)
        if rng.random() < 0.4:
            add_blobs(result, regions, int(rng.integers(2, 12)), (15, 400), rng)
    else:
        add_blobs(result, regions, int(rng.integers(3, 26)), (15, 400), rng)
        if rng.random() < 0.6:
            add_blobs(result, regions, int(rng.integers(1, 7)), (300, 2500), rng)
    return result


def contrasts(
    rng: np.random.Generator, grey_flair: float, grey_t2: float, faint_t2: bool = False
) -> NDArray[np.float64]:
    """Lesion over white matter intensity at severity 0 and 1, (3, 2): FLAIR, T2, T1.

    The ranges are those of the real case's lesions (FLAIR 1.2-1.5, T2 1.2-2.3, T1 0.6-1.0), and a
    scan whose grey matter is bright has brighter lesions.

    Parameters
    ----------
    grey_flair, grey_t2
        Grey over white matter intensity.
    faint_t2
        Whether the FLAIR alone shows the lesions well.
    """
    flair = 1.12 + rng.uniform(0, 0.18) + max(0.0, grey_flair - 1.08) * rng.uniform(0.4, 1.1)
    t2 = 1.15 + rng.uniform(0, 0.2) + max(0.0, grey_t2 - 1.25) * rng.uniform(0.4, 1.0)
    t1 = 1.0 + rng.uniform(-0.06, 0.04)
    more_t2 = rng.uniform(0.1, 0.35) if faint_t2 else rng.uniform(0.4, 1.1)
    return np.array(
        [
            [flair, flair + rng.uniform(0.2, 0.55)],
            [t2, t2 + more_t2],
            [t1, t1 - rng.uniform(0.1, 0.45)],
        ]
    )


def degrade(
    image: torch.Tensor, rng: np.random.Generator, axis: int | None, thickness: float | None
) -> torch.Tensor:
    """Acquire one channel (1, z, y, x) in thick slices along an axis and interpolate back."""
    if axis is None or thickness is None:
        return image
    gap = rng.choice([1.0, 1.0, 0.9])
    for direction in range(3):
        length = image.shape[direction + 1]
        if direction == axis:
            first = float(rng.uniform(0, thickness))
            image = along(image, slice_matrix(length, first, thickness, thickness * gap), direction)
        else:
            step = float(rng.uniform(0.6, 1.2))
            if step > 0.95:
                first = float(rng.uniform(0, 1))
                image = along(image, slice_matrix(length, first, step, step), direction)
    return image


def finish(
    image: torch.Tensor, mask: torch.Tensor, present: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.float16]:
    """Bias field, noise, gamma, z-score over the mask; float16 (3, z, y, x)."""
    shape = tuple(image.shape[1:])
    inside = mask > 0.5
    for channel in range(3):
        if not present[channel]:
            image[channel] = 0
            continue
        x = image[channel]
        if rng.random() < 0.6:
            scale_mm = float(rng.uniform(50, 110))
            bias = noise_field(rng, shape, scale_mm, device=image.device)[0]
            x = x * torch.exp(float(rng.uniform(0, 0.14)) * bias)
        if rng.random() < 0.5:
            ends = onto(image.device, np.array([0.01, 0.995], np.float32))
            low, high = torch.quantile(x[inside][::37], ends)
            unit = ((x - low) / (high - low).clamp_min(1e-6)).clamp(-0.2, 2.0)
            gamma = float(np.exp(rng.normal(0, 0.22)))
            x = torch.where(unit > 0, unit.clamp_min(0) ** gamma, unit)
        if rng.random() < 0.25:
            ceiling = torch.quantile(x[inside][::37], float(rng.uniform(0.985, 0.999)))
            x = torch.minimum(x, ceiling)
        spread = float(x[inside].std()) or 1.0
        x = (x - float(x[inside].mean())) / spread
        image[channel] = torch.where(inside, x, torch.zeros_like(x))
    return np.asarray(image.cpu().numpy(), dtype=np.float16)


def crop(mask: torch.Tensor, margin: int = 4, least: int = 64) -> tuple[slice, slice, slice]:
    """Bounding box of a mask with a margin, at least ``least`` voxels wide."""
    result = []
    for axis in range(3):
        other = [a for a in range(3) if a != axis]
        hits = np.flatnonzero((mask > 0.5).any(other[1]).any(other[0]).cpu().numpy())
        low, high = max(0, hits[0] - margin), min(mask.shape[axis], hits[-1] + 1 + margin)
        short = max(0, least - (high - low))
        low = max(0, low - short)
        high = min(mask.shape[axis], high + short)
        result.append(slice(int(low), int(high)))
    return result[0], result[1], result[2]


def jitter_mask(mask: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """An imperfect brain mask: sometimes too large or too small, unevenly."""
    choice = rng.random()
    if choice < 0.45:
        return mask
    offset = rng.uniform(0.05, 0.42) * (1 if choice < 0.75 else -1)
    uneven = 0.12 * noise_field(rng, tuple(mask.shape), 30.0, device=mask.device)[0]
    smooth = gaussian(mask[None], 2.0)[0]
    return (((smooth + offset + uneven) > 0.5) & (smooth > 0.03)).float()


def transplanted(
    sources: Sources,
    background: Background,
    rng: np.random.Generator,
    name: str = "",
    augment: bool = True,
    load_ml: float | None = None,
    own_only: bool = False,
) -> Sample:
    """Real lesions in a real scan: shapes of other patients, contrast of real lesions.

    Where the background has a reference mask its own lesions stay and are labelled; with
    ``own_only`` no others are added.
    """
    shape: Shape = background.brain.shape  # type: ignore[assignment]
    device = sources.device
    images = onto(device, background.images.copy())
    white = onto(device, background.white_local)
    brain = onto(device, background.brain)
    fluid = onto(device, background.fluid)
    present = np.array([bool(image.any()) for image in background.images])
    regions = sample(
        onto(device, sources.atlas.regions)[None].float(),
        background.to_atlas,
        shape,
        nearest=True,
    )[0]
    regions = (regions * (fluid < 0.3) * brain).to(torch.uint8).cpu().numpy()
    occupancy = lesion_occupancy(
        sources, background.to_atlas, shape, regions, rng, blobs_only=0.25, load_ml=load_ml
    )
    occupancy = occupancy * (1 - fluid) * brain
    if background.lesions is not None:
        own = onto(device, background.lesions)
        near = gaussian(own[None], 2.0)[0] > 0.02
        occupancy = torch.zeros_like(occupancy) if own_only else occupancy * ~near
    severity = severity_map(occupancy, rng)
    flat = background.images[0] / np.maximum(background.white_local[0], 1e-3)
    normal = (background.brain > 0) & (background.ignore == 0) & (background.fluid == 0)
    grey = float(np.percentile(flat[normal][::29], 80))
    faint_t2 = augment and rng.random() < FAINT_T2_SHARE
    table = contrasts(rng, grey, 1.25, faint_t2)
    soft = gaussian(occupancy[None], float(rng.uniform(0.0, 0.8)))[0]
    halo = gaussian(occupancy[None], 2.5)[0] if rng.random() < 0.3 else None
    bright = torch.zeros_like(fluid)
    if augment:
        sheet = sample(onto(device, sources.sheet)[None], background.to_atlas, shape)[0]
        bright = bright_fluid(fluid * brain, sheet * fluid, rng)
    for channel in range(3):
        if not present[channel]:
            continue
        ratio = table[channel, 0] + severity * (table[channel, 1] - table[channel, 0])
        smooth = gaussian(images[channel][None], 1.5)[0]
        change = soft * (white[channel] * ratio - smooth)
        if channel == 0:
            level = white[channel] * float(rng.uniform(0.8, 1.5))
            change = change + bright * (1 - soft) * (level - smooth).clamp_min(0)
        if halo is not None and channel < 2:
            change = change + (halo * (1 - soft)).clamp_min(0) * white[channel] * 0.08
        step, thickness = (float(v) for v in background.slices[channel])
        if step > 1.5:
            operator = slice_matrix(shape[0], 0.5 * step - 0.5, step, thickness)
            change = along(change[None], operator, 0)[0]
        images[channel] += change
    if background.lesions is not None:
        occupancy = torch.maximum(occupancy, onto(device, background.lesions))
    label = (occupancy >= 0.5).float()
    ignore = onto(device, background.ignore) * (1 - label)
    mask = jitter_mask(brain, rng) if augment else brain
    stack = torch.cat([images, label[None], ignore[None], mask[None], occupancy[None]])
    if augment and rng.random() < 0.5:
        stack = stack.flip(3)
    box = crop(stack[5])
    stack = stack[:, box[0], box[1], box[2]].contiguous()
    shape = tuple(stack.shape[1:])  # type: ignore[assignment]
    if augment and rng.random() < 0.65:
        matrix = rotation(rng.normal(0, 0.12, 3)) @ np.diag([*np.exp(rng.normal(0, 0.06, 3)), 1])
        # other patients' anatomy: there are few real scans
        scale_mm, reach = float(rng.uniform(18, 40)), float(rng.uniform(0, 2.0))
        move = noise_field(rng, shape, scale_mm, 3, device) * reach
        moved = sample(stack, about_centre(matrix, shape, shape), shape, move)
        moved[3] = (moved[6] >= 0.5).float()
        stack = moved
    image = stack[:3].clone()
    if augment:
        for channel in range(3):
            if rng.random() < 0.2:
                axis = int(rng.choice([0, 0, 1, 2]))
                image[channel] = degrade(
                    image[channel][None], rng, axis, float(rng.uniform(2, 4.5))
                )[0]
            if rng.random() < 0.3:
                spread = float(image[channel][stack[5] > 0.5].std())
                noise = noise_field(rng, shape, 1.0, device=device)[0]
                image[channel] += noise * spread * rng.uniform(0, 0.25)
    result = (
        finish(image, stack[5], present, rng)
        if augment
        else finish(image, stack[5], present, np.random.default_rng(0))
    )
    target = (stack[3] > 0.5).to(torch.uint8)
    target[(stack[4] > 0.3) & (target == 0)] = IGNORE
    target[stack[5] <= 0.5] = 0
    array = target.cpu().numpy()
    points = strata_points(array, stack[5].cpu().numpy() > 0.5, rng)
    return Sample(result, array, points, "transplanted", name)


def synthetic(
    sources: Sources, rng: np.random.Generator, name: str = "", shape: Shape = FULL_SHAPE
) -> Sample:
    """A scan painted from the ICBM tissue maps with random contrasts and acquisition.

    Parameters
    ----------
    shape
        Field of view in voxels (z, y, x) of 1 mm, centred on the brain.
    """
    atlas, device = sources.atlas, sources.device
    matrix = rotation(rng.normal(0, 0.12, 3)) @ np.diag([*np.exp(rng.normal(0.02, 0.07, 3)), 1])
    if rng.random() < 0.5:
        matrix = matrix @ np.diag([1, 1, -1, 1])
    centre = np.array(atlas.centre) - (np.array(atlas.brain.shape) - 1) / 2
    to_atlas = about_centre(matrix, shape, atlas.brain.shape, centre + rng.normal(0, 2, 3))
    scale_mm = float(rng.uniform(18, 40))
    move = noise_field(rng, shape, scale_mm, 3, device) * float(rng.uniform(0.3, 2.5))
    tissues = np.stack([atlas.grey, atlas.white, atlas.brain, atlas.ventricles, sources.sheet])
    maps = sample(onto(device, tissues), to_atlas, shape, move)
    brain = maps[2].clamp(0, 1)
    grey, white = maps[0].clamp(0, 1), maps[1].clamp(0, 1)
    other = (1 - grey - white).clamp(0, 1)
    power = float(rng.choice([1.0, 1.5, 2.5, 4.0]))
    fractions = torch.stack([grey, white, other]) ** power
    grey, white, other = fractions / fractions.sum(0).clamp_min(1e-6)
    regions = sample(
        onto(device, atlas.regions)[None].float(), to_atlas, shape, move, nearest=True
    )[0]
    regions = (regions * (brain > 0.5)).to(torch.uint8).cpu().numpy()
    occupancy = lesion_occupancy(sources, to_atlas, shape, regions, rng, blobs_only=0.6)
    occupancy = occupancy * brain
    if rng.random() < 0.7:
        occupancy = occupancy * (1 - other)
    tissue = np.array(
        [  # grey, white, fluid
            [rng.uniform(1.0, 1.4), 1.0, rng.uniform(0.05, 0.5)],
            [rng.uniform(1.1, 1.7), 1.0, rng.uniform(1.8, 4.0)],
            [rng.uniform(0.6, 0.92), 1.0, rng.uniform(0.12, 0.5)],
        ]
    )
    table = contrasts(rng, tissue[0, 0], tissue[1, 0], rng.random() < FAINT_T2_SHARE)
    severity = severity_map(occupancy, rng)
    if rng.random() < 0.4:
        severity = torch.full_like(severity, float(rng.uniform(0.1, 0.9)))
    soft = gaussian(occupancy[None], float(rng.choice([0.0, rng.uniform(0, 0.9)])))[0]
    head = (gaussian(brain[None], 3.0)[0] > 0.08).float()

    def noise(scale_mm: float) -> torch.Tensor:
        return noise_field(rng, shape, scale_mm, device=device)[0]

    scalp = (1 - head) * (noise(8.0) * 0.3 + 1).clamp(0, 2)
    images = torch.empty((3, *shape), device=device)
    plane = int(rng.choice([0, 0, 0, 1, 2]))
    isotropic = rng.random() < 0.35
    mottle = noise(float(rng.uniform(2, 6))) * float(rng.uniform(0, 0.04))
    dirty = noise(float(rng.uniform(10, 25))).clamp_min(0)
    dirty = dirty * float(rng.choice([0.0, rng.uniform(0, 0.07)]))
    rim = gaussian(maps[3:4], 1.5)[0] * white * 2 * float(rng.choice([0.0, rng.uniform(0, 0.25)]))
    bright = bright_fluid(other * brain, maps[4], rng)
    oblique = rotation(rng.normal(0, 0.1, 3)) if rng.random() < 0.5 else None
    for channel in range(3):
        g, w, f = tissue[channel]
        clean = grey * g + white * w + other * f * brain.clamp_min(0.2)
        clean = clean * (1 + mottle)
        if channel < 2:
            clean = clean * (1 + dirty * white) + rim * white
        level = table[channel, 0] + severity * (table[channel, 1] - table[channel, 0])
        clean = clean + soft * (level - clean)
        if channel == 0:
            flow = float(rng.uniform(0.8, 1.6))
            clean = clean + bright * (1 - soft) * (flow - clean).clamp_min(0)
        clean = clean * head + scalp * float(rng.uniform(0.3, 1.3))
        picture = clean[None]
        if channel and rng.random() < 0.7:
            small = rotation(rng.normal(0, 0.005, 3))
            picture = sample(
                picture, about_centre(small, shape, shape, rng.normal(0, 0.3, 3)), shape
            )
        # FLAIR: one plane; T2 mostly the same; T1 mostly 3D.
        chance = rng.random()
        thick: float | None = float(
            rng.choice([2.0, 3.0, 3.0, 3.0, 4.0, 5.0]) * rng.uniform(0.95, 1.1)
        )
        axis = plane
        if isotropic and (channel != 1 or chance < 0.7):
            thick = None
        elif channel == 1:
            axis = plane if chance < 0.75 else int(rng.integers(3))
        elif channel == 2 and chance < 0.6:
            thick = None
        if thick is not None and oblique is not None:
            turned = sample(picture, about_centre(oblique, shape, shape), shape)
            turned = degrade(turned, rng, axis, thick)
            picture = sample(turned, about_centre(oblique.T, shape, shape), shape)
        else:
            picture = degrade(picture, rng, axis, thick)
        spread = float(rng.uniform(0.005, 0.08))
        grain = [onto(device, rng.standard_normal(shape, dtype=np.float32)) for _ in range(2)]
        real, imaginary = picture[0] + spread * grain[0], spread * grain[1]
        images[channel] = torch.sqrt(real**2 + imaginary**2)
        if rng.random() < 0.4:
            images[channel] = gaussian(images[channel][None], float(rng.uniform(0.3, 0.7)))[0]
    mask = jitter_mask((brain > 0.5).float(), rng)
    label = ((occupancy >= 0.5) & (mask > 0.5)).to(torch.uint8)
    box = crop(mask)
    images = images[:, box[0], box[1], box[2]].contiguous()
    mask = mask[box].contiguous()
    array = label[box].contiguous().cpu().numpy()
    result = finish(images, mask, np.ones(3, bool), rng)
    points = strata_points(array, mask.cpu().numpy() > 0.5, rng)
    return Sample(result, array, points, "synthetic", name)


def make_volume(
    sources: Sources,
    seed: int,
    index: int,
    exclude: tuple[str, ...] = (),
    shape: Shape = FULL_SHAPE,
) -> Sample:
    """The ``index``-th volume of a seed: the same arrays on every call."""
    rng = np.random.default_rng([seed, index])
    names = [n for n in sorted(sources.backgrounds) if n not in exclude]
    if rng.random() < SYNTHETIC_SHARE or not names:
        return synthetic(sources, rng, f"synthetic-{index}", shape)
    # Complete studies count more than those with one or two sequences.
    weights = np.array(
        [sources.backgrounds[n].images.any((1, 2, 3)).sum() ** 1.5 for n in names], float
    )
    name = names[rng.choice(len(names), p=weights / weights.sum())]
    return transplanted(sources, sources.backgrounds[name], rng, f"{name}-{index}")

"""nnU-Net's inference on one case: arrays in, label probabilities on the same grid out.

The steps are those of nnU-Net's own predictor (Isensee et al., Nature Methods 18, 203-211, 2021;
versions 2.8 and, where the package says so, 1.7): transpose, crop to the non-zero region, normalise
each channel, resample, tile, average, resample the answer back, and only then decide between the
labels. A cascade runs its low-resolution network first and gives its segmentation to the second
one as further channels.

Memory beside the engine's own and the given image is bounded by ``peak_bytes``. It grows with the
image and the number of channels and labels, not with the number of folds, mirrors or tiles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_fill_holes

from operators.lesion_segmentation.model_description import (
    Channel,
    ModelDescription,
    Network,
    Resampling,
)
from operators.lesion_segmentation.resampling import (
    Plan,
    reach,
    resample,
    resample_labels,
    resampled_shape,
    thick_axis,
)
from operators.lesion_segmentation.tiling import TileSum, run_tiled

Box = tuple[slice, slice, slice]
_SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class Prepared:
    """A case as a network sees it; axes in the network's order.

    Attributes
    ----------
    image
        float32 (channels, z, y, x), normalised, on the network's grid.
    box
        Where the crop lies in the transposed input.
    plan
        From the crop to the network's grid.
    return_plan
        The way back.
    """

    image: np.ndarray
    box: Box
    plan: Plan
    return_plan: Plan


@dataclass(frozen=True)
class Answer:
    """Label probabilities of a case.

    Attributes
    ----------
    probabilities
        float32 (labels, z, y, x) on the input's grid; background where no network ran.
    seconds
        Time spent in "resample" (crop, normalise, resample), "network" and "return".
    """

    probabilities: np.ndarray
    seconds: Mapping[str, float]


def non_zero_region(image: np.ndarray) -> np.ndarray:
    """Voxels that are not 0 in some channel, with holes filled: bool (z, y, x) of (c, z, y, x)."""
    region = image[0] != 0
    for channel in image[1:]:
        region |= channel != 0
    return np.asarray(binary_fill_holes(region))


def bounding_box(mask: np.ndarray) -> Box:
    """The smallest box around a mask; the whole volume if the mask is empty."""
    if not mask.any():
        z, y, x = (slice(0, n) for n in mask.shape)
        return z, y, x
    edges = []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        edges.append(slice(int(found[0]), int(found[-1]) + 1))
    return edges[0], edges[1], edges[2]


def normalise(values: np.ndarray, channel: Channel, mask: np.ndarray) -> np.ndarray:
    """Normalise one channel as nnU-Net does.

    Parameters
    ----------
    values
        float32 (z, y, x).
    channel
        Says how.
    mask
        bool (z, y, x), the region of "zscore_in_mask"; outside it the result is 0.

    Returns
    -------
    numpy.ndarray
        float32 (z, y, x), a new array.
    """
    if channel.normalisation == "zscore_in_mask":
        result = np.zeros_like(values)
        inside = values[mask]
        if inside.size:
            mean = np.float32(inside.mean(dtype=np.float64))
            deviation = float(inside.std(dtype=np.float64))
            inside -= mean
            inside /= np.float32(max(deviation, _SMALLEST_DEVIATION))
            result[mask] = inside
        return result
    if channel.normalisation == "zscore":
        mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        shifted = values - np.float32(mean)
        return np.asarray(shifted / np.float32(max(float(deviation), _SMALLEST_DEVIATION)))
    if channel.normalisation == "ct":
        assert channel.intensity is not None, "the description is checked when it is read"
        known = channel.intensity
        clipped = np.clip(values, known.percentile_00_5, known.percentile_99_5)
        return np.asarray((clipped - known.mean) / known.std, dtype=np.float32)
    if channel.normalisation == "rescale_0_1":
        shifted = values - values.min()
        return np.asarray(shifted / max(float(shifted.max()), _SMALLEST_DEVIATION))
    return values.copy()


def prepare_image(
    image: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    description: ModelDescription,
    network: Network,
    previous: np.ndarray | None = None,
) -> Prepared:
    """Crop, normalise and resample a case for a network.

    Parameters
    ----------
    image
        float32 (channels, z, y, x), as acquired.
    spacing_zyx_mm
        Of the image.
    description, network
        The package's, and which of its networks.
    previous
        Integer (z, y, x): the first network's segmentation, for the second one of a cascade.
    """
    steps = _resampling(description)
    axes = description.transpose_forward
    image = image.transpose(0, *(axis + 1 for axis in axes))
    spacing = [float(spacing_zyx_mm[axis]) for axis in axes]
    region = non_zero_region(image)
    box = bounding_box(region)
    region, image = region[box], image[(slice(None), *box)]
    labels = np.where(region, np.int16(0), np.int16(-1))
    if previous is not None:
        before = previous.transpose(axes)[box]
        labels = np.where(before > 0, before.astype(np.int16), labels)
    shape = region.shape
    target = resampled_shape(shape, spacing, network.spacing_zyx_mm)
    thick = thick_axis(
        spacing,
        network.spacing_zyx_mm,
        force=steps.force_separate_z,
        threshold=steps.anisotropy_threshold,
    )
    plan = Plan((shape[0], shape[1], shape[2]), target, thick)
    back = Plan(target, plan.shape_in, _return_axis(spacing, network, steps))

    after = None
    if previous is not None or not steps.normalise_first:
        after = resample_labels(labels, plan, steps.order_seg, steps.order_z_seg)
    extra = [] if previous is None else sorted(description.labels.values())[1:]
    result = np.empty((len(description.channels) + len(extra), *target), dtype=np.float32)
    for number, channel in enumerate(description.channels):
        values = np.ascontiguousarray(image[number], dtype=np.float32)
        if steps.normalise_first:
            values = normalise(values, channel, labels >= 0)
        values = resample(values, plan, steps.order_data, steps.order_z_data)
        if after is not None and not steps.normalise_first:
            values = normalise(values, channel, after >= 0)
        result[number] = values
    for offset, value in enumerate(extra):
        result[len(description.channels) + offset] = after == value
    return Prepared(result, box, plan, back)


def restore(
    output: np.ndarray,
    prepared: Prepared,
    description: ModelDescription,
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Bring a network's averaged output back to the input's grid, as label probabilities.

    Parameters
    ----------
    output
        float32 (labels, z, y, x) on the network's grid: what ``averaging`` says.
    prepared
        As the network saw the case.
    description
        The package's.
    shape
        Voxels (z, y, x) of the input.

    Returns
    -------
    numpy.ndarray
        float32 (labels, z, y, x) on the input's grid; background outside the crop.
    """
    steps = _resampling(description)
    axes = description.transpose_forward
    result = np.zeros((len(output), *(shape[axis] for axis in axes)), dtype=np.float32)
    result[description.labels["background"]] = 1
    inside = result[(slice(None), *prepared.box)]
    for label, values in enumerate(output):
        inside[label] = resample(
            values,
            prepared.return_plan,
            steps.order_probabilities,
            steps.order_z_probabilities,
        )
    if description.averaging == "logits":
        softmax(inside)
    return np.asarray(result.transpose(0, *(int(axis) + 1 for axis in np.argsort(axes))))


def softmax(values: np.ndarray) -> None:
    """Turn logits (labels, …) into probabilities, in place."""
    values -= values.max(axis=0)
    np.exp(values, out=values)
    values /= values.sum(axis=0)


def predict(
    image: np.ndarray,
    spacing_zyx_mm: Sequence[float],
    description: ModelDescription,
    tiles_of: Callable[[Network], TileSum],
    wanted: np.ndarray | None = None,
) -> Answer:
    """Label probabilities of a case.

    Parameters
    ----------
    image
        float32 (channels, z, y, x), as acquired, in the axes that ``description.orientation``
        describes; 0 outside the body site's mask where ``brain_only``.
    spacing_zyx_mm
        Of the image.
    description
        The package's.
    tiles_of
        Gives what runs one of the package's networks (``tiling.tile_sum_of`` an engine).
    wanted
        bool (z, y, x): where the answer is needed; tiles that it does not depend on are left
        out. None: everywhere in the crop. Outside the answer is background.

    Returns
    -------
    Answer
        On the image's grid.
    """
    seconds = {"resample": 0.0, "network": 0.0, "return": 0.0}
    shape = (image.shape[1], image.shape[2], image.shape[3])
    previous: np.ndarray | None = None
    probabilities = np.empty(0, dtype=np.float32)
    for network in description.networks:
        last = network == description.networks[-1]
        begun = time.perf_counter()
        prepared = prepare_image(image, spacing_zyx_mm, description, network, previous)
        # the second network of a cascade looks at all of what the first one found
        needed = _needed(wanted if last else None, prepared, description)
        seconds["resample"] += time.perf_counter() - begun
        begun = time.perf_counter()
        output = run_tiled(
            prepared.image,
            needed,
            tiles_of(network),
            patch=network.patch_size_zyx,
            step=description.tile_step,
            sigma=description.gaussian_sigma,
        )
        prepared = replace(prepared, image=np.empty((0, 0, 0, 0), dtype=np.float32))
        seconds["network"] += time.perf_counter() - begun
        begun = time.perf_counter()
        probabilities = restore(output, prepared, description, shape)
        if not last:
            previous = probabilities.argmax(axis=0).astype(np.int16)
        seconds["return"] += time.perf_counter() - begun
    if wanted is not None:
        probabilities[:, ~wanted] = 0
        probabilities[description.labels["background"], ~wanted] = 1
    return Answer(probabilities, seconds)


def peak_bytes(
    shape: tuple[int, int, int], spacing_zyx_mm: Sequence[float], description: ModelDescription
) -> int:
    """An upper bound of what ``predict`` takes beside the engine's memory and the image itself.

    With R voxels of the image, N of the network's grid (at least a patch along each axis), V of
    the largest grid between the two, P of a patch, C channels of the network and L labels, the
    largest of

    - 4·C·N + 30·R + 12·V bytes: normalise and resample one channel after the other,
    - 4·(C + L + 1)·N + N + 4·(C + 2·L + 1)·P: the image, the sums, the weights and one tile,
    - 4·L·(N + R) + 12·V + 12·R: the answer on both grids, one label after the other, and softmax,

    and 3·R for masks; in a cascade also 2·R for the first network's segmentation.

    Parameters
    ----------
    shape, spacing_zyx_mm
        Of the image.
    description
        The package's.
    """
    axes = description.transpose_forward
    size = [shape[axis] for axis in axes]
    spacing = [float(spacing_zyx_mm[axis]) for axis in axes]
    image = math.prod(size)
    labels = len(description.labels)
    largest = 0
    for network in description.networks:
        target = resampled_shape(size, spacing, network.spacing_zyx_mm)
        padded = math.prod(map(max, target, network.patch_size_zyx))
        between = math.prod(map(max, target, size))
        patch = math.prod(network.patch_size_zyx)
        channels = description.input_channels(network)
        largest = max(
            largest,
            4 * channels * padded + 30 * image + 12 * between,
            4 * (channels + labels + 1) * padded + padded + 4 * (channels + 2 * labels + 1) * patch,
            4 * labels * (padded + image) + 12 * between + 12 * image,
        )
    return largest + 3 * image + (2 * image if len(description.networks) > 1 else 0)


def target_probability(probabilities: np.ndarray, description: ModelDescription) -> np.ndarray:
    """The probability of the labels that the package is asked for.

    With a threshold it is the sum over ``target_labels``. Where the largest label decides
    (threshold None), it is the best target label's share of itself and its best rival, which is
    above one half exactly where a target label is the largest; with two labels both are the same.

    Parameters
    ----------
    probabilities
        float32 (labels, z, y, x).
    description
        The package's.

    Returns
    -------
    numpy.ndarray
        float32 (z, y, x) in [0, 1].
    """
    targets = list(description.target_values)
    if description.threshold is not None:
        return np.asarray(np.clip(probabilities[targets].sum(axis=0), 0, 1), dtype=np.float32)
    rivals = [value for value in description.labels.values() if value not in targets]
    best, rival = probabilities[targets].max(axis=0), probabilities[rivals].max(axis=0)
    return np.asarray(best / np.maximum(best + rival, 1e-30), dtype=np.float32)


def _resampling(description: ModelDescription) -> Resampling:
    if description.resampling is None:
        raise ValueError('the package has no "resampling"; its preprocessing is not "nnunet"')
    return description.resampling


def _return_axis(spacing: Sequence[float], network: Network, steps: Resampling) -> int | None:
    return thick_axis(
        network.spacing_zyx_mm,
        spacing,
        force=steps.force_separate_z,
        threshold=steps.anisotropy_threshold,
    )


def _needed(
    wanted: np.ndarray | None, prepared: Prepared, description: ModelDescription
) -> np.ndarray:
    """Voxels of the network's grid that the answer depends on."""
    if wanted is None:
        return np.ones(prepared.image.shape[1:], dtype=bool)
    steps = _resampling(description)
    cropped = wanted.transpose(description.transpose_forward)[prepared.box]
    return reach(
        cropped, prepared.return_plan, steps.order_probabilities, steps.order_z_probabilities
    )

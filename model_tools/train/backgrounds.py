"""Real raw studies prepared as backgrounds for transplanted lesions.

Each study is resampled once to 1 mm on its FLAIR's axes; T1 and T2 come along with the data
set's own transforms, the brain mask likewise, and the ICBM maps with an affine registration.
Hyperintensities that may be the patient's own, unlabelled lesions are marked so that the loss
ignores them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from model_tools.train.atlas import Atlas
from model_tools.train.resample import Matrix

STUDIES: dict[str, tuple[str, int]] = {
    "03_1": ("patient03", 1),
    "03_2": ("patient03", 2),
    "04_1": ("patient04", 1),
    "09_2": ("patient09", 2),
    "12_1": ("patient12", 1),
    "12_2": ("patient12", 2),
    "20_2": ("patient20", 2),
}
HELD_OUT = "04_1"
"""The background on which the transplanted validation cases are made; the trunk never sees it."""
CHANNELS = ("FLAIR", "T2W", "T1W")


@dataclass(frozen=True)
class Background:
    """One study on its 1 mm grid; arrays are (z, y, x) or (3, z, y, x), float32.

    Attributes
    ----------
    images
        FLAIR, T2, T1; a missing sequence is all 0.
    white_local
        Per channel, the local intensity of normal white matter (bias field included).
    brain, ignore, fluid
        Brain mask, voxels the loss ignores, and the fraction of fluid (0..1).
    to_atlas
        4 x 4, voxel index (z, y, x) to atlas index (z, y, x).
    slices
        Per channel (step, thickness) of the original slices in mm, along z.
    lesions
        The patient's own lesions where a reference mask exists, else None.
    """

    images: NDArray[np.float32]
    white_local: NDArray[np.float32]
    brain: NDArray[np.float32]
    ignore: NDArray[np.float32]
    fluid: NDArray[np.float32]
    to_atlas: Matrix
    slices: NDArray[np.float32]
    lesions: NDArray[np.float32] | None = None

    def save(self, path: Path) -> None:
        """Write everything to one .npz."""
        np.savez(path, **{name: v for name, v in vars(self).items() if v is not None})

    @classmethod
    def load(cls, path: Path) -> Background:
        """Read what `save` wrote."""
        with np.load(path) as data:
            return cls(**{name: data[name] for name in data.files})


def _isotropic_grid(image: sitk.Image) -> sitk.Image:
    size = [int(np.ceil(n * s)) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetDirection(image.GetDirection())
    first = [0.5 / s - 0.5 for s in image.GetSpacing()]
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(first))
    return grid


def register_atlas(image: sitk.Image, mask: sitk.Image, atlas: Atlas) -> Matrix:
    """Affine registration; 4 x 4 from image index to atlas index, both (z, y, x)."""
    moving = sitk.GetImageFromArray(atlas.t1 * atlas.brain)
    fixed = sitk.Mask(image, mask)
    start = sitk.CenteredTransformInitializer(
        sitk.Cast(mask, sitk.sitkFloat32),
        sitk.GetImageFromArray(atlas.brain),
        sitk.AffineTransform(3),
        sitk.CenteredTransformInitializerFilter.MOMENTS,
    )
    # The atlas image has identity direction; start from the scan's own axes.
    direction = np.array(image.GetDirection()).reshape(3, 3)
    start = sitk.AffineTransform(start)
    start.SetMatrix(direction.T.ravel().tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(40)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.05, seed=1)
    method.SetMetricFixedMask(sitk.BinaryDilate(mask, [3, 3, 3]))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 120, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([3, 1])
    method.SetInitialTransform(start, inPlace=False)
    found = sitk.AffineTransform(
        sitk.CompositeTransform(method.Execute(fixed, moving)).GetNthTransform(0)
    )
    corners = []
    for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        corners.append(found.TransformPoint(image.TransformIndexToPhysicalPoint(index)))
    points = np.array(corners)[:, ::-1]  # atlas image: index = point, (x, y, z)
    matrix = np.eye(4)
    matrix[:3, 3] = points[0]
    for axis, row in ((2, 1), (1, 2), (0, 3)):
        matrix[:3, axis] = points[row] - points[0]
    return matrix


def _local_mean(
    values: NDArray[np.float32], where: NDArray[np.bool_], sigma: float
) -> NDArray[np.float32]:
    """Normalised convolution: the local mean of ``values`` over ``where``."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(where, values, 0).astype(np.float32), sigma)
    overall = float(np.median(values[where]))
    return np.asarray((total + 1e-3 * overall) / (weight + 1e-3), dtype=np.float32)


def suspicious(
    flair: NDArray[np.float32],
    white: NDArray[np.float32],
    grey: NDArray[np.float32],
    brain: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Hyperintensities in the white-matter prior, not the cortex, that may be lesions.

    Seeds lie 2.2 robust SDs above grey matter where the white-matter prior is high; they grow to
    1.2 SD where it is not low, so that the cortex stays out.
    """
    sample = flair[brain & (grey > 0.8)]
    centre = float(np.median(sample))
    spread = 1.4826 * float(np.median(np.abs(sample - centre)))
    score = ndimage.gaussian_filter((flair - centre) / spread, 0.7)
    inner = ndimage.binary_erosion(brain, iterations=4)
    seeds = (score > 2.2) & (white > 0.7) & inner
    allowed = (score > 1.2) & (white > 0.4) & inner
    grown = ndimage.binary_propagation(seeds, mask=allowed)
    return np.asarray(ndimage.binary_dilation(grown, iterations=1) & inner)


def prepare(data: Path, name: str, atlas: Atlas) -> Background:
    """Resample, register and describe one study of `STUDIES`."""
    patient, study = STUDIES[name]
    folder = data / "longitudinal" / patient
    flair = sitk.ReadImage(str(folder / f"study{study}_FLAIR.nii.gz"), sitk.sitkFloat32)
    grid = _isotropic_grid(flair)
    images, slices = [], []
    for channel in CHANNELS:
        path = folder / f"study{study}_{channel}.nii.gz"
        if not path.exists():
            images.append(np.zeros(grid.GetSize()[::-1], np.float32))
            slices.append((1.0, 1.0))
            continue
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        transform: sitk.Transform = sitk.Transform(3, sitk.sitkIdentity)
        if channel != "FLAIR":
            transform = sitk.ReadTransform(
                str(folder / f"study{study}_{channel}_intrastudy_to_FLAIR.txt")
            )
        moved = sitk.Resample(image, grid, transform, sitk.sitkLinear, 0.0)
        images.append(sitk.GetArrayFromImage(moved))
        slices.append((image.GetSpacing()[2], image.GetSpacing()[2] * 0.9))
    to_raw = sitk.ReadTransform(str(folder / f"study{study}_FLAIR_to_common_space.txt"))
    mask = sitk.ReadImage(str(folder / "brainmask.nii.gz"), sitk.sitkFloat32)
    mask = sitk.Resample(mask, grid, to_raw.GetInverse(), sitk.sitkLinear, 0.0)
    mask = sitk.Cast(mask > 0.5, sitk.sitkUInt8)
    brain = sitk.GetArrayFromImage(mask) > 0
    anatomy = sitk.GetImageFromArray(images[2] if images[2].any() else images[0])
    anatomy.CopyInformation(grid)
    to_atlas = register_atlas(anatomy, mask, atlas)

    def warp(array: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = ndimage.affine_transform(
            array, to_atlas[:3, :3], to_atlas[:3, 3], output_shape=brain.shape, order=1
        )
        return np.asarray(moved, dtype=np.float32)

    white, grey = warp(atlas.white), warp(atlas.grey)
    pure = (white > 0.85) & ndimage.binary_erosion(brain, iterations=3)
    flat = np.asarray(images[0] / _local_mean(images[0], pure, 20.0), dtype=np.float32)
    ignore = suspicious(flat, white, grey, brain)
    for _ in range(2):
        normal = pure & ~ignore & (flat > 0.7) & (flat < 1.25)
        local = [
            _local_mean(image, normal, 14.0) if image.any() else np.zeros_like(image)
            for image in images
        ]
        flat = np.asarray(images[0] / np.maximum(local[0], 1e-3), dtype=np.float32)
        ignore = suspicious(flat, white, grey, brain)
    fluid = np.clip((0.75 - flat) / 0.4, 0, 1) * brain
    return Background(
        np.stack(images).astype(np.float32),
        np.stack(local).astype(np.float32),
        brain.astype(np.float32),
        ignore.astype(np.float32),
        fluid.astype(np.float32),
        to_atlas,
        np.array(slices, np.float32),
    )


def describe_case(
    atlas: Atlas,
    images: NDArray[np.float32],
    lesions: NDArray[np.float32],
    brain: NDArray[np.float32],
) -> Background:
    """A case with a reference mask on the atlas grid, as a background that keeps its lesions.

    Parameters
    ----------
    images
        (3, z, y, x) FLAIR, T2, T1; negative values (winsorised data) are set to 0.
    lesions, brain
        (z, y, x) masks.
    """
    hits = np.argwhere(brain > 0)
    low, high = np.maximum(hits.min(0) - 6, 0), hits.max(0) + 7
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    images = np.maximum(images[(slice(None), *box)], 0).astype(np.float32)
    lesions, brain = lesions[box], brain[box]
    to_atlas = np.eye(4)
    to_atlas[:3, 3] = low
    inner = ndimage.binary_erosion(brain > 0, iterations=3)
    near = ndimage.binary_dilation(lesions > 0, iterations=3)
    pure = (atlas.white[box] > 0.85) & inner & ~near
    local = np.stack([_local_mean(image, pure, 14.0) for image in images])
    flat = images[0] / np.maximum(local[0], 1e-3)
    fluid = np.clip((0.75 - flat) / 0.4, 0, 1) * brain
    return Background(
        images,
        local.astype(np.float32),
        brain.astype(np.float32),
        np.zeros_like(brain, dtype=np.float32),
        fluid.astype(np.float32),
        to_atlas,
        np.ones((3, 2), np.float32),
        lesions.astype(np.float32),
    )


def load_backgrounds(
    data: Path, cache: Path, atlas: Atlas, names: tuple[str, ...] = tuple(STUDIES)
) -> dict[str, Background]:
    """Studies prepared on first use (20 s each) and read from ``cache`` afterwards."""
    cache.mkdir(parents=True, exist_ok=True)
    result = {}
    for name in names:
        path = cache / f"{name}.npz"
        if not path.exists():
            prepare(data, name, atlas).save(path)
        result[name] = Background.load(path)
    return result

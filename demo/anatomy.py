"""A head to scan, made from the ICBM 2009 template that nilearn ships (Fonov et al., NeuroImage
2011): tissue fractions of an individual brain, and skull, scalp, face and neck around it.

The anatomy's own frame is the template's, in LPS millimetres; its grid is 1 mm along the axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813
from nilearn import datasets
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_HEAD_ORIGIN = np.array([-108.0, -120.0, -135.0])
_HEAD_SHAPE = (217, 249, 237)
_EYES = ((-33.0, -62.0, -36.0), (33.0, -62.0, -36.0))
_EYE_RADIUS_MM = 12.0
_ORBITS = ((-55.0, 56.0), (-90.0, -40.0), (-100.0, -15.0))
_CORD_CENTRE_P_MM = 43.0
_NEVER_MM = 60.0


@dataclass(frozen=True)
class TissueIntensity:
    """Signal of every tissue in one contrast, in arbitrary units."""

    white_matter: float
    grey_matter: float
    csf: float
    lesion: float
    bone: float
    marrow: float
    fat: float
    muscle: float
    skin: float
    vitreous: float


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions and distances of one head, arrays over (L, P, S) at 1 mm."""

    origin: npt.NDArray[np.float64]
    """LPS millimetres of the first voxel's centre."""
    white_matter: FloatArray
    grey_matter: FloatArray
    brain_depth_mm: FloatArray
    """Distance to the surface of the intracranial space, negative inside."""
    skin_depth_mm: FloatArray
    """Distance to the surface of the head, negative inside."""
    texture: FloatArray
    """Relative local variation of the signal of tissue, around 0."""
    ventricles: BoolArray
    """Lateral ventricles."""

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """4×4, voxel indices to LPS millimetres."""
        matrix = np.eye(4)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def csf(self) -> FloatArray:
        """Fraction of cerebrospinal fluid inside the skull."""
        inside = np.clip(0.5 - self.brain_depth_mm, 0.0, 1.0)
        return np.asarray(
            inside * np.clip(1.0 - self.white_matter - self.grey_matter, 0.0, 1.0), np.float32
        )

    def coordinates(self) -> tuple[npt.NDArray[np.float64], ...]:
        """Open mesh of the LPS coordinates of the grid."""
        return np.ix_(
            *[
                start + np.arange(size)
                for start, size in zip(self.origin, self.white_matter.shape, strict=True)
            ]
        )

    def brain_part(self, margin: int = 4) -> Anatomy:
        """The box that holds the brain above the spinal cord."""
        z = self.coordinates()[2].ravel()
        low = int(np.searchsorted(z, -70.0))
        inside = self.brain_depth_mm[:, :, low:] < 0.0
        box = []
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            filled = np.flatnonzero(inside.any(axis=others)) + (low if axis == 2 else 0)
            size = self.brain_depth_mm.shape[axis]
            box.append(slice(max(filled[0] - margin, 0), min(filled[-1] + margin + 1, size)))
        cut = tuple(box)
        return Anatomy(
            self.origin + [s.start for s in cut],
            self.white_matter[cut],
            self.grey_matter[cut],
            self.brain_depth_mm[cut],
            self.skin_depth_mm[cut],
            self.texture[cut],
            self.ventricles[cut],
        )


def build_anatomy(seed: int) -> Anatomy:
    """Make one individual's head.

    Parameters
    ----------
    seed
        Decides the individual deformation of the brain and the texture of its tissue.

    Returns
    -------
    Anatomy
        A brain that differs from the template by a scaling of up to 4 % per axis and a smooth
        deformation of up to about 4 mm.
    """
    rng = np.random.default_rng([seed, 1])
    grey, white = _individual_brain(rng)
    shape = _HEAD_SHAPE
    brain_depth, skin_depth = _head_surfaces(grey + white > 0.4)
    grid = np.ix_(*[start + np.arange(n) for start, n in zip(_HEAD_ORIGIN, shape, strict=True)])
    _add_cord(white, grid)
    np.minimum(grey, 1.0 - white, out=grey)
    fine = ndimage.zoom(rng.standard_normal([n // 2 for n in shape]).astype(np.float32), 2, order=1)
    texture = np.zeros(shape, np.float32)
    texture[: fine.shape[0], : fine.shape[1], : fine.shape[2]] = fine[
        : shape[0], : shape[1], : shape[2]
    ]
    coarse = _smooth_noise(rng, shape, cell=6, amplitude=1.0)
    return Anatomy(
        origin=_HEAD_ORIGIN.copy(),
        white_matter=white,
        grey_matter=grey,
        brain_depth_mm=brain_depth,
        skin_depth_mm=skin_depth,
        texture=0.02 * texture + 0.02 * coarse,
        ventricles=_find_ventricles(grey, white, brain_depth, grid),
    )


def _template(load: str) -> sitk.Image:
    """A nilearn template as an LPS image with positive axes."""
    image = getattr(datasets, load)(resolution=1)
    array = np.asarray(image.dataobj, dtype=np.float32)[::-1, ::-1, :]
    result = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    last = (np.array(array.shape) - 1) @ np.diag(np.diag(image.affine)[:3]) + image.affine[:3, 3]
    result.SetOrigin([-float(last[0]), -float(last[1]), float(image.affine[2, 3])])
    return result


def _individual_brain(rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Grey and white matter fractions on the head's grid."""
    field_step = 8.0
    field_shape = [int(np.ceil(n / field_step)) + 1 for n in _HEAD_SHAPE]
    noise = [
        ndimage.gaussian_filter(rng.standard_normal(field_shape), 3.0, mode="reflect")
        for _ in range(3)
    ]
    displacement = np.stack([2.0 * n / n.std() for n in noise], axis=-1).clip(-4.0, 4.0)
    field = sitk.GetImageFromArray(
        np.ascontiguousarray(displacement.transpose(2, 1, 0, 3)), isVector=True
    )
    field.SetOrigin(_HEAD_ORIGIN.tolist())
    field.SetSpacing([field_step] * 3)
    scaling = sitk.AffineTransform(3)
    scaling.SetMatrix(np.diag(1.0 + rng.uniform(-0.04, 0.04, 3)).ravel().tolist())
    transform = sitk.CompositeTransform([scaling, sitk.DisplacementFieldTransform(field)])
    reference = sitk.Image([int(n) for n in _HEAD_SHAPE], sitk.sitkFloat32)
    reference.SetOrigin(_HEAD_ORIGIN.tolist())
    maps = []
    for load in ("load_mni152_gm_template", "load_mni152_wm_template"):
        warped = sitk.Resample(_template(load), reference, transform, sitk.sitkLinear, 0.0)
        maps.append(sitk.GetArrayFromImage(warped).transpose(2, 1, 0))
    # The template is a mean of many brains; a power of the fractions gives back the edge of one.
    grey, white = maps
    other = np.clip(1.0 - grey - white, 0.0, 1.0)
    powers = [np.power(m, 1.6) for m in (grey, white, other)]
    total = np.maximum(powers[0] + powers[1] + powers[2], 1e-6)
    return np.ascontiguousarray(powers[0] / total), np.ascontiguousarray(powers[1] / total)


def _signed_distance(mask: BoolArray, spacing: float) -> FloatArray:
    """Distance to the mask's surface, negative inside, in millimetres."""
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing)
    inside = ndimage.distance_transform_edt(mask, sampling=spacing)
    return np.asarray(outside - inside, np.float32)


def _head_surfaces(brain: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Signed distances to the intracranial surface and to the skin, found at 3 mm."""
    step = 3
    coarse = brain[1::step, 1::step, 1::step]
    grid = np.ix_(
        *[
            start + 1 + step * np.arange(n)
            for start, n in zip(_HEAD_ORIGIN, coarse.shape, strict=True)
        ]
    )
    x, y, z = grid
    padded = np.pad(coarse, 6)
    dilated = ndimage.distance_transform_edt(~padded, sampling=step) < 13.0
    closed = ndimage.distance_transform_edt(dilated, sampling=step) > 11.5
    skull = closed[6:-6, 6:-6, 6:-6]
    cord = ((x / 9.0) ** 2 + ((y - _CORD_CENTRE_P_MM) / 8.0) ** 2 < 1.0) & (z < -55.0)
    brain_depth = _signed_distance(skull | cord, step)
    face = (x / 62.0) ** 2 + ((y + 48.0) / 58.0) ** 2 + ((z + 62.0) / 66.0) ** 2 < 1.0
    nose = (x / 14.0) ** 2 + ((y + 104.0) / 14.0) ** 2 + ((z + 70.0) / 22.0) ** 2 < 1.0
    neck = ((x / 58.0) ** 2 + ((y - 28.0) / 60.0) ** 2 < 1.0) & (z < -45.0)
    skull_distance = _signed_distance(skull, step)
    head = (skull_distance < 12.5) | face | nose | neck
    skin_depth = ndimage.gaussian_filter(_signed_distance(head, step), 0.8)
    brain_depth = ndimage.gaussian_filter(brain_depth, 0.6)
    return _upsampled(brain_depth, step), _upsampled(skin_depth, step)


def _upsampled(coarse: FloatArray, step: int) -> FloatArray:
    image = sitk.GetImageFromArray(np.ascontiguousarray(coarse.transpose(2, 1, 0)))
    image.SetOrigin((_HEAD_ORIGIN + 1.0).tolist())
    image.SetSpacing([float(step)] * 3)
    reference = sitk.Image([int(n) for n in _HEAD_SHAPE], sitk.sitkFloat32)
    reference.SetOrigin(_HEAD_ORIGIN.tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(reference)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.UseNearestNeighborExtrapolatorOn()
    return np.ascontiguousarray(sitk.GetArrayFromImage(resampler.Execute(image)).transpose(2, 1, 0))


def _add_cord(white: FloatArray, grid: tuple[npt.NDArray[np.float64], ...]) -> None:
    """Continue the brain stem downwards as a spinal cord."""
    x, y, z = grid
    radius = np.sqrt((x / 1.2) ** 2 + (y - _CORD_CENTRE_P_MM) ** 2)
    cord = np.clip(5.5 - radius, 0.0, 1.0) * np.clip(-65.0 - z, 0.0, 1.0)
    np.maximum(white, cord.astype(np.float32), out=white)


def _smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], cell: int, amplitude: float
) -> FloatArray:
    """Random field that varies over ``cell`` voxels, with the given standard deviation."""
    coarse = rng.standard_normal([n // cell + 2 for n in shape]).astype(np.float32)
    image = sitk.GetImageFromArray(coarse.transpose(2, 1, 0))
    image.SetSpacing([float(cell)] * 3)
    fine = sitk.Resample(image, sitk.Image(list(shape), sitk.sitkFloat32), sitk.Transform())
    field = sitk.GetArrayFromImage(fine).transpose(2, 1, 0)
    return np.asarray(field * (amplitude / field.std()), np.float32)


def _find_ventricles(
    grey: FloatArray,
    white: FloatArray,
    brain_depth: FloatArray,
    grid: tuple[npt.NDArray[np.float64], ...],
) -> BoolArray:
    """The large pieces of fluid on both sides far inside the brain."""
    x, y, z = grid
    box = (np.abs(x) < 42.0) & (np.abs(x) > 3.0)
    box = box & (y > -45.0) & (y < 62.0) & (z > 0.0) & (z < 38.0)
    fluid = box & (grey + white < 0.4) & (brain_depth < -25.0)
    part = ndimage.find_objects(fluid.astype(np.uint8))
    if not part:
        raise RuntimeError("no ventricle was found in the template's tissue maps")
    labels, _ = ndimage.label(fluid[part[0]])
    large = np.bincount(labels.ravel()) > 600
    large[0] = False
    ventricles = np.zeros_like(fluid)
    ventricles[part[0]] = large[labels]
    return ventricles


def signal(anatomy: Anatomy, tissue: TissueIntensity) -> FloatArray:
    """The head without lesions in one contrast, on the anatomy's grid.

    Parameters
    ----------
    anatomy
        The head.
    tissue
        Signal of each tissue.

    Returns
    -------
    numpy.ndarray
        float32 over (L, P, S), before bias field and noise.
    """
    brain = np.clip(0.5 - anatomy.brain_depth_mm, 0.0, 1.0)
    csf = np.clip(1.0 - anatomy.white_matter - anatomy.grey_matter, 0.0, 1.0)
    image = (
        tissue.white_matter * anatomy.white_matter
        + tissue.grey_matter * anatomy.grey_matter
        + tissue.csf * csf
    )
    image *= 1.0 + anatomy.texture
    image *= brain
    shell = np.interp(
        anatomy.brain_depth_mm,
        [-0.5, 0.5, 2.0, 2.8, 4.4, 5.2, 7.0, 8.0, _NEVER_MM],
        [0.0, *[tissue.bone] * 2, *[tissue.marrow] * 2, *[tissue.bone] * 2, *[tissue.muscle] * 2],
    ).astype(np.float32)
    skin = np.interp(
        anatomy.skin_depth_mm,
        [-_NEVER_MM, -6.0, -5.0, -2.4, -1.6, 0.2, 1.0],
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0],
    ).astype(np.float32)
    outer = np.interp(skin, [1.0, 2.0, 3.0], [tissue.fat, tissue.skin, 0.0])
    weight = np.clip(skin, 0.0, 1.0)
    streaks = 1.0 + 6.0 * anatomy.texture
    outside = (1.0 - weight) * shell * streaks + weight * outer * (1.0 + 2.0 * anatomy.texture)
    image += (1.0 - brain) * np.maximum(outside, 0.0)
    _add_eyes(image, anatomy, tissue)
    return np.asarray(image, np.float32)


def _add_eyes(image: FloatArray, anatomy: Anatomy, tissue: TissueIntensity) -> None:
    """Eyeballs in orbital fat, where they lie outside the skull."""
    box = tuple(
        slice(int(low - start), int(high - start))
        for start, (low, high) in zip(anatomy.origin, _ORBITS, strict=True)
    )
    x, y, z = (
        axis.take(range(part.start, part.stop), axis=n)
        for n, (axis, part) in enumerate(zip(anatomy.coordinates(), box, strict=True))
    )
    view = image[box]
    outside = (anatomy.brain_depth_mm[box] > 2.0) & (anatomy.skin_depth_mm[box] < -2.0)
    for centre in _EYES:
        radius = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
        view[(radius < _EYE_RADIUS_MM + 5.0) & outside] = tissue.fat
        view[(radius < _EYE_RADIUS_MM) & outside] = tissue.vitreous
    sinus = (x / 9.0) ** 2 + ((y + 70.0) / 14.0) ** 2 + ((z + 72.0) / 22.0) ** 2 < 1.0
    view[sinus & outside] = tissue.bone

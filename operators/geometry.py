"""Between highdicom volumes and SimpleITK images, and resampling onto a volume's grid."""

from __future__ import annotations

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813


def to_sitk(volume: hd.Volume, dtype: type = np.float32) -> sitk.Image:
    """A SimpleITK image with the same voxels at the same LPS positions.

    Parameters
    ----------
    volume
        Volume with three spatial axes and no channels.
    dtype
        NumPy type of the image's voxels.
    """
    image = sitk.GetImageFromArray(
        np.ascontiguousarray(volume.array.astype(dtype, copy=False).transpose(2, 1, 0))
    )
    image.SetSpacing([float(s) for s in volume.spacing])
    image.SetOrigin([float(p) for p in volume.position])
    image.SetDirection(np.asarray(volume.direction, dtype=float).ravel().tolist())
    return image


def from_sitk(image: sitk.Image, frame_of_reference_uid: str | None = None) -> hd.Volume:
    """A highdicom volume with the same voxels at the same LPS positions."""
    direction = np.asarray(image.GetDirection(), dtype=float).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing(), dtype=float)
    affine[:3, 3] = image.GetOrigin()
    return hd.Volume(
        np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0)),
        affine=affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=frame_of_reference_uid,
    )


def affine_transform(matrix_lps: np.ndarray) -> sitk.AffineTransform:
    """The ITK transform (fixed to moving points) of a 4×4 LPS matrix."""
    matrix = np.asarray(matrix_lps, dtype=float)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """The 4×4 LPS matrix of any linear ITK transform, found from where it sends four points."""
    matrix = np.eye(4)
    origin = np.asarray(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix[:3, 3] = origin
    for axis in range(3):
        point = [0.0, 0.0, 0.0]
        point[axis] = 1.0
        matrix[:3, axis] = np.asarray(transform.TransformPoint(point)) - origin
    return matrix


def resample_to(
    moving: hd.Volume,
    reference: hd.Volume,
    matrix_lps: np.ndarray | None = None,
    *,
    nearest: bool = False,
    outside: float = 0.0,
) -> hd.Volume:
    """Resample a volume onto another one's grid.

    Parameters
    ----------
    moving
        The volume to resample.
    reference
        The volume whose grid the result has.
    matrix_lps
        4×4; maps points of ``reference`` to points of ``moving``; identity when None.
    nearest
        Nearest neighbour (labels) rather than linear interpolation.
    outside
        Value where ``moving`` has no voxel.

    Returns
    -------
    highdicom.Volume
        On ``reference``'s grid, float32 (linear) or ``moving``'s own type (nearest).
    """
    matrix = np.eye(4) if matrix_lps is None else matrix_lps
    dtype = moving.array.dtype.type if nearest else np.float32
    if dtype is np.bool_:
        dtype = np.uint8
    resampled = sitk.Resample(
        to_sitk(moving, dtype),
        to_sitk_grid(reference),
        affine_transform(matrix),
        sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear,
        outside,
    )
    array = sitk.GetArrayFromImage(resampled).transpose(2, 1, 0)
    if nearest:
        array = array.astype(moving.array.dtype)
    return reference.with_array(np.ascontiguousarray(array))


def to_sitk_grid(volume: hd.Volume) -> sitk.Image:
    """An empty image with the volume's grid."""
    image = sitk.Image([int(n) for n in volume.spatial_shape], sitk.sitkUInt8)
    image.SetSpacing([float(s) for s in volume.spacing])
    image.SetOrigin([float(p) for p in volume.position])
    image.SetDirection(np.asarray(volume.direction, dtype=float).ravel().tolist())
    return image

"""From a stack to a checked volume: the only place where pixels are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from operators.dicom_loader.frames import Frame, enhanced_frames
from operators.dicom_loader.geometry import distances_mm, in_slice_order
from operators.dicom_loader.headers import PARSE_ERRORS, Unreadable, read_header
from operators.errors import InputError
from operators.messages import InstanceRef, Series, SeriesProblem

_ORIENTATION_TOLERANCE = 1e-5
"""1 - cos of 0.26 degrees: above the loader's own limit for one stack."""
_PERPENDICULAR_TOLERANCE = 0.05
_SPACING_TOLERANCE = 0.05
"""Looser than the loader's own checks, which have named what exceeds theirs."""
_POSITION_TOLERANCE_MM = 0.1
_LARGEST_VALUE = 1e12
_SMALLEST_SLOPE = 1e-12
_DECODING_ERRORS = (*PARSE_ERRORS, RuntimeError, OSError)
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_EXPORT_AGAIN = "Export the whole series from the scanner or PACS again."
_REMEDIES = {
    "missing_slices": _EXPORT_AGAIN,
    "unreadable_file": "Export or copy the file again.",
    "conflicting_duplicates": "Remove the file that does not belong to the series.",
    "duplicate_positions": "Remove the repeated images, or export the series again.",
    "mixed_echoes": "Export each echo as a complete series.",
    "localizer": "Choose a series that covers the whole head.",
    "single_slice": "Choose a series that covers the whole head.",
    "not_mr_image": "Give the original MR images.",
    "colour_image": "Give the original MR images.",
    "mosaic": "Export the series as single slices or as Enhanced MR.",
    "concatenation": "Export the series as one multi-frame file.",
    "sheared_stack": "Give the images as acquired, without gantry tilt or shear.",
}


def refuse_fatal(series: Series) -> None:
    """Raise for the first fatal problem of a series, naming all of them.

    Raises
    ------
    InputError
        Naming the series, the broken rules and the remedy.
    """
    fatal = [problem for problem in series.problems if problem.fatal]
    if fatal:
        rules = " ".join(f"{problem.message} (rule {problem.code})" for problem in fatal)
        raise InputError(series.label, rules, remedy_for(fatal[0]))


def remedy_for(problem: SeriesProblem) -> str:
    """What the user can do about a problem of a series, as a full sentence."""
    return _REMEDIES.get(problem.code, _EXPORT_AGAIN)


def read_volume(series: Series) -> tuple[hd.Volume, tuple[Dataset, ...]]:
    """Read a stack's pixels as one volume on the acquired grid.

    Stored values are rescaled with the slope and intercept of their own slice; real-world value
    maps and Philips' private scaling are not applied. MONOCHROME1 images are inverted, so that
    bright is high.

    Parameters
    ----------
    series
        A stack as :func:`~operators.dicom_loader.scan.scan_folder` returns it.

    Returns
    -------
    volume : highdicom.Volume
        float32 (slices, rows, columns), right-handed, with frame of reference; its affine maps
        voxel indices to LPS millimetres.
    headers : tuple of Dataset
        The source headers without pixel data, in the volume's slice order; one element for a
        multi-frame image.

    Raises
    ------
    InputError
        If the series has a fatal problem, a file cannot be decoded (it is named), or the values
        are constant, not finite or wrongly rescaled.
    """
    refuse_fatal(series)
    if series.attributes.enhanced:
        volume, headers = _read_multi_frame(series)
    else:
        volume, headers = _read_classic(series)
    _check_values(volume.array, series)
    return volume, headers


def _unreadable(series: Series, path: Path, error: Exception) -> InputError:
    return InputError(
        f"file {path.name} of {series.label}",
        f"Its pixel data cannot be decoded ({type(error).__name__}: truncated, damaged or in an "
        "unknown compression).",
        "Export the file again, without compression if that helps.",
    )


# --- classic ----------------------------------------------------------------------------------


def _read_classic(series: Series) -> tuple[hd.Volume, tuple[Dataset, ...]]:
    datasets = [_read_slice(series, instance) for instance in series.instances]
    first = datasets[0]
    for dataset in datasets[1:]:
        if dataset.PixelSpacing != first.PixelSpacing:
            dataset.PixelSpacing = first.PixelSpacing
    try:
        volume = hd.get_volume_from_series(
            datasets,
            dtype=np.float32,
            apply_real_world_transform=False,
            rtol=_SPACING_TOLERANCE,
            perpendicular_tol=_PERPENDICULAR_TOLERANCE,
            orientation_tol=_ORIENTATION_TOLERANCE,
        )
    except _DECODING_ERRORS as error:
        raise InputError(
            series.label, f"Its images do not form a volume ({error}).", _EXPORT_AGAIN
        ) from error
    for dataset in datasets:
        for keyword in _PIXEL_KEYWORDS:
            if keyword in dataset:
                delattr(dataset, keyword)
    _check_order(volume, [dataset.ImagePositionPatient for dataset in datasets])
    return volume, tuple(datasets)


def _read_slice(series: Series, instance: InstanceRef) -> Dataset:
    path = instance.path
    try:
        dataset = dcmread(path, force=True)
        _state_transfer_syntax(dataset)
        pixels = dataset.pixel_array
    except _DECODING_ERRORS as error:
        raise _unreadable(series, path, error) from error
    if pixels.shape != (dataset.Rows, dataset.Columns):
        raise InputError(
            f"file {path.name} of {series.label}",
            f"Its pixel data has the shape {pixels.shape}, not rows and columns.",
            _EXPORT_AGAIN,
        )
    _check_rescale(series, path, dataset)
    return dataset


def _state_transfer_syntax(dataset: Dataset) -> None:
    """Files without meta information: state the encoding in which they were found to be."""
    dataset.ensure_file_meta()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little_endian = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _check_rescale(series: Series, path: Path, dataset: Dataset) -> None:
    for keyword, name in (("RescaleSlope", "slope"), ("RescaleIntercept", "intercept")):
        if keyword not in dataset:
            continue
        try:
            number = float(str(dataset[keyword].value))
        except (ValueError, TypeError):
            number = np.nan
        if not np.isfinite(number) or abs(number) > _LARGEST_VALUE:
            wrong = f"The rescale {name} is not a plausible number ({number:g})."
        elif name == "slope" and number < _SMALLEST_SLOPE:
            wrong = f"The rescale slope is {number:g}, which removes or inverts the contrast."
        else:
            continue
        raise InputError(f"file {path.name} of {series.label}", wrong, _EXPORT_AGAIN)


# --- multi-frame ------------------------------------------------------------------------------


def _read_multi_frame(series: Series) -> tuple[hd.Volume, tuple[Dataset, ...]]:
    path = series.instances[0].path
    frames = _frames_in_order(series, path)
    facts = frames[0].facts
    distances = distances_mm(frames)
    if facts.orientation is None or facts.pixel_spacing is None or distances is None:
        raise InputError(series.label, "Its frames have no geometry.", _EXPORT_AGAIN)
    try:
        dataset = dcmread(path, force=True)
        _state_transfer_syntax(dataset)
        for frame in frames:
            _check_frame_rescale(series, path, dataset, frame)
        array = _without_dimensions(dataset).get_frames(
            [frame.number or 1 for frame in frames],
            dtype=np.float32,
            apply_real_world_transform=False,
        )
    except _DECODING_ERRORS as error:
        raise _unreadable(series, path, error) from error
    positions = [frame.position for frame in frames]
    volume = hd.Volume.from_attributes(
        array=np.ascontiguousarray(array),
        image_position=positions[0],
        image_orientation=facts.orientation,
        pixel_spacing=facts.pixel_spacing,
        spacing_between_slices=float(np.ptp(distances)) / (len(frames) - 1),
        coordinate_system="PATIENT",
        frame_of_reference_uid=facts.frame_of_reference_uid,
    )
    _check_order(volume, positions)
    return volume, (dcmread(path, stop_before_pixels=True, force=True),)


def _without_dimensions(dataset: Dataset) -> hd.Image:
    """The image without its dimension indices, whose private pointers highdicom does not accept.

    Philips writes such pointers; the frames are addressed by number here, so that none is needed.
    """
    for keyword in ("DimensionIndexSequence", "DimensionOrganizationSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    return hd.Image.from_dataset(dataset, copy=False)


def _frames_in_order(series: Series, path: Path) -> list[Frame]:
    header = read_header(path)
    if isinstance(header, Unreadable):
        raise InputError(
            f"file {path.name} of {series.label}",
            f"It can no longer be read ({header.reason}).",
            _EXPORT_AGAIN,
        )
    wanted = None if series.frame_numbers is None else set(series.frame_numbers)
    return in_slice_order(
        [frame for frame in enhanced_frames(header) if wanted is None or frame.number in wanted]
    )


def _check_frame_rescale(series: Series, path: Path, image: Dataset, frame: Frame) -> None:
    groups = [image.get("SharedFunctionalGroupsSequence", [None])[0]]
    groups.append(image.PerFrameFunctionalGroupsSequence[(frame.number or 1) - 1])
    for group in groups:
        items = None if group is None else group.get("PixelValueTransformationSequence")
        if items:
            _check_rescale(series, path, items[0])


# --- checks -----------------------------------------------------------------------------------


def _check_order(volume: hd.Volume, positions: Sequence[Sequence[float] | None]) -> None:
    """Make sure that header i belongs to slice i; anything else would misplace every result."""
    stated = np.array([[float(v) for v in position or ()] for position in positions])
    indices = np.zeros_like(stated)
    indices[:, 0] = np.arange(len(stated))
    error = float(np.abs(volume.map_indices_to_reference(indices) - stated).max())
    limit = max(_POSITION_TOLERANCE_MM, 0.5 * min(volume.spacing))
    if error > limit:
        raise RuntimeError(
            f"The volume's slices are up to {error:.2f} mm from where their headers put them."
        )


def _check_values(array: np.ndarray, series: Series) -> None:
    if not np.isfinite(array).all():
        rule = "Its pixel values are not finite numbers after rescaling."
    elif float(np.abs(array).max()) > _LARGEST_VALUE:
        rule = "Its pixel values are absurdly large after rescaling."
    elif float(np.ptp(array)) == 0.0:
        rule = f"All its pixels have the same value ({float(array.flat[0]):g})."
    else:
        return
    raise InputError(series.label, rule, _EXPORT_AGAIN)

"""One case through the application's own stages, up to the segmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.misc import is_dicom
from scipy import ndimage

from model_tools.change.chain import study_of
from model_tools.evaluate.dataset import Case
from model_tools.train.classical import without_bias
from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import InputError
from operators.geometry import from_sitk, matrix_of, resample_to, to_sitk
from operators.lesion_segmentation.grids import working_grid
from operators.messages import AlignedStudy, Registration, SelectedStudies, SelectedStudy
from operators.registration.align import align_studies
from operators.registration.linear import affine_about, coarser, like, optimise, points_of
from operators.registration.settings import RegistrationSettings
from operators.registration.template import load_template


@dataclass(frozen=True)
class Examination:
    """A case's images, related to each other.

    Attributes
    ----------
    name
        The case.
    study
        As the registration hands it on.
    reference, second_rater
        bool (i, j, k) on the grid of the study's FLAIR; None without one.
    valid
        bool (i, j, k): what counts.
    """

    name: str
    study: AlignedStudy
    reference: np.ndarray | None
    second_rater: np.ndarray | None
    valid: np.ndarray

    @cached_property
    def flat_flair(self) -> hd.Volume:
        """float32: the FLAIR at 1 mm without its bias field, positive in the brain, 0 outside."""
        volume = self.study.selected.series["flair"].volume
        grid = working_grid(self.study.brain_mask, (1.0, 1.0, 1.0))
        flair = resample_to(volume, grid).array
        inside = resample_to(self.study.brain_mask, grid).array >= 0.5
        flair = np.where(inside, flair - flair[inside].min() + 1.0, 0).astype(np.float32)
        return grid.with_array(np.where(inside, without_bias(flair, inside), 0).astype(np.float32))


def read_image(path: Path) -> hd.Volume:
    """A NIfTI file, or the one series in a folder of DICOM files, as float32 in LPS.

    Raises
    ------
    InputError
        If a folder does not hold exactly one series, or a file cannot be read.
    """
    if path.is_dir():
        series = [one for study in scan_folder(path).studies for one in study.series]
        if len(series) != 1:
            raise InputError(
                path.name,
                f"It holds {len(series)} series of images, not one.",
                "Name a folder for each series.",
            )
        return read_volume(series[0])[0]
    try:
        return from_sitk(sitk.ReadImage(str(path), sitk.sitkFloat32))
    except RuntimeError as error:
        raise InputError(path.name, "It cannot be read as an image.", "Check the file.") from error


def read_mask(path: Path, grid: hd.Volume) -> np.ndarray:
    """A mask on another image's grid, as bool; nearest voxel, so that nothing is blurred.

    Parameters
    ----------
    path
        A NIfTI file, or a DICOM SEG whose segments are taken together.
    grid
        The image.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    if is_dicom(path):
        dataset = pydicom.dcmread(path)
        if dataset.get("Modality") != "SEG":
            raise InputError(path.name, "It is no DICOM SEG.", "Give a SEG or a NIfTI mask.")
        segments = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        found = segments.get_volume(combine_segments=True, skip_overlap_checks=True)
        mask = found.with_array((found.array > 0).astype(np.float32))
    else:
        mask = read_image(path)
    return np.asarray(resample_to(mask, grid, nearest=True).array > 0.5)


def prepare(
    case: Case,
    settings: RegistrationSettings,
    known: Callable[[SelectedStudy], AlignedStudy | None] = lambda _: None,
) -> Examination:
    """Read a case and relate its images to its FLAIR.

    With ``case.aligned`` the images are not registered; without ``case.brain`` they are then taken
    to be 0 outside the brain.

    Parameters
    ----------
    case
        The case.
    settings
        Of the registration.
    known
        Gives what an earlier call related, if anything.

    Raises
    ------
    InputError
        If an image cannot be read or there is no FLAIR or no brain.
    """
    volumes = {role: read_image(path) for role, path in case.images.items()}
    if "flair" not in volumes:
        raise InputError(case.name, "It has no FLAIR.", "Add a column flair.")
    flair = volumes["flair"]
    selected = study_of(volumes, 2, current=True)
    earlier = known(selected)
    if earlier is not None:
        study = earlier
    elif case.aligned:
        brain = (
            read_mask(case.brain, flair)
            if case.brain is not None
            else ndimage.binary_fill_holes(flair.array != 0)
        )
        mask = selected.series["flair"].volume.with_array(brain)
        study = AlignedStudy(
            selected=selected,
            to_flair={role: _identity() for role in volumes if role != "flair"},
            brain_mask=mask,
            template_to_flair=match_brain(flair, mask, settings, case.name),
        )
    else:
        study = align_studies(SelectedStudies(selected, None, ()), settings).current
        if case.brain is not None:
            mask = study.brain_mask.with_array(read_mask(case.brain, flair))
            study = dataclasses.replace(study, brain_mask=mask)

    def mask_of(path: Path | None) -> np.ndarray | None:
        return None if path is None else read_mask(path, flair)

    ignored = mask_of(case.ignore)
    return Examination(
        name=case.name,
        study=study,
        reference=mask_of(case.reference),
        second_rater=mask_of(case.second_rater),
        valid=np.ones(flair.spatial_shape, bool) if ignored is None else ~ignored,
    )


def match_brain(
    flair: hd.Volume, brain: hd.Volume, settings: RegistrationSettings, subject: str
) -> np.ndarray:
    """Match the ICBM template to a FLAIR whose brain is known.

    The application matches a whole head, which a skull-stripped image does not show. Centre and
    size of the two brains give the start; then affine, by mutual information inside the template's
    brain, everything outside either brain 0.

    Returns
    -------
    numpy.ndarray
        float64 (4, 4): FLAIR points to points of the template, LPS.

    Raises
    ------
    InputError
        If the mask is empty.
    """
    if not brain.array.any():
        raise InputError(subject, "Its brain mask is empty.", "Give a column brain.")
    template = load_template()
    mask = to_sitk(template.mask, np.uint8)
    expected = to_sitk(template.flair.with_array(template.flair.array * template.mask.array))
    stripped = to_sitk(flair.with_array(np.where(brain.array, flair.array, 0).astype(np.float32)))
    theirs = points_of(mask, template.mask.array.transpose(2, 1, 0))[:3]
    ours = points_of(stripped, brain.array.transpose(2, 1, 0).astype(bool))[:3]
    ratio = ours.shape[1] * float(np.prod(flair.spacing)) / theirs.shape[1]
    matrix = np.eye(4)
    matrix[:3, :3] *= ratio ** (1 / 3)
    centre = theirs.mean(axis=1)
    matrix[:3, 3] = ours.mean(axis=1) - matrix[:3, :3] @ centre
    for spacing_mm in (6.0, 4.0):
        fixed = coarser(expected, spacing_mm)
        transform, _ = optimise(
            fixed,
            coarser(stripped, spacing_mm),
            sitk.BinaryDilate(like(mask, fixed), [1, 1, 1]),
            affine_about(matrix, centre),
            settings,
            iterations=80,
            first_step_mm=1.0,
            last_step_mm=0.02,
        )
        matrix = matrix_of(transform)
    return np.asarray(np.linalg.inv(matrix))


def _identity() -> Registration:
    return Registration(np.eye(4), 0.0, 0.0, float("nan"), True)


def spacing(examination: Examination) -> tuple[float, ...]:
    """Voxel size in mm along i, j, k."""
    return tuple(float(step) for step in examination.study.brain_mask.spacing)

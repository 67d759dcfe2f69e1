"""One case through the application's own stages, up to the outlined mask."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage

from model_tools.change.chain import study_of
from model_tools.evaluate.dataset import Case
from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import InputError
from operators.geometry import from_sitk, resample_to
from operators.lesion_segmentation.model_package import ModelPackage
from operators.lesion_segmentation.segmentation import EngineSource, segment_study
from operators.lesion_segmentation.settings import LesionSegmentationSettings
from operators.messages import AlignedStudy, Registration, SelectedStudies
from operators.registration.align import align_studies
from operators.registration.settings import RegistrationSettings


@dataclass(frozen=True)
class Examination:
    """A case's images, related to each other.

    Attributes
    ----------
    study
        As the registration hands it on.
    reference, second_rater
        bool (i, j, k) on the grid of the study's FLAIR; the latter None without one.
    """

    study: AlignedStudy
    reference: np.ndarray
    second_rater: np.ndarray | None


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
    """A mask on another image's grid, as bool; nearest voxel, so that nothing is blurred."""
    return np.asarray(resample_to(read_image(path), grid, nearest=True).array > 0.5)


def prepare(case: Case, settings: RegistrationSettings) -> Examination:
    """Read a case and relate its images to its FLAIR.

    With ``case.aligned`` nothing is registered; without ``case.brain`` the images are then taken to
    be 0 outside the brain.

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
    if case.aligned:
        brain = (
            read_mask(case.brain, flair)
            if case.brain is not None
            else ndimage.binary_fill_holes(flair.array != 0)
        )
        study = AlignedStudy(
            selected=selected,
            to_flair={role: _identity() for role in volumes if role != "flair"},
            brain_mask=selected.series["flair"].volume.with_array(brain),
            template_to_flair=np.eye(4),
        )
    else:
        aligned = align_studies(SelectedStudies(selected, None, ()), settings)
        study = aligned.current
        if case.brain is not None:
            mask = study.brain_mask.with_array(read_mask(case.brain, flair))
            study = dataclasses.replace(study, brain_mask=mask)
    return Examination(
        study=study,
        reference=read_mask(case.reference, flair),
        second_rater=None if case.second_rater is None else read_mask(case.second_rater, flair),
    )


def _identity() -> Registration:
    return Registration(np.eye(4), 0.0, 0.0, float("nan"), True)


def outline(
    examination: Examination,
    package: ModelPackage,
    engines: EngineSource,
    settings: LesionSegmentationSettings,
) -> np.ndarray:
    """The model's mask, bool on the FLAIR's grid."""
    found, _ = segment_study(examination.study, package, engines, settings)
    return np.asarray(found.probability.array > found.threshold)


def spacing(examination: Examination) -> tuple[float, ...]:
    """Voxel size in mm along i, j, k."""
    return tuple(float(step) for step in examination.study.brain_mask.spacing)

"""Studies to calibrate and to try an int8 network on, as the application's own stages see them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import highdicom as hd
import numpy as np
from scipy import ndimage

from app.config import AppSettings
from model_tools.change.chain import align_alone
from model_tools.evaluate.examination import read_image
from operators.dicom_loader.scan import scan_folder
from operators.dicom_loader.volume import read_volume
from operators.errors import ConfigurationError, InputError
from operators.lesion_segmentation.model_package import ModelDescription
from operators.lesion_segmentation.segmentation import usable_roles
from operators.messages import (
    AlignedStudy,
    Registration,
    SelectedSeries,
    SelectedStudy,
    Series,
    SeriesAttributes,
    Study,
)
from operators.series_selector.selection import select_studies

_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})\.nii(\.gz)?")
_LARGEST_BRAIN = 0.9
"""Share of the image that is not 0, above which it is not taken for skull-stripped."""


@dataclass(frozen=True)
class TrialStudy:
    """One study, aligned.

    Attributes
    ----------
    title
        What it is, without anything that names a patient, as "0.9 × 0.9 × 3.0 mm".
    fingerprint
        Hash of its images' voxels: the same study again, however it is wrapped.
    study
        As the registration hands it on.
    """

    title: str
    fingerprint: str
    study: AlignedStudy


def read_studies(
    folder: Path, description: ModelDescription, settings: AppSettings
) -> tuple[TrialStudy, ...]:
    """Every study in a folder that has the package's series.

    Parameters
    ----------
    folder
        DICOM of one patient, read by the application's loader, selector and registration; or
        images as nnU-Net keeps them (``CASE_0000.nii.gz`` …, channels in the package's order, all
        on one grid, and 0 outside the brain where the package was trained so).
    description
        Of the package.
    settings
        The validated app.yaml.

    Raises
    ------
    InputError
        If the folder holds no study with the package's series, or an image cannot be read.
    """
    if not folder.is_dir():
        raise InputError(folder.name, "It is not a folder.", "Give a folder with studies.")
    cases = _nnunet_cases(folder)
    if cases:
        found = [_from_channels(name, files, description) for name, files in cases.items()]
    else:
        found = _from_dicom(folder, description, settings)
    if not found:
        raise InputError(
            folder.name,
            f"It holds no study with the series that the package needs "
            f"({', '.join(c.role for c in description.channels)}).",
            "Give studies that the application could segment with this package.",
        )
    return tuple(_titled(study, [c.role for c in description.channels]) for study in found)


def check_held_out(calibration: Sequence[TrialStudy], held_out: Sequence[TrialStudy]) -> None:
    """Refuse a study that stands twice.

    Raises
    ------
    ConfigurationError
        If a study is given twice or both to calibrate and to validate.
    """
    known = {study.fingerprint for study in calibration}
    shared = sum(study.fingerprint in known for study in held_out)
    if shared:
        raise ConfigurationError(
            "--validate",
            f"{shared} of its studies are also among those of --calibrate.",
            "Hold other patients' studies out: an int8 network must be tried on what it has not "
            "seen.",
        )
    for option, studies in (("--calibrate", calibration), ("--validate", held_out)):
        if len({study.fingerprint for study in studies}) != len(studies):
            raise ConfigurationError(option, "A study is given twice.", "Give each study once.")


def _titled(study: AlignedStudy, roles: Sequence[str]) -> TrialStudy:
    digest = hashlib.sha256()
    for role in roles:
        volume = study.selected.series[role].volume
        values = np.asarray(volume.array, dtype=np.float32)
        digest.update(f"{role} {sorted(values.shape)}".encode())
        digest.update(np.sort(values, axis=None)[:: max(1, values.size // 100_000)].tobytes())
    spacing = " × ".join(f"{step:.1f}" for step in sorted(study.brain_mask.spacing))
    return TrialStudy(f"{spacing} mm", digest.hexdigest(), study)


# --- DICOM ------------------------------------------------------------------------------------


def _from_dicom(
    folder: Path, description: ModelDescription, settings: AppSettings
) -> list[AlignedStudy]:
    collection = scan_folder(folder, settings.dicom_loader)
    chosen = select_studies(collection, settings.series_selector, read_volume, date.today())
    studies = [chosen.current, *([chosen.prior] if chosen.prior else []), *chosen.earlier]
    needed = {channel.role for channel in description.channels}
    aligned = [
        align_alone(study, settings.registration)
        for study in studies
        if needed <= set(study.series)
    ]
    return [study for study in aligned if needed <= usable_roles(study)]


# --- nnU-Net's images -------------------------------------------------------------------------


def _nnunet_cases(folder: Path) -> dict[str, dict[int, Path]]:
    cases: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _CHANNEL_FILE.fullmatch(path.name)
        if match:
            cases.setdefault(match["case"], {})[int(match["channel"])] = path
    return cases


def _from_channels(
    name: str, files: Mapping[int, Path], description: ModelDescription
) -> AlignedStudy:
    roles = [channel.role for channel in description.channels]
    if sorted(files) != list(range(len(roles))):
        raise InputError(
            name,
            f"It has the channels {', '.join(f'{n:04d}' for n in sorted(files))}; the package "
            f"takes {len(roles)} ({', '.join(roles)}).",
            "Give images with the package's channels, in its order.",
        )
    volumes = {role: read_image(files[number]) for number, role in enumerate(roles)}
    reference = volumes[description.reference_role]
    for role, volume in volumes.items():
        if volume.spatial_shape != reference.spatial_shape or not np.allclose(
            volume.affine, reference.affine, atol=1e-3
        ):
            raise InputError(
                files[roles.index(role)].name,
                "It lies on another grid than the case's other channels.",
                "Give images as nnU-Net was trained on: one grid for all channels of a case.",
            )
    shown = np.any([volume.array != 0 for volume in volumes.values()], axis=0)
    brain = ndimage.binary_fill_holes(shown)
    if description.brain_only and brain.mean() > _LARGEST_BRAIN:
        raise InputError(
            name,
            "Its images are not 0 outside the brain, and the package was trained on such.",
            "Give skull-stripped images, or DICOM, whose brain the application finds itself.",
        )
    return aligned_as_given(volumes, reference.with_array(brain))


def aligned_as_given(volumes: Mapping[str, hd.Volume], brain: hd.Volume) -> AlignedStudy:
    """Images that lie on one grid already, as the registration hands a study on.

    Parameters
    ----------
    volumes
        By role, on one grid.
    brain
        bool, on that grid.
    """

    def placed(volume: hd.Volume) -> hd.Volume:
        return hd.Volume(
            volume.array,
            affine=volume.affine,
            coordinate_system="PATIENT",
            frame_of_reference_uid="1.2.3",
        )

    selected = {}
    for number, (role, volume) in enumerate(volumes.items(), start=1):
        series = Series(
            series_uid=f"1.2.{number}",
            stack="",
            study_uid="1.2",
            frame_of_reference_uid="1.2.3",
            attributes=SeriesAttributes(modality="MR", series_number=number),
            instances=(),
            frame_numbers=None,
        )
        selected[role] = SelectedSeries(role, "given", series, placed(volume), ())
    study = Study("1.2", "given", None, None, tuple(s.series for s in selected.values()))
    anchor = "flair" if "flair" in selected else next(iter(selected))
    same = Registration(np.eye(4), 0.0, 0.0, float("nan"), True)
    return AlignedStudy(
        selected=SelectedStudy(study, selected, (), 0),
        to_flair={role: same for role in selected if role != anchor},
        brain_mask=placed(brain),
        template_to_flair=np.eye(4),
    )

"""The real patients of open_ms_data as volumes, with the data set's own masks and transforms.

``studyX_FLAIR_to_common_space`` maps points of the patient's common space to points of the raw
FLAIR, and ``…_intrastudy_to_FLAIR`` FLAIR points to T1 or T2 points; the brain mask lies in the
common space.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from operators.geometry import matrix_of, resample_to
from operators.messages import (
    SelectedSeries,
    SelectedStudy,
    Series,
    SeriesAttributes,
    Study,
)
from operators.registration.brain_mask import BrainMask, find_brain
from operators.registration.settings import RegistrationSettings

SETTINGS = RegistrationSettings()
_FILES = {"flair": "FLAIR", "t2": "T2W", "t1": "T1W"}


def volume_of(path: Path) -> hd.Volume:
    """A NIfTI file as a volume in LPS, float32."""
    image = nib.load(path)
    return hd.Volume(
        np.ascontiguousarray(np.asarray(image.dataobj), dtype=np.float32),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine,
        coordinate_system="PATIENT",
    )


class Patient:
    """One study of one patient."""

    def __init__(self, open_ms: Path, patient: str, study: int) -> None:
        self.folder = open_ms / "longitudinal" / f"patient{patient}"
        self.study = study

    def has(self, role: str) -> bool:
        return (self.folder / f"study{self.study}_{_FILES[role]}.nii.gz").is_file()

    def volume(self, role: str) -> hd.Volume:
        return volume_of(self.folder / f"study{self.study}_{_FILES[role]}.nii.gz")

    def flair_to(self, role: str) -> np.ndarray:
        """The data set's transform from FLAIR points to T1 or T2 points."""
        return self._transform(f"study{self.study}_{_FILES[role]}_intrastudy_to_FLAIR.txt")

    def common_to_flair(self) -> np.ndarray:
        return self._transform(f"study{self.study}_FLAIR_to_common_space.txt")

    def reference_mask(self) -> np.ndarray:
        """The data set's brain mask on the FLAIR's grid, bool."""
        mask = resample_to(
            volume_of(self.folder / "brainmask.nii.gz"),
            self.volume("flair"),
            np.linalg.inv(self.common_to_flair()),
            nearest=True,
        )
        return mask.array > 0

    def selected(self) -> SelectedStudy:
        """All series of the study as the selector would hand them on."""
        roles = [role for role in _FILES if self.has(role)]
        return selected_study({role: self.volume(role) for role in roles})

    def _transform(self, name: str) -> np.ndarray:
        return matrix_of(sitk.ReadTransform(str(self.folder / name)))


@cache
def patient(open_ms: Path, number: str, study: int) -> Patient:
    return Patient(open_ms, number, study)


@cache
def brain_of(who: Patient) -> BrainMask:
    """The brain found in a patient's FLAIR, once per process."""
    return find_brain(who.volume("flair"), SETTINGS, "FLAIR")


def distances(matrix: np.ndarray, truth: np.ndarray, mask: hd.Volume) -> tuple[float, float]:
    """Mean and largest distance in millimetres between two transforms over a mask."""
    index = np.argwhere(mask.array)[::7]
    points = np.asarray(mask.affine) @ np.c_[index, np.ones(len(index))].T
    apart = np.linalg.norm(((matrix - truth) @ points)[:3], axis=0)
    return float(apart.mean()), float(apart.max())


def selected_study(volumes: dict[str, hd.Volume]) -> SelectedStudy:
    """A study with the given images, without headers."""
    series = {
        role: SelectedSeries(
            role=role,
            reason="test",
            series=Series(
                f"1.2.{number}",
                "",
                "1.2",
                "1.2.3",
                SeriesAttributes("MR", series_number=number),
                (),
                None,
            ),
            volume=volume,
            headers=(),
        )
        for number, (role, volume) in enumerate(volumes.items(), 1)
    }
    return SelectedStudy(Study("1.2", "key", None, None, ()), series, (), 0)

"""What is known about a synthetic patient: lesions, head motion and the voxels they fill.

A truth folder holds ``truth.json`` and NIfTI label images; everything is in LPS millimetres except
the NIfTI affines, which are RAS as that format demands.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import numpy.typing as npt

from demo.patient import ScannedStudy, SyntheticPatient, lesion_labels

Matrix = npt.NDArray[np.float64]
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class TrueLesion:
    """One planted lesion."""

    number: int
    """Its value in the label images."""
    region: str
    change: str
    """What a comparison of the two studies should say; "baseline" without a prior study."""
    volume_mm3: float
    """Now, of the exact shape; 0 when resolved."""
    prior_volume_mm3: float | None
    """Before, of the exact shape; None without a prior study."""
    voxel_volume_mm3: float
    """Now, of the voxels of the current FLAIR that are at least half lesion."""
    prior_voxel_volume_mm3: float | None
    """Before, likewise on the prior FLAIR's grid."""
    centroid_lps_mm: tuple[float, float, float]
    """Centre of mass in the current FLAIR's frame (of the prior shape when resolved)."""
    prior_centroid_lps_mm: tuple[float, float, float] | None
    """Centre of mass in the prior FLAIR's frame (of the current shape when new)."""


@dataclass(frozen=True)
class Truth:
    """Everything that is known about a synthetic patient."""

    seed: int
    study_uids: tuple[str, ...]
    """Current, then prior."""
    interval_days: int | None
    lesions: tuple[TrueLesion, ...]
    transforms: dict[str, Matrix]
    """4×4 LPS by name, as in results.json: ``t1_to_flair``, ``t2_to_flair`` and
    ``prior_flair_to_flair``, ``prior_t1_to_flair``, ``prior_t2_to_flair`` map points of the
    current FLAIR to points of that image; ``anatomy_to_flair`` maps points of the template-like
    anatomy to the current FLAIR."""
    labels: hd.Volume
    """uint8 on the current FLAIR's grid."""
    prior_labels: hd.Volume | None
    """uint8 on the prior FLAIR's grid."""

    def present(self) -> tuple[TrueLesion, ...]:
        """The lesions of the current study."""
        return tuple(lesion for lesion in self.lesions if lesion.volume_mm3 > 0.0)


def truth_of(patient: SyntheticPatient) -> Truth:
    """Collect the truth of a patient made by ``demo.patient.make_patient``.

    Raises
    ------
    KeyError
        When a study has no FLAIR.
    """
    current, prior = patient.current, patient.prior
    labels = _labels(current)
    prior_labels = _labels(prior) if prior else None
    flair = current.acquisitions["flair"]
    to_flair = flair.pose
    transforms = {"anatomy_to_flair": to_flair}
    from_flair = np.linalg.inv(to_flair)
    for study, prefix in ((current, ""), (prior, "prior_")):
        for role, acquisition in study.acquisitions.items() if study else ():
            if study is prior or role != "flair":
                transforms[f"{prefix}{role}_to_flair"] = acquisition.pose @ from_flair
    prior_pose = prior.acquisitions["flair"].pose if prior else None
    lesions = []
    for lesion in patient.lesions:
        now, before = lesion.plan.now_mm3, lesion.plan.before_mm3
        if prior is None and now == 0.0:
            continue
        here = _point(to_flair, lesion.centroid(now or before))
        there = None
        if prior_pose is not None:
            there = _point(prior_pose, lesion.centroid(before or now))
        lesions.append(
            TrueLesion(
                lesion.number,
                lesion.plan.region,
                lesion.plan.change if prior else "baseline",
                now,
                before if prior else None,
                _voxel_volume(labels, lesion.number),
                _voxel_volume(prior_labels, lesion.number) if prior_labels else None,
                here,
                there,
            )
        )
    return Truth(
        patient.seed,
        tuple(s.study_uid for s in patient.studies),
        (current.acquired - prior.acquired).days if prior else None,
        tuple(lesions),
        transforms,
        labels,
        prior_labels,
    )


def save_truth(truth: Truth, folder: Path) -> Path:
    """Write ``truth.json``, ``lesions.nii.gz`` and, for two studies, ``prior_lesions.nii.gz``.

    Returns
    -------
    pathlib.Path
        The JSON file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        "conventions": "LPS millimetres; matrices map points of the fixed image (the FLAIR) to "
        "points of the moving one, row by row; label images are NIfTI (RAS affines)",
        "seed": truth.seed,
        "study_uids": list(truth.study_uids),
        "interval_days": truth.interval_days,
        "lesions": [asdict(lesion) for lesion in truth.lesions],
        "transforms": {name: matrix.tolist() for name, matrix in truth.transforms.items()},
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _save_labels(truth.labels, folder / "lesions.nii.gz")
    if truth.prior_labels is not None:
        _save_labels(truth.prior_labels, folder / "prior_lesions.nii.gz")
    return path


def load_truth(folder: Path) -> Truth:
    """Read what ``save_truth`` wrote.

    Raises
    ------
    FileNotFoundError
        When the folder is not a truth folder.
    """
    content = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    prior_path = folder / "prior_lesions.nii.gz"
    lesions = []
    for item in content["lesions"]:
        for key in ("centroid_lps_mm", "prior_centroid_lps_mm"):
            item[key] = None if item[key] is None else tuple(item[key])
        lesions.append(TrueLesion(**item))
    return Truth(
        content["seed"],
        tuple(content["study_uids"]),
        content["interval_days"],
        tuple(lesions),
        {name: np.asarray(matrix) for name, matrix in content["transforms"].items()},
        _load_labels(folder / "lesions.nii.gz"),
        _load_labels(prior_path) if prior_path.exists() else None,
    )


def _labels(study: ScannedStudy) -> hd.Volume:
    flair = study.acquisitions["flair"]
    return lesion_labels(study, flair.volume, flair.pose)


def _point(matrix: Matrix, point: Matrix) -> tuple[float, float, float]:
    x, y, z = (matrix @ np.append(point, 1.0))[:3]
    return float(x), float(y), float(z)


def _voxel_volume(labels: hd.Volume, number: int) -> float:
    return float((labels.array == number).sum() * labels.voxel_volume)


def _save_labels(labels: hd.Volume, path: Path) -> None:
    image: Any = nib.Nifti1Image(labels.array, _RAS @ np.asarray(labels.affine))  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _load_labels(path: Path) -> hd.Volume:
    image: Any = nib.load(path)
    return hd.Volume(
        np.asarray(image.dataobj).astype(np.uint8),
        affine=_RAS @ image.affine,
        coordinate_system="PATIENT",
    )

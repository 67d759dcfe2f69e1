"""The synthetic patient: who, what was planted, how the head moved, and what the scanner saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

import highdicom as hd
import numpy as np
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import generate_uid

from demo.acquisition import (
    Acquisition,
    Contrast,
    Matrix,
    Prescription,
    head_image,
    lesion_fraction,
    rigid,
    scan,
)
from demo.anatomy import TissueIntensity, build_anatomy
from demo.lesions import DEFAULT_PLAN, LesionPlan, PlantedLesion, plant

ROLES = ("flair", "t2", "t1")

FLAIR = Contrast(
    "FLAIR",
    TissueIntensity(300, 335, 50, 428, 14, 80, 95, 120, 80, 45),
    repetition_time_ms=9000.0,
    echo_time_ms=120.0,
    inversion_time_ms=2500.0,
    flip_angle_deg=150.0,
    echo_train_length=16,
)
T2 = Contrast(
    "T2",
    TissueIntensity(240, 330, 850, 430, 16, 160, 330, 150, 210, 880),
    repetition_time_ms=5200.0,
    echo_time_ms=98.0,
    inversion_time_ms=None,
    flip_angle_deg=150.0,
    echo_train_length=14,
)
T1 = Contrast(
    "T1",
    TissueIntensity(520, 370, 130, 370, 25, 420, 760, 300, 380, 140),
    repetition_time_ms=2300.0,
    echo_time_ms=2.98,
    inversion_time_ms=900.0,
    flip_angle_deg=9.0,
    echo_train_length=1,
)
CONTRASTS = {"flair": FLAIR, "t2": T2, "t1": T1}
NOISE = {"flair": 13.0, "t2": 12.0, "t1": 16.0}

PRESCRIPTIONS = (
    {
        "flair": Prescription(
            "axial", 240, 224, 56, 0.94, 0.86, 3.0, (-9.0, 2.5, 3.0), (2.0, 12.0, 8.0)
        ),
        "t2": Prescription(
            "axial", 300, 260, 54, 0.75, 0.75, 3.0, (-8.0, 2.0, 2.0), (1.0, 12.0, 8.0)
        ),
        "t1": Prescription(
            "sagittal", 240, 240, 160, 1.0, 1.0, 1.1, (1.5, 1.0, -2.5), (1.0, 8.0, -18.0), True
        ),
    },
    {
        "flair": Prescription(
            "axial", 232, 216, 58, 0.96, 0.89, 3.0, (-14.0, -3.0, -1.5), (-3.0, 16.0, 10.0)
        ),
        "t2": Prescription(
            "axial", 300, 260, 56, 0.75, 0.75, 3.0, (-13.0, -2.5, -1.0), (-3.0, 16.0, 9.0)
        ),
        "t1": Prescription(
            "sagittal", 240, 240, 160, 1.0, 1.0, 1.1, (-2.0, -1.5, 2.0), (-3.0, 12.0, -16.0), True
        ),
    },
)
_HEAD_POSES = (
    rigid((2.0, -1.5, 1.0), (1.5, -2.0, 3.0)),
    rigid((-3.5, 2.0, -4.0), (-4.0, 3.5, 6.0)),
)
SEQUENCE_MOTION = (
    {
        "flair": np.eye(4),
        "t2": rigid((0.3, -0.4, 0.2), (0.5, -0.3, 0.4)),
        "t1": rigid((-0.6, 0.5, 0.8), (-0.7, 0.9, 0.6)),
    },
    {
        "flair": np.eye(4),
        "t2": rigid((-0.4, 0.3, 0.5), (-0.4, 0.5, -0.6)),
        "t1": rigid((0.7, -0.3, -0.5), (0.8, -0.5, 0.9)),
    },
)
"""First the current study, then the prior one."""
_VOXEL_ERROR = 0.05
"""Largest difference between a lesion's volume and that of the voxels that are mostly lesion."""


@dataclass(frozen=True)
class Person:
    """Who is scanned; the defaults are invented."""

    family_name: str = "Sørensen"
    given_name: str = "Åse"
    patient_id: str = "DEMO-4711"
    sex: str = "F"
    born: date | None = date(1984, 5, 2)
    weight_kg: float | None = 63.5
    height_m: float | None = 1.68


@dataclass(frozen=True)
class ScannedStudy:
    """One time point."""

    index: int
    """0 for the current study, 1 for the prior one."""
    acquired: date
    study_uid: str
    frame_of_reference_uid: str
    acquisitions: dict[str, Acquisition]
    """By role."""
    lesions: tuple[tuple[PlantedLesion, float], ...]
    """The lesions present and their volume in mm³."""


@dataclass(frozen=True)
class SyntheticPatient:
    """A patient with known truth."""

    seed: int
    person: Person
    lesions: tuple[PlantedLesion, ...]
    studies: tuple[ScannedStudy, ...]
    """The current study first; then the prior one, if any."""
    heads: dict[str, sitk.Image]
    """Signal of the head without lesions by contrast, in the anatomy's frame."""

    @property
    def current(self) -> ScannedStudy:
        """The later study."""
        return self.studies[0]

    @property
    def prior(self) -> ScannedStudy | None:
        """The earlier study, if there is one."""
        return self.studies[1] if len(self.studies) > 1 else None


def make_patient(
    seed: int = 1,
    *,
    plan: Sequence[LesionPlan] = DEFAULT_PLAN,
    studies: int = 2,
    roles: Sequence[str] = ROLES,
    interval_days: int = 399,
    head_poses: Sequence[Matrix] = _HEAD_POSES,
    noise_factor: float = 1.0,
) -> SyntheticPatient:
    """Make a patient and scan them.

    Parameters
    ----------
    seed
        Decides the brain, the lesions' shapes and places, bias fields and noise; the same seed
        gives the same voxels.
    plan
        The lesions; an empty one gives a patient without lesions.
    studies
        1 for a baseline, 2 for a follow-up.
    roles
        Which of "flair", "t2" and "t1" are scanned.
    interval_days
        Between the studies.
    head_poses
        4×4 LPS matrices, the anatomy's frame to the scanner's, of the current and the prior study.
    noise_factor
        Factor on the usual noise.

    Returns
    -------
    SyntheticPatient
        With pixels; write it with ``demo.synthetic.write_patient``.

    Raises
    ------
    ValueError
        For a number of studies other than 1 and 2 or an unknown role.
    """
    if studies not in (1, 2):
        raise ValueError("a synthetic patient has one or two studies")
    if unknown := set(roles) - set(ROLES):
        raise ValueError(f"unknown roles: {sorted(unknown)}")
    anatomy = build_anatomy(seed)
    poses = [
        {role: SEQUENCE_MOTION[index][role] @ head_poses[index] for role in ROLES}
        for index in range(2)
    ]
    lesions = plant(anatomy, plan, seed, lambda lesion: _seen_whole(lesion, poses))
    heads = {role: head_image(anatomy, CONTRASTS[role]) for role in ROLES}
    scanned = []
    for index in range(studies):
        frame_uid = make_uid(seed, "frame", index)
        present = tuple(
            (lesion, volume)
            for lesion in lesions
            if (volume := lesion.plan.before_mm3 if index else lesion.plan.now_mm3) > 0.0
        )
        acquisitions = {}
        for role in roles:
            pose = poses[index][role]
            prescription = PRESCRIPTIONS[index][role]
            acquisitions[role] = Acquisition(
                role,
                CONTRASTS[role],
                prescription,
                pose,
                scan(
                    heads[role],
                    present,
                    CONTRASTS[role],
                    prescription,
                    pose,
                    noise=NOISE[role] * noise_factor,
                    gain=(1.0, 1.17)[index],
                    rng=np.random.default_rng([seed, 10 + index, ROLES.index(role)]),
                    frame_of_reference_uid=frame_uid,
                ),
            )
        scanned.append(
            ScannedStudy(
                index,
                date.fromordinal(date(2025, 4, 16).toordinal() - index * interval_days),
                make_uid(seed, "study", index),
                frame_uid,
                acquisitions,
                present,
            )
        )
    return SyntheticPatient(
        seed,
        Person(),
        lesions,
        tuple(scanned),
        heads,
    )


def _seen_whole(lesion: PlantedLesion, poses: Sequence[Mapping[str, Matrix]]) -> bool:
    """Whether both FLAIR grids can show a lesion's volume.

    A voxel is lesion when at least half of it is. In slices of 3 mm that alone can miss a third of
    a small lesion; such a lesion would say nothing about a program that measures voxels.
    """
    for volume, prescriptions, pose in zip(
        (lesion.plan.now_mm3, lesion.plan.before_mm3), PRESCRIPTIONS, poses, strict=True
    ):
        if volume == 0.0:
            continue
        grid = prescriptions["flair"]
        affine = grid.affine()
        found = lesion_fraction(lesion, volume, affine, grid.shape, pose["flair"], profile=False)
        if found is None:
            return False
        voxels = float((found[1] >= 0.5).sum() * abs(np.linalg.det(affine[:3, :3])))
        if abs(voxels / volume - 1.0) > _VOXEL_ERROR:
            return False
    return True


def make_uid(seed: int, *what: object) -> str:
    """A UID that depends on nothing but its arguments."""
    return str(generate_uid(entropy_srcs=["ms-lesion-followup demo", str(seed), *map(str, what)]))


def with_roles(patient: SyntheticPatient, roles: Sequence[str]) -> SyntheticPatient:
    """The same patient with fewer sequences, without scanning again."""
    studies = tuple(
        replace(s, acquisitions={r: a for r, a in s.acquisitions.items() if r in roles})
        for s in patient.studies
    )
    return replace(patient, studies=studies)


def with_studies(patient: SyntheticPatient, count: int) -> SyntheticPatient:
    """The same patient with the current study only (1) or both (2)."""
    return replace(patient, studies=patient.studies[:count])


def lesion_labels(study: ScannedStudy, grid: hd.Volume, pose: Matrix) -> hd.Volume:
    """The voxels of which at least half is lesion.

    Parameters
    ----------
    study
        The time point whose lesions are meant.
    grid
        Any volume; its grid is used.
    pose
        Anatomy's frame to the grid's LPS frame.

    Returns
    -------
    highdicom.Volume
        uint8 on the grid: the lesion's number, 0 elsewhere.
    """
    labels = np.zeros(grid.spatial_shape, np.uint8)
    for lesion, volume in study.lesions:
        found = lesion_fraction(
            lesion, volume, np.asarray(grid.affine), grid.spatial_shape, pose, profile=False
        )
        if found is not None:
            box, fraction = found
            labels[box][fraction >= 0.5] = lesion.number
    return grid.with_array(labels)

"""A synthetic patient over five studies, with lesions that grow, merge, split, go and come back.

A lesion that merges or splits is made of two bodies that touch in some studies and not in others.
What is one lesion in a study is therefore decided by the bodies' voxels; who descends from whom
follows from the bodies that two lesions share.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import numpy as np
from scipy import ndimage

from demo.acquisition import Acquisition, Matrix, head_image, lesion_fraction, rigid, scan
from demo.anatomy import Anatomy, build_anatomy
from demo.lesions import (
    LesionPlan,
    PlantedLesion,
    Region,
    clear_of_others,
    find_sites,
    plant,
    plant_beside,
)
from demo.patient import (
    CONTRASTS,
    NOISE,
    PRESCRIPTIONS,
    ROLES,
    SEQUENCE_MOTION,
    Person,
    ScannedStudy,
    SyntheticPatient,
    lesion_labels,
    make_uid,
)

STUDIES = 5
_DAYS = (1490, 1105, 742, 371, 0)
"""Of each study before the current one, oldest first."""
_POSES = (
    rigid((1.0, 2.5, -2.0), (3.0, 1.0, -4.0)),
    rigid((-2.0, -1.0, 3.5), (-2.5, 4.0, 2.0)),
    rigid((3.0, 1.5, 1.0), (0.5, -3.0, 5.0)),
    rigid((-3.5, 2.0, -4.0), (-4.0, 3.5, 6.0)),
    rigid((2.0, -1.5, 1.0), (1.5, -2.0, 3.0)),
)
_GAINS = (0.92, 1.08, 1.0, 1.17, 1.0)
_APART_MM = 3.0
"""At least this far apart are two bodies that are not one lesion."""
_SHARED_VOXELS = 12
"""Two bodies that are one lesion share so many voxels: what only touches may part by noise."""


@dataclass(frozen=True)
class Course:
    """A body through the studies, oldest first."""

    region: Region
    volumes_mm3: tuple[float, float, float, float, float]
    partner: tuple[float, float, float, float, float] | None = None
    """Volumes of a second body beside it."""
    distance_mm: float = 0.0
    """Between the centres of both."""


DEFAULT_COURSES: tuple[Course, ...] = (
    Course("periventricular", (600.0, 600.0, 600.0, 600.0, 600.0)),
    Course("periventricular", (240.0, 240.0, 400.0, 400.0, 680.0)),
    Course("periventricular", (0.0, 0.0, 340.0, 340.0, 340.0)),
    Course("juxtacortical", (0.0, 0.0, 0.0, 0.0, 280.0)),
    Course("juxtacortical", (320.0, 320.0, 320.0, 0.0, 0.0)),
    Course("deep_white_matter", (360.0, 360.0, 360.0, 360.0, 0.0)),
    Course("periventricular", (900.0, 900.0, 900.0, 900.0, 430.0)),
    Course("infratentorial", (230.0, 230.0, 230.0, 230.0, 230.0)),
    Course("deep_white_matter", (420.0, 0.0, 0.0, 420.0, 420.0)),
    Course(
        "deep_white_matter",
        (100.0, 100.0, 100.0, 100.0, 760.0),
        (80.0, 80.0, 80.0, 80.0, 640.0),
        8.5,
    ),
    Course(
        "periventricular",
        (100.0, 100.0, 760.0, 760.0, 760.0),
        (80.0, 80.0, 640.0, 640.0, 640.0),
        8.5,
    ),
    Course(
        "deep_white_matter",
        (760.0, 760.0, 760.0, 760.0, 100.0),
        (640.0, 640.0, 640.0, 640.0, 80.0),
        8.5,
    ),
)


@dataclass(frozen=True)
class TimeLinePatient:
    """The patient and what each body does."""

    patient: SyntheticPatient
    """``studies`` with the current one first."""
    courses: tuple[tuple[PlantedLesion, tuple[float, ...]], ...]
    """Every body with its volumes, oldest study first."""


@dataclass(frozen=True)
class TrueState:
    """One lesion in one study."""

    lesion: int
    """Who it is: the same number in every study."""
    bodies: tuple[int, ...]
    volume_mm3: float
    """Of its voxels."""
    centroid_lps_mm: tuple[float, float, float]
    """In the study's own FLAIR's frame of reference."""
    lineage: tuple[int, ...]
    """Other earlier lesions that it came from, in any earlier study."""
    change: str
    """Against the study before; "baseline" in the first one."""


@dataclass(frozen=True)
class TimeLineTruth:
    """Everything that is known about the patient's lesions."""

    study_uids: tuple[str, ...]
    """Oldest first."""
    states: tuple[tuple[TrueState, ...], ...]
    """By study."""
    resolved: tuple[tuple[int, ...], ...]
    """By study: the lesions of the study before it that are gone."""


def make_time_line(
    seed: int = 1,
    *,
    courses: Sequence[Course] = DEFAULT_COURSES,
    roles: Sequence[str] = ROLES,
) -> TimeLinePatient:
    """Make a patient and scan them five times, about a year apart.

    Parameters
    ----------
    seed
        Decides the brain, the lesions' shapes and places, bias fields and noise.
    courses
        What the lesions do.
    roles
        Which of "flair", "t2" and "t1" are scanned.

    Raises
    ------
    RuntimeError
        When a lesion finds no place.
    """
    anatomy = build_anatomy(seed)
    bodies = _plant(anatomy, courses, seed)
    heads = {role: head_image(anatomy, CONTRASTS[role]) for role in roles}
    studies = []
    for k in reversed(range(STUDIES)):
        index = STUDIES - 1 - k
        present = tuple((body, volumes[k]) for body, volumes in bodies if volumes[k] > 0)
        frame_uid = make_uid(seed, "time line frame", k)
        acquisitions = {}
        for role in roles:
            prescription = PRESCRIPTIONS[index % 2][role]
            pose = SEQUENCE_MOTION[index % 2][role] @ _POSES[k]
            volume = scan(
                heads[role],
                present,
                CONTRASTS[role],
                prescription,
                pose,
                noise=NOISE[role],
                gain=_GAINS[k],
                rng=np.random.default_rng([seed, 50 + k, ROLES.index(role)]),
                frame_of_reference_uid=frame_uid,
            )
            acquisitions[role] = Acquisition(role, CONTRASTS[role], prescription, pose, volume)
        studies.append(
            ScannedStudy(
                index,
                date.fromordinal(date(2025, 4, 16).toordinal() - _DAYS[k]),
                make_uid(seed, "time line study", k),
                frame_uid,
                acquisitions,
                present,
            )
        )
    patient = SyntheticPatient(
        seed, Person(), tuple(body for body, _ in bodies), tuple(studies), heads
    )
    return TimeLinePatient(patient, bodies)


def with_studies(line: TimeLinePatient, numbers: Sequence[int]) -> SyntheticPatient:
    """The patient with some of the studies, by their place from the oldest (0) on."""
    wanted = {STUDIES - 1 - number for number in numbers}
    patient = line.patient
    kept = tuple(study for study in patient.studies if study.index in wanted)
    return SyntheticPatient(patient.seed, patient.person, patient.lesions, kept, patient.heads)


def time_line_truth(line: TimeLinePatient) -> TimeLineTruth:
    """Who is who, study by study.

    A lesion is what its voxels join. It comes from the lesions of the study before with which it
    shares a body, mostly from the one that was largest there, and carries on that one's identity
    unless another lesion of the study is a larger part of it. A body that comes back after it had
    gone is the lesion that it was.
    """
    states: list[tuple[TrueState, ...]] = []
    resolved: list[tuple[int, ...]] = []
    known: dict[tuple[int, ...], int] = {}
    ancestors: dict[int, set[int]] = {}
    before: tuple[TrueState, ...] | None = None
    for study in reversed(line.patient.studies):
        groups = _groups(study)
        sources = [
            sorted(
                (one for one in before or () if set(one.bodies) & set(bodies)),
                key=lambda one: -one.volume_mm3,
            )
            for bodies, _, _ in groups
        ]
        found = []
        for (bodies, volume, centroid), source in zip(groups, sources, strict=True):
            main = source[0] if source else None
            family = [
                other
                for (_, other, _), theirs in zip(groups, sources, strict=True)
                if main is not None and theirs and theirs[0] is main
            ]
            heir = main is not None and volume == max(family)
            if heir and main is not None:
                lesion = main.lesion
            elif not source and bodies in known:
                lesion = known[bodies]
            else:
                lesion = len(ancestors) + 1
            mine = ancestors.setdefault(lesion, set())
            for one in source:
                mine |= {one.lesion} | ancestors[one.lesion]
            mine -= {lesion}
            known.setdefault(bodies, lesion)
            change = _change(before is None, source, volume, len(family))
            found.append(TrueState(lesion, bodies, volume, centroid, tuple(sorted(mine)), change))
        here = {body for bodies, _, _ in groups for body in bodies}
        resolved.append(tuple(one.lesion for one in before or () if not set(one.bodies) & here))
        before = tuple(found)
        states.append(before)
    uids = tuple(study.study_uid for study in reversed(line.patient.studies))
    return TimeLineTruth(uids, tuple(states), tuple(resolved))


def save_time_line(truth: TimeLineTruth, folder: Path) -> Path:
    """Write ``truth.json`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "truth.json"
    content = {
        "conventions": "studies oldest first; centroids in each study's FLAIR, LPS millimetres",
        **asdict(truth),
    }
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _change(first: bool, source: Sequence[TrueState], volume: float, family: int) -> str:
    if first:
        return "baseline"
    if not source:
        return "new"
    if len(source) > 1:
        return "merged"
    if family > 1:
        return "split"
    ratio = volume / source[0].volume_mm3
    if ratio >= 1.3:
        return "enlarging"
    return "shrinking" if ratio <= 1 / 1.3 else "stable"


def _groups(
    study: ScannedStudy,
) -> list[tuple[tuple[int, ...], float, tuple[float, float, float]]]:
    """The lesions of a study: bodies, volume and centroid, in the order of their first body."""
    flair = study.acquisitions["flair"]
    labels = lesion_labels(study, flair.volume, flair.pose)
    pieces, count = ndimage.label(labels.array > 0, np.ones((3, 3, 3)))
    found = []
    for piece in range(1, count + 1):
        index = np.argwhere(pieces == piece)
        bodies = np.unique(labels.array[tuple(index.T)])
        x, y, z = index.mean(axis=0) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        volume = float(len(index) * labels.voxel_volume)
        found.append((tuple(int(n) for n in bodies), volume, (float(x), float(y), float(z))))
    return sorted(found)


def _plant(
    anatomy: Anatomy, courses: Sequence[Course], seed: int
) -> tuple[tuple[PlantedLesion, tuple[float, ...]], ...]:
    """A place for every body; the second ones of pairs come last."""
    brain = anatomy.brain_part()
    sites = find_sites(brain)
    rng = np.random.default_rng([seed, 5])
    placed: dict[int, PlantedLesion] = {}
    partners: dict[int, PlantedLesion] = {}

    def accept(lesion: PlantedLesion) -> bool:
        course = courses[lesion.number - 1]
        if not clear_of_others(lesion, partners):
            return False
        if course.partner is not None:
            second = plant_beside(
                brain,
                sites,
                lesion,
                [*placed.values(), *partners.values()],
                len(courses) + lesion.number,
                max(course.partner),
                course.distance_mm,
                rng,
                _touching_as_planned(lesion, course),
            )
            if second is None:
                return False
            partners[second.number] = second
        placed[lesion.number] = lesion
        return True

    plans = [LesionPlan(one.region, "stable", max(one.volumes_mm3)) for one in courses]
    planted = plant(anatomy, plans, seed, accept)
    bodies = [(one, course.volumes_mm3) for one, course in zip(planted, courses, strict=True)]
    for number, second in sorted(partners.items()):
        volumes = courses[number - len(courses) - 1].partner
        assert volumes is not None
        bodies.append((second, volumes))
    return tuple(bodies)


def _touching_as_planned(first: PlantedLesion, course: Course) -> Callable[[PlantedLesion], bool]:
    """Whether two bodies are one where both have grown, and well apart where not, in every grid."""
    assert course.partner is not None
    largest = max(course.volumes_mm3)

    def accept(second: PlantedLesion) -> bool:
        assert course.partner is not None
        for k, (one, other) in enumerate(zip(course.volumes_mm3, course.partner, strict=True)):
            grid = PRESCRIPTIONS[(STUDIES - 1 - k) % 2]["flair"]
            gap = _gap_mm((first, one), (second, other), grid.affine(), grid.shape, _POSES[k])
            if (gap > 0) if one == largest else (gap < _APART_MM):
                return False
        return True

    return accept


def _gap_mm(
    first: tuple[PlantedLesion, float],
    second: tuple[PlantedLesion, float],
    affine: Matrix,
    shape: tuple[int, int, int],
    pose: Matrix,
) -> float:
    """Least distance between the voxels of two bodies; 0 where they certainly are one lesion."""
    masks = []
    for body, volume in (first, second):
        found = lesion_fraction(body, volume, affine, shape, pose, profile=False)
        if found is None:
            return np.inf
        box, fraction = found
        masks.append(np.argwhere(fraction >= 0.5) + [part.start for part in box])
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    apart = np.abs(masks[0][:, None] - masks[1][None])
    shared = int((apart.max(axis=2) == 0).sum())
    if shared:
        return 0.0 if shared >= _SHARED_VOXELS else 0.1
    return float(np.linalg.norm(apart * spacing, axis=2).min())

"""A lesion keeps its UID and number however often, and in whatever order, studies are processed.

A patient with three studies is processed in many orders; what each run writes is in the input of
the next runs on the same study. The objects are kept in memory: how files are read has tests of its
own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from operators.longitudinal_comparator import identity
from operators.longitudinal_comparator.earlier_objects import (
    Identity,
    Known,
    TrackedReport,
    TrackedSegmentation,
)
from operators.longitudinal_comparator.identity import (
    NamedStudy,
    NamedTrack,
    derive_uids,
    identify_tracks,
)
from operators.longitudinal_comparator.lesions import LesionObject, label_array, measure
from operators.messages import InstanceRef
from tests.operators.lesion_segmentation.builders import empty_volume

# place in millimetres from the grid's middle, radius, and the studies that show the lesion
LESIONS = (
    ((-12.0, -20.0, 12.0), 4.6, "ABC"),
    ((14.0, -2.0, 9.0), 4.2, "ABC"),
    ((-8.0, 8.0, -14.0), 5.0, "AB"),
    ((9.0, 18.0, 3.0), 3.9, "A"),
    ((16.0, -24.0, -12.0), 4.4, "BC"),
    ((-18.0, 22.0, 6.0), 3.6, "C"),
    ((2.0, -8.0, -3.0), 3.7, "AC"),
)
GRIDS = {
    letter: empty_volume(
        (60, 54, 24), (0.9, 1.1, 2.3), angles, middle, frame_of_reference_uid=f"1.2.{number}"
    )
    for number, (letter, angles, middle) in enumerate(
        (
            ("A", (8, -5, 3), (3, -11, 20)),
            ("B", (-3, 4, 9), (8, 2, 31)),
            ("C", (5, 1, -7), (0, 6, 4)),
        )
    )
}


def outlines(letter: str) -> tuple[tuple[LesionObject, ...], tuple[int, ...]]:
    """The lesions of a study, largest first, and which of ``LESIONS`` each one is."""
    grid = GRIDS[letter]
    index = np.stack(np.meshgrid(*map(np.arange, grid.spatial_shape), indexing="ij"), -1)
    middle = (np.asarray(grid.spatial_shape) - 1) / 2
    offset = (index - middle) * np.asarray(grid.spacing)
    found = []
    for number, (place, radius, studies) in enumerate(LESIONS):
        if letter not in studies:
            continue
        inside = np.linalg.norm(offset - np.asarray(place), axis=-1) <= radius
        found.append((number, measure(np.argwhere(inside), grid)))
    found.sort(key=lambda item: -item[1].volume_ml)
    return tuple(one for _, one in found), tuple(number for number, _ in found)


OUTLINES = {letter: outlines(letter) for letter in GRIDS}


@dataclass
class Archive:
    """What has been written so far, by study."""

    objects: dict[str, list[InstanceRef]] = field(
        default_factory=lambda: {letter: [] for letter in GRIDS}
    )
    contents: dict[str, Known] = field(default_factory=dict)
    runs: int = 0

    def process(
        self, letters: Sequence[str], *, with_objects: bool = True, keep: str = "seg"
    ) -> dict[int, Identity]:
        """Run on some studies, the last one current; what each of ``LESIONS`` is called."""
        studies, members = [], []
        for letter in letters:
            lesions, numbers = OUTLINES[letter]
            studies.append(
                NamedStudy(
                    f"1.2.9.{ord(letter)}",
                    GRIDS[letter].frame_of_reference_uid,
                    lesions,
                    range(len(lesions)),
                    list(reversed(self.objects[letter])) if with_objects else (),
                )
            )
            members.append({number: n for n, number in enumerate(numbers)})
        order: list[int] = []
        for of_study in members:
            order += [number for number in of_study if number not in order]
        tracks = []
        for number in order:
            places = [of_study.get(number) for of_study in members]
            first = next(k for k, place in enumerate(places) if place is not None)
            tracks.append(NamedTrack(places, first))
        found, notes = identify_tracks(studies, tracks)
        assert not [note for note in notes if note.severity == "warning"]
        assert len({one.tracking_uid for one in found}) == len(found)
        assert len({one.tracking_id for one in found}) == len(found)
        named = dict(zip(order, found, strict=True))
        self._write(letters[-1], named, keep)
        return named

    def _write(self, letter: str, named: dict[int, Identity], keep: str) -> None:
        self.runs += 1
        lesions, numbers = OUTLINES[letter]
        identities = tuple(named[number] for number in numbers)
        written = f"20250101{self.runs:06d}"
        grid = GRIDS[letter]
        resolved = tuple(one for number, one in named.items() if number not in numbers)
        seg: Known = TrackedSegmentation(
            grid.with_array(label_array(lesions, grid.spatial_shape)), identities, written
        )
        report: Known = TrackedReport(
            (*identities, *resolved),
            (*(lesion.centroid for lesion in lesions), *(None for _ in resolved)),
            (*(lesion.volume_ml for lesion in lesions), *(0.0 for _ in resolved)),
            str(grid.frame_of_reference_uid),
            written,
        )
        for kind, content in (("seg", seg), ("sr", report)):
            if kind not in keep:
                continue
            uid = f"1.2.77.{self.runs}.{len(kind)}"
            self.contents[uid] = content
            self.objects[letter].append(InstanceRef(Path(uid), uid, "1.2"))


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Archive:
    made = Archive()
    monkeypatch.setattr(
        identity, "read_known", lambda instance, frame: made.contents[instance.sop_instance_uid]
    )
    return made


def common(first: dict[int, Identity], second: dict[int, Identity]) -> set[int]:
    return set(first) & set(second)


@pytest.mark.parametrize("keep", ["seg", "sr", "seg sr"])
@pytest.mark.parametrize("with_objects", [True, False])
def test_studies_in_their_own_order_with_objects_or_with_images_only(
    archive: Archive, with_objects: bool, keep: str
) -> None:
    known: dict[int, Identity] = {}
    for letters in ("A", "AB", "ABC", "AC", "ABC", "AB", "A"):
        named = archive.process(letters, with_objects=with_objects, keep=keep)
        for number in common(known, named):
            if letters == "AC" and LESIONS[number][2] == "BC" and not with_objects:
                continue  # without B nothing says that B had shown it first
            assert named[number].tracking_uid == known[number].tracking_uid, (letters, number)
            if with_objects:
                assert named[number] == known[number], (letters, number)
        known = {**named, **known}


@pytest.mark.parametrize("keep", ["seg", "sr", "seg sr"])
def test_a_rerun_with_its_own_objects_changes_nothing(archive: Archive, keep: str) -> None:
    for letters in ("A", "BC", "AB", "AC", "ABC"):
        first = archive.process(letters, keep=keep)
        assert archive.process(letters, keep=keep) == first
        assert archive.process(letters, keep=keep) == first


@pytest.mark.parametrize("keep", ["seg", "sr"])
def test_a_study_that_arrives_later_changes_no_name(archive: Archive, keep: str) -> None:
    alone = archive.process("A", keep=keep)
    before = archive.process("AC", keep=keep)
    after = archive.process("ABC", keep=keep)
    for number in common(before, after):
        assert after[number] == before[number]
    for number in common(alone, after):
        assert after[number] == alone[number]


def test_whatever_the_order_every_lesion_keeps_its_first_name(archive: Archive) -> None:
    """Of the results in the input, the one that was written first decides, in every order."""
    runs = ["A", "B", "C", "AB", "AC", "BC", "ABC"]
    chance = random.Random(5)
    orders = [chance.sample(runs, len(runs)) for _ in range(40)]
    orders += [list(order) for order in itertools.permutations(["A", "AC", "BC", "ABC"])]
    for order in orders:
        archive.objects = {letter: [] for letter in GRIDS}
        first: dict[tuple[str, int], str] = {}
        for letters in order:
            named = archive.process(letters)
            for number, one in named.items():
                given = [first[letter, number] for letter in letters if (letter, number) in first]
                if given:
                    assert one.tracking_uid in given, (order, letters, number)
                if letters[-1] in LESIONS[number][2]:
                    first.setdefault((letters[-1], number), one.tracking_uid)
        settled = archive.process("ABC")
        assert archive.process("ABC") == settled


def test_two_names_of_one_lesion_are_told(archive: Archive) -> None:
    archive.process("C")
    archive.process("B")
    studies = [
        NamedStudy(
            "1.2.9.1",
            None,
            OUTLINES[letter][0],
            range(9)[: len(OUTLINES[letter][0])],
            archive.objects[letter],
        )
        for letter in "BC"
    ]
    numbers = [OUTLINES[letter][1] for letter in "BC"]
    both = [NamedTrack((numbers[0].index(n), numbers[1].index(n)), 0) for n in (0, 1, 4)]
    found, notes = identify_tracks(studies, both)
    assert [note.code for note in notes] == ["lesion_renamed"]
    assert "3 lesion(s)" in notes[0].message
    of_c = {one.tracking_uid for one in archive.contents["1.2.77.1.3"].identities}
    assert {one.tracking_uid for one in found} <= of_c


def test_a_derived_uid_survives_a_slightly_different_outline() -> None:
    """Half a voxel less all around, as another arithmetic or engine may outline: 1 in 7 moves."""
    lesions, _ = OUTLINES["A"]
    uids = derive_uids("1.2.3", lesions)
    assert len(set(uids)) == len(uids)
    assert derive_uids("1.2.4", lesions) != uids
    grid = GRIDS["A"]
    changed = []
    for lesion in lesions:
        centre = np.linalg.norm(lesion.points - lesion.centroid, axis=1)
        changed.append(measure(lesion.indices[centre <= np.quantile(centre, 0.93)], grid))
    again = derive_uids("1.2.3", changed)
    assert sum(a == b for a, b in zip(uids, again, strict=True)) >= len(uids) - 1


def test_lesions_in_one_cube_get_different_uids() -> None:
    grid = GRIDS["A"]
    block = np.argwhere(np.ones((3, 2, 2)))
    near = [measure(block + np.array([20, 20 + 3 * n, 10]), grid) for n in range(2)]
    assert len(set(derive_uids("1.2.3", near))) == 2


def test_a_volume_is_what_the_helper_says() -> None:
    """Guards the scene itself: anisotropic, oblique, and no two lesions touch."""
    for letter, grid in GRIDS.items():
        assert isinstance(grid, hd.Volume)
        lesions, numbers = OUTLINES[letter]
        assert len(lesions) == len(numbers) >= 4
        taken = np.concatenate([lesion.indices for lesion in lesions])
        assert len(np.unique(taken, axis=0)) == len(taken)

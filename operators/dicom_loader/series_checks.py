"""Defects that show only when the stacks of a series are compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import pairwise

import numpy as np

from operators.dicom_loader.geometry import diagnose, distances_mm, valid_directions
from operators.dicom_loader.settings import DICOMLoaderSettings
from operators.dicom_loader.stacks import Stack
from operators.messages import SeriesProblem

_LOCALIZER_ANGLE_DEG = 20.0


def find_problems(stacks: Sequence[Stack], settings: DICOMLoaderSettings | None = None) -> None:
    """Diagnose every stack of one series, by itself and against the others; fills ``problems``."""
    settings = settings or DICOMLoaderSettings()
    for stack in stacks:
        stack.problems += diagnose(stack.frames, settings)
    _compare_siblings(stacks)
    _find_localizer(stacks, settings)
    _compare_with_stated_count(stacks)
    _find_gaps_in_numbers(stacks)


def _compare_siblings(stacks: Sequence[Stack]) -> None:
    """Find stacks of one series that should cover the same slices and do not."""
    for fields, name in (
        (("echo number", "echo time"), "echo"),
        (("time", "repetition", "instance"), "time"),
        (("image type",), "image type"),
    ):
        families: dict[tuple[Hashable, ...], list[Stack]] = defaultdict(list)
        for stack in stacks:
            rest = tuple(value for key, value in stack.key.items() if key not in fields)
            families[rest].append(stack)
        for family in families.values():
            if len(family) > 1:
                _compare_family(family, name)


def _compare_family(family: Sequence[Stack], name: str) -> None:
    levels = []
    for stack in family:
        distances = distances_mm(stack.frames)
        if distances is None:
            return
        levels.append({round(distance * 5) for distance in distances.tolist()})
    everything = set.union(*levels)
    if all(own == everything for own in levels):
        return
    if not set.intersection(*levels) and _interleaved(levels):
        code = "mixed_echoes" if name == "echo" else "mixed_images"
        for stack in family:
            stack.problems.append(
                SeriesProblem(
                    code,
                    f"The slices of the series alternate between {len(family)} values of the "
                    f"{name}, with one value at each position.",
                    fatal=True,
                )
            )
        return
    for stack, own in zip(family, levels, strict=True):
        absent = len(everything) - len(own)
        inside = everything and min(everything) <= min(own) and max(own) <= max(everything)
        if absent and inside and len(own & everything) and _overlaps(own, levels):
            stack.problems.append(
                SeriesProblem(
                    "missing_slices",
                    f"{absent} of {len(everything)} slices are missing that the series has for "
                    f"another {name}.",
                    fatal=True,
                )
            )


def _overlaps(own: set[int], levels: Sequence[set[int]]) -> bool:
    return any(own & other for other in levels if other is not own)


def _interleaved(levels: Sequence[set[int]]) -> bool:
    """Whether the ranges of disjoint sets of positions overlap."""
    ranges = sorted((min(own), max(own)) for own in levels)
    return any(after[0] < before[1] for before, after in pairwise(ranges))


def _find_localizer(stacks: Sequence[Stack], settings: DICOMLoaderSettings) -> None:
    normals = [
        np.cross(*directions)
        for stack in stacks
        if (directions := valid_directions(stack.frames[0].facts.orientation)) is not None
    ]
    limit = np.cos(np.radians(_LOCALIZER_ANGLE_DEG))
    turned = any(abs(float(normal @ normals[0])) < limit for normal in normals[1:])
    small = all(len(stack.frames) <= settings.localizer_maximum_slices for stack in stacks)
    for stack in stacks:
        types = {term.upper() for term in stack.frames[0].facts.attributes.image_type}
        if "LOCALIZER" in types or (turned and small):
            stack.problems.append(
                SeriesProblem(
                    "localizer",
                    "The series is a localizer: its images only plan other series.",
                    fatal=True,
                )
            )


def _compare_with_stated_count(stacks: Sequence[Stack]) -> None:
    """Compare the number of classic images with ImagesInAcquisition, where it is stated."""
    stated = {stack.frames[0].facts.images_in_acquisition for stack in stacks}
    number = next(iter(stated)) if len(stated) == 1 else None
    found = sum(len(stack.frames) for stack in stacks)
    if number is None or number <= found:
        return
    for stack in stacks:
        stack.problems.append(
            SeriesProblem(
                "fewer_images_than_stated",
                f"The header states {number} images in the acquisition, {found} are there.",
                fatal=False,
            )
        )


def _find_gaps_in_numbers(stacks: Sequence[Stack]) -> None:
    """Look for absent instance numbers, the only trace that a missing end slice may leave."""
    numbers = [frame.instance_number for stack in stacks for frame in stack.frames]
    present = {number for number in numbers if number is not None}
    if len(present) != len(numbers) or not present:
        return
    absent = max(present) - len(present) if min(present) >= 1 else 0
    if absent <= 0 or any(
        problem.code == "missing_slices" for s in stacks for problem in s.problems
    ):
        return
    for stack in stacks:
        stack.problems.append(
            SeriesProblem(
                "gaps_in_numbers",
                f"The images are numbered from {min(present)} to {max(present)}, but "
                f"{absent} numbers are absent; slices at an end of the series may be missing.",
                fatal=False,
            )
        )

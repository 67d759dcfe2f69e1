"""Lesions followed through any number of studies."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.longitudinal_comparator.difference import compare_images
from operators.longitudinal_comparator.evidence import Images
from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.links import find_links
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.size import LeastSize
from operators.longitudinal_comparator.step import Step, StepComparison, StudyLesions


@dataclass(frozen=True)
class Track:
    """One lesion through the studies.

    Attributes
    ----------
    objects
        Per study, oldest first: the lesion, or None.
    first
        The first study in which it was seen with certainty; ``objects[first]`` is not None.
    parents
        Positions of the tracks that it came from: all that merged into it, or that it split off.
    """

    objects: tuple[LesionObject | None, ...]
    first: int
    parents: tuple[int, ...]


@dataclass(frozen=True)
class TimeLine:
    """Every lesion of every study.

    Attributes
    ----------
    studies
        Oldest first; the last one is the current one.
    steps
        ``steps[k]`` compares ``studies[k]`` with ``studies[k + 1]``.
    tracks
        By ``first``, then in the order of that study's lesions.
    track_of
        Per study, for each of its lesions the position of its track.
    unmatched
        Positions in ``steps`` whose images could not be matched.
    """

    studies: tuple[StudyLesions, ...]
    steps: tuple[Step, ...]
    tracks: tuple[Track, ...]
    track_of: tuple[tuple[int, ...], ...]
    unmatched: tuple[int, ...]


def images_of(later: StudyLesions, earlier: StudyLesions) -> Images | None:
    """The FLAIRs of two studies, matched; None if they have no lesion-free brain in common."""
    matrix = earlier.matrix @ np.linalg.inv(later.matrix)
    try:
        return Images(compare_images(later.study, earlier.study, later.part, earlier.part, matrix))
    except ValueError:
        return None


def follow(
    studies: Sequence[StudyLesions], settings: LongitudinalComparatorSettings, least: LeastSize
) -> TimeLine:
    """Follow the lesions from each study to the next.

    Lesions that a later study helps to see in an earlier one are added to the earlier one, and
    looked for in those before it.

    Parameters
    ----------
    studies
        Oldest first, each with the lesions that its own probability shows.
    settings, least
        Limits.
    """
    studies = list(studies)
    pairs = [images_of(later, earlier) for earlier, later in itertools.pairwise(studies)]
    comparisons = []
    for k, images in enumerate(pairs):
        comparison = StepComparison(studies[k + 1], studies[k], images, settings, least)
        comparisons.append(comparison)
        known = [len(one.objects) for one in studies]
        comparison.prepare()
        for back in range(k, 0, -1):
            if len(studies[back].objects) == known[back]:
                break
            comparisons[back - 1].look_back(range(known[back], len(studies[back].objects)))
    steps = tuple(comparison.result() for comparison in comparisons)
    tracks, track_of = _tracks(studies, steps, settings)
    return TimeLine(
        studies=tuple(studies),
        steps=steps,
        tracks=tracks,
        track_of=track_of,
        unmatched=tuple(k for k, images in enumerate(pairs) if images is None),
    )


def _tracks(
    studies: Sequence[StudyLesions],
    steps: Sequence[Step],
    settings: LongitudinalComparatorSettings,
) -> tuple[tuple[Track, ...], tuple[tuple[int, ...], ...]]:
    objects: list[list[LesionObject | None]] = []
    parents: list[list[int]] = []
    track_of: list[list[int]] = []

    def begin(study: int, lesion: LesionObject) -> int:
        objects.append([None] * len(studies))
        parents.append([])
        objects[-1][study] = lesion
        return len(objects) - 1

    track_of.append([begin(0, lesion) for lesion in studies[0].objects])
    for k, step in enumerate(steps, start=1):
        here: list[int] = []
        for c, descent in enumerate(step.descents):
            lesion = studies[k].objects[c]
            if descent.heir_of is not None:
                track = track_of[k - 1][descent.heir_of]
                objects[track][k] = lesion
            else:
                back = None if descent.shares else _returned(k, lesion, studies, objects, settings)
                track = begin(k, lesion) if back is None else back
                objects[track][k] = lesion
            here.append(track)
            for p, share in descent.shares.items():
                source = track_of[k - 1][p]
                whole = share >= 0.5 or p == next(iter(descent.shares))
                if source != track and whole and source not in parents[track]:
                    parents[track].append(source)
        track_of.append(here)
    return _in_order(objects, parents, track_of, studies)


def _returned(
    k: int,
    lesion: LesionObject,
    studies: Sequence[StudyLesions],
    objects: list[list[LesionObject | None]],
    settings: LongitudinalComparatorSettings,
) -> int | None:
    """The track of a lesion that had gone before study k - 1 and is there again."""
    for earlier in range(k - 2, -1, -1):
        candidates = [
            (track, known)
            for track, seen in enumerate(objects)
            if (known := seen[earlier]) is not None
            and not any(one is not None for one in seen[earlier + 1 :])
        ]
        matrix = studies[earlier].matrix @ np.linalg.inv(studies[k].matrix)
        links = find_links(
            [lesion],
            [known for _, known in candidates],
            studies[k].affine,
            studies[earlier].affine,
            matrix,
            settings,
        )
        if links:
            best = max(links, key=lambda link: (link.near_ml, -link.prior))
            return candidates[best.prior][0]
    return None


def _in_order(
    objects: list[list[LesionObject | None]],
    parents: list[list[int]],
    track_of: list[list[int]],
    studies: Sequence[StudyLesions],
) -> tuple[tuple[Track, ...], tuple[tuple[int, ...], ...]]:
    first = []
    for seen in objects:
        certain = [
            k
            for k, lesion in enumerate(seen)
            if lesion is not None and studies[k].objects.index(lesion) not in studies[k].faint
        ]
        first.append(certain[0])
    places = [
        (k, studies[k].objects.index(lesion))
        for seen, k in zip(objects, first, strict=True)
        if (lesion := seen[k]) is not None
    ]
    order = sorted(range(len(objects)), key=lambda track: places[track])
    position = {track: n for n, track in enumerate(order)}
    tracks = tuple(
        Track(
            objects=tuple(objects[track]),
            first=first[track],
            parents=tuple(position[one] for one in parents[track]),
        )
        for track in order
    )
    return tracks, tuple(tuple(position[track] for track in one) for one in track_of)

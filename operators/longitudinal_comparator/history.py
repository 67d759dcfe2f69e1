"""What a lesion was in each earlier study: its volumes, and its change since the first one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.longitudinal_comparator.changes import grown
from operators.longitudinal_comparator.evidence import Images
from operators.longitudinal_comparator.field_of_view import either_is_cut, is_inside
from operators.longitudinal_comparator.lesions import LesionObject
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.step import StudyLesions
from operators.longitudinal_comparator.tracks import TimeLine
from operators.longitudinal_comparator.volumes import Measured, total
from operators.messages import Change


@dataclass(frozen=True)
class History:
    """One lesion's past.

    Attributes
    ----------
    shares
        Per study of the time line, oldest first: by position among that study's lesions, the share
        of it that became this lesion.
    volumes
        Per study; None where it does not show the place.
    """

    shares: tuple[dict[int, float], ...]
    volumes: tuple[Measured | None, ...]


def history_of(line: TimeLine, study: int, position: int) -> History:
    """The past of a lesion of one of the studies; later studies have nothing of it.

    Parameters
    ----------
    line
        All studies.
    study
        Which one, from 0.
    position
        The lesion among that study's.
    """
    lesion = line.studies[study].objects[position]
    shares: list[dict[int, float]] = [{} for _ in line.studies]
    shares[study] = {position: 1.0}
    for k in range(study, 0, -1):
        descents = line.steps[k - 1].descents
        for c, weight in shares[k].items():
            for p, share in descents[c].shares.items():
                shares[k - 1][p] = shares[k - 1].get(p, 0.0) + weight * share
            if not descents[c].shares:
                _before_a_gap(line, k, c, weight, shares)
    volumes = [
        _volume(line.studies[k], shares[k], lesion, line.studies[study])
        for k in range(len(line.studies))
    ]
    return History(tuple(shares), tuple(volumes))


def _before_a_gap(
    line: TimeLine, k: int, position: int, weight: float, shares: list[dict[int, float]]
) -> None:
    """A lesion that has returned goes on where it was last seen."""
    track = line.tracks[line.track_of[k][position]]
    for earlier in range(k - 2, -1, -1):
        seen = track.objects[earlier]
        if seen is not None:
            place = line.studies[earlier].objects.index(seen)
            shares[earlier][place] = shares[earlier].get(place, 0.0) + weight
            return


def _volume(
    study: StudyLesions, shares: dict[int, float], lesion: LesionObject, home: StudyLesions
) -> Measured | None:
    if any(shares.values()):
        return total(study.measured(p).part(share) for p, share in shares.items())
    there = study.matrix @ np.linalg.inv(home.matrix)
    if not is_inside(lesion.points, home.probability, study.probability, there):
        return None
    return Measured(0.0, 0.0)


def since_first(
    line: TimeLine,
    position: int,
    history: History,
    images: Images | None,
    settings: LongitudinalComparatorSettings,
) -> Change:
    """A current lesion's change since the first study.

    Parameters
    ----------
    line
        All studies, at least three.
    position
        The lesion among the current ones.
    history
        Its past.
    images
        The FLAIRs of the first and the current study, matched; None if they cannot be.
    settings
        Limits.
    """
    first, current = line.studies[0], line.studies[-1]
    before, now = history.volumes[0], history.volumes[-1]
    if before is None or now is None:
        return "baseline"
    sources = {p: share for p, share in history.shares[0].items() if share > 0}
    own = line.tracks[line.track_of[-1][position]]
    if not sources:
        parent = any(line.tracks[n].objects[0] is not None for n in own.parents)
        return "split" if parent else "new"
    large = [
        p
        for p, share in sources.items()
        if share * first.objects[p].volume_ml >= settings.lineage_share * before.ml
    ]
    if len(large) >= 2:
        return "merged"
    source = first.objects[large[0]]
    if own.objects[0] is not source:
        return "split"
    if _has_split(line, source, position, settings):
        return "split"
    found = None
    if images is not None:
        space = images.difference.space
        found = images.signal(
            space.from_current(current.objects[position].points),
            space.from_prior(source.points),
            wide=True,
        )
    there = first.matrix @ np.linalg.inv(current.matrix)
    whole = current.objects[position]
    images_of_both = (current.probability, first.probability)
    if either_is_cut(whole.points, [source.points], images_of_both, there):
        return "stable"
    return grown(now, before, found, settings).change


def _has_split(
    line: TimeLine,
    source: LesionObject,
    position: int,
    settings: LongitudinalComparatorSettings,
) -> bool:
    """Whether other current lesions come from the same first one, and are large enough."""
    track = line.track_of[0][line.studies[0].objects.index(source)]
    current = line.studies[-1].objects
    others = sum(
        current[c].volume_ml
        for c, one in enumerate(line.track_of[-1])
        if c != position and track in line.tracks[one].parents
    )
    return others >= settings.lineage_share * (others + current[position].volume_ml)

"""The identity of every track of a time line."""

from __future__ import annotations

from collections.abc import Sequence

from operators.longitudinal_comparator.earlier_objects import Identity
from operators.longitudinal_comparator.identity import NamedStudy, NamedTrack, identify_tracks
from operators.longitudinal_comparator.step import StudyLesions
from operators.longitudinal_comparator.tracks import TimeLine
from operators.messages import InstanceRef, QualityNote


def identify(
    line: TimeLine, prior_segmentations: Sequence[InstanceRef]
) -> tuple[list[Identity], tuple[QualityNote, ...]]:
    """One identity for each track, in order; see ``identity``.

    Parameters
    ----------
    line
        All studies, with the result objects that each one holds.
    prior_segmentations
        Further segmentation objects of the study before the current one.
    """
    studies = []
    for k, study in enumerate(line.studies):
        objects = list(study.study.selected.lesion_objects)
        if k == len(line.studies) - 2:
            known = {one.sop_instance_uid for one in objects}
            objects += [one for one in prior_segmentations if one.sop_instance_uid not in known]
        studies.append(_named(study, objects))
    tracks = []
    for position, track in enumerate(line.tracks):
        places: list[int | None] = [None] * len(studies)
        for k, of_study in enumerate(line.track_of):
            for n, owner in enumerate(of_study):
                if owner == position:
                    places[k] = n
        tracks.append(NamedTrack(places, track.first))
    return identify_tracks(studies, tracks)


def _named(study: StudyLesions, objects: Sequence[InstanceRef]) -> NamedStudy:
    series = study.study.selected.series["flair"].series
    return NamedStudy(
        flair_series_uid=series.series_uid,
        frame_of_reference_uid=series.frame_of_reference_uid,
        lesions=study.objects,
        certain=[n for n in range(len(study.objects)) if n not in study.faint],
        objects=objects,
    )

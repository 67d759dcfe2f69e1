"""The compared studies in order of time, as the report's plot and tables show them."""

from __future__ import annotations

from dataclasses import dataclass

from operators.dicom_writer.common import OutputContext
from operators.messages import SelectedStudy


@dataclass(frozen=True)
class Moment:
    """One compared study."""

    days: float
    """From the current study: negative before it; the order instead where a study is undated."""
    study: SelectedStudy
    load_ml: float
    load_interval_ml: tuple[float, float] | None
    volumes_ml: tuple[float | None, ...]
    """Of each lesion of the follow-up; None where this study does not show the place."""


def timeline(context: OutputContext) -> tuple[Moment, ...]:
    """Every compared study, oldest first; the current one is the last.

    Parameters
    ----------
    context
        The run; a follow-up without time points has its prior and its current study.
    """
    follow_up, studies = context.follow_up, {s.study.study_uid: s for s in context.studies}
    totals = follow_up.totals
    points = [point for point in follow_up.time_points if point.study_uid in studies]
    if not points:
        now = Moment(
            0.0,
            context.current,
            totals.lesion_volume_ml,
            totals.lesion_volume_interval_ml,
            tuple(lesion.volume_ml for lesion in follow_up.lesions),
        )
        if context.prior is None or follow_up.prior_labels is None:
            return (now,)
        before = Moment(
            -float(context.prior.interval_days or 1),
            context.prior,
            totals.prior_lesion_volume_ml or 0.0,
            totals.prior_lesion_volume_interval_ml,
            tuple(lesion.prior_volume_ml for lesion in follow_up.lesions),
        )
        return (before, now)
    undated = any(point.interval_days is None for point in points)
    moments = []
    for position, point in enumerate(points):
        days = -float(point.interval_days or 0)
        if undated:
            days = float(position - len(points) + 1)
        moments.append(
            Moment(
                days,
                studies[point.study_uid],
                point.lesion_volume_ml,
                point.lesion_volume_interval_ml,
                tuple(
                    lesion.volumes_ml[position] if position < len(lesion.volumes_ml) else None
                    for lesion in follow_up.lesions
                ),
            )
        )
    return tuple(moments)

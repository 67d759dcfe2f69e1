"""What the reader must know about the comparison."""

from __future__ import annotations

from operators.longitudinal_comparator.tracks import TimeLine
from operators.messages import QualityNote


def comparison_notes(line: TimeLine) -> list[QualityNote]:
    """The doubts of the comparison of the current with the prior study, and of those before."""
    if not line.steps:
        return []
    notes = []
    step, prior, current = line.steps[-1], line.studies[-2], line.studies[-1]
    faint = len(prior.faint) + len(current.faint)
    if faint:
        notes.append(
            QualityNote(
                "faint_lesions",
                "info",
                f"{faint} lesion(s) were found in one study only but can be seen in the other; "
                "they were outlined there as well, and are not called new or resolved.",
            )
        )
    compared = sum(
        current.found_by(n) == "comparison"
        for n, one in enumerate(step.descents)
        if one.verdict.change == "new"
    )
    if compared:
        notes.append(
            QualityNote(
                "found_by_comparison",
                "info",
                f"{compared} new lesion(s) were found by the comparison of the images; the network "
                "outlined little or nothing of them.",
            )
        )
    excluded = len(step.unseen)
    excluded += sum(one.verdict.change == "baseline" for one in step.descents)
    if excluded:
        notes.append(
            QualityNote(
                "lesions_not_compared",
                "warning",
                f"{excluded} lesion(s) lie outside the brain or the images of the other study, "
                "or in an end slice, and were not compared.",
            )
        )
    widened = sum(one.widening > 1 for one in step.descents)
    if widened:
        notes.append(
            QualityNote(
                "outlines_differ",
                "info",
                f"The outlines of {widened} lesion(s) differ more than their images do; they are "
                "called stable, and their intervals hold both volumes.",
            )
        )
    if line.unmatched:
        notes.append(
            QualityNote(
                "images_not_matched",
                "warning",
                "The FLAIR images of two studies could not be brought to one scale of brightness; "
                "changes between them rest on the outlines alone.",
            )
        )
    return notes

"""Which of several series of one role is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from operators.messages import Series
from operators.series_selector.classification import Classification
from operators.series_selector.conditions import evaluate
from operators.series_selector.settings import Criterion


@dataclass(frozen=True)
class Candidate:
    """A usable series of a role."""

    series: Series
    classification: Classification


@dataclass(frozen=True)
class Choice:
    """The outcome for one role."""

    chosen: Candidate | None
    """None when the order cannot decide between the first candidates."""
    reason: str
    """Why the chosen one has the role, and why it was preferred."""
    lost: tuple[tuple[Candidate, str], ...]
    """The other candidates, each with the criterion it lost by; all of them in a tie."""


def choose(
    candidates: Sequence[Candidate],
    order: Sequence[Criterion],
    frame_of_reference_uid: str | None,
) -> Choice:
    """Take the first candidate by the criteria, each of which decides only where those before tie.

    Parameters
    ----------
    candidates
        At least one usable series of the role.
    order
        The criteria, most important first.
    frame_of_reference_uid
        That of the reference role's series; None while the reference role itself is chosen.
    """
    keys = {
        id(candidate): tuple(
            _rank(criterion, candidate, frame_of_reference_uid) for criterion in order
        )
        for candidate in candidates
    }
    ranked = sorted(candidates, key=lambda candidate: keys[id(candidate)])
    first, others = ranked[0], ranked[1:]
    best = keys[id(first)]
    tied = [candidate for candidate in others if keys[id(candidate)] == best]
    if tied:
        labels = ", ".join(candidate.series.label for candidate in (first, *tied))
        return Choice(
            None,
            f"{labels} cannot be told apart by the rules",
            tuple((candidate, "cannot be told apart from another series") for candidate in ranked),
        )
    lost = []
    preferred: dict[str, list[str]] = {}
    for candidate in others:
        key = keys[id(candidate)]
        criterion = next(c for c, a, b in zip(order, best, key, strict=True) if a != b)
        lost.append((candidate, f"{first.series.label} is preferred: {criterion.name}"))
        preferred.setdefault(criterion.name, []).append(candidate.series.label)
    reason = "; ".join(
        [
            first.classification.reason,
            *(f"preferred to {', '.join(labels)}: {name}" for name, labels in preferred.items()),
        ]
    )
    return Choice(first, reason, tuple(lost))


def _rank(criterion: Criterion, candidate: Candidate, frame_of_reference_uid: str | None) -> float:
    facts = candidate.classification.facts
    if criterion.when is not None:
        return 0.0 if evaluate(criterion.when, facts).holds is True else 1.0
    if criterion.relation == "attributes_confirm":
        return 0.0 if candidate.classification.confirmed else 1.0
    if criterion.relation == "same_frame_of_reference":
        same = (
            frame_of_reference_uid is None
            or candidate.series.frame_of_reference_uid == frame_of_reference_uid
        )
        return 0.0 if same else 1.0
    value = facts.measure(criterion.smaller or criterion.larger or "")
    if value is None:
        return float("inf")
    steps = round(value / criterion.step)
    return float(steps if criterion.smaller else -steps)

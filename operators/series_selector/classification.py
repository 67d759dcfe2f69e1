"""The role of one series, from its attributes first and its description second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from operators.messages import Series, SeriesAttributes
from operators.series_selector.conditions import evaluate
from operators.series_selector.facts import Facts, gather
from operators.series_selector.settings import Refusal, RoleRules, SeriesSelectorSettings

Basis = Literal["attributes and description", "attributes", "description"]


@dataclass(frozen=True)
class Classification:
    """What kind of image a series is, whether or not its geometry can be used."""

    role: str | None
    """The role, or None when the series is refused or of no role."""
    considered: str | None
    """The role that it has or would have had."""
    code: str
    """The basis of the role, or the code of the refusal ("unclassified", "contradicted" or the
    code of a rule)."""
    reason: str
    facts: Facts

    @property
    def confirmed(self) -> bool:
        """Whether the attributes confirm the role, rather than only not contradict it."""
        return self.role is not None and self.code != "description"


@dataclass(frozen=True)
class Obstacle:
    """Why the pixels of a series cannot be used."""

    code: str
    reason: str


@dataclass(frozen=True)
class _Match:
    role: str
    physics: bool | None
    named: str | None
    because: str

    @property
    def possible(self) -> bool:
        return self.physics is True or (self.physics is None and self.named is not None)


def classify(attributes: SeriesAttributes, settings: SeriesSelectorSettings) -> Classification:
    """Find the role of a series.

    A role is possible when one of its physics rules holds, or is undecided because attributes are
    absent and the description names the role. Where attributes contradict every physics rule of a
    role, no name makes up for it. Among possible roles the one that the description names comes
    first, then the one that attributes confirm, then the order of the rules. The refusals are
    asked last, so that the role that was refused is known.

    Parameters
    ----------
    attributes
        Header facts of the series.
    settings
        The selection rules.
    """
    facts = gather(attributes, settings)
    matches = [_match(role, rules, facts) for role, rules in settings.roles.items()]
    possible = [match for match in matches if match.possible]
    best = min(
        possible, key=lambda match: (match.named is None, match.physics is not True), default=None
    )
    named = next((match for match in matches if match.named is not None), None)
    considered = best or named
    role = considered.role if considered else None

    refusal = _first_refusal(settings.refuse, facts)
    if refusal is None and best is not None:
        refusal = _first_refusal(settings.roles[best.role].refuse, facts)
    if refusal is not None:
        return Classification(None, role, refusal.code, refusal.reason, facts)
    if best is None:
        if named is not None:
            reason = f'it is described as "{named.named}", but {named.because}'
            return Classification(None, named.role, "contradicted", reason, facts)
        return Classification(None, None, "unclassified", _nothing_known(facts), facts)
    basis, reason = _basis(best, named, facts)
    return Classification(best.role, best.role, basis, reason, facts)


def obstacle(series: Series, settings: SeriesSelectorSettings) -> Obstacle | None:
    """Why a series of whatever role cannot be used, or None when it can."""
    rules = settings.usable
    for problem in series.problems:
        if problem.fatal:
            return Obstacle(problem.code, problem.message)
    foreign = {ref.sop_class_uid for ref in series.instances} - set(rules.sop_classes)
    if foreign:
        return Obstacle("sop_class", f"its SOP class {min(foreign)} is not an accepted image")
    attributes = series.attributes
    if attributes.slice_count < rules.slice_count_min:
        return Obstacle(
            "slice_count",
            f"it has {attributes.slice_count} slices, fewer than {rules.slice_count_min}",
        )
    if attributes.temporal_positions > rules.temporal_positions_max:
        return Obstacle("temporal", f"it has {attributes.temporal_positions} time points")
    if attributes.spacing_mm is None or attributes.coverage_mm is None:
        return Obstacle("no_geometry", "its voxel size or extent is not known")
    in_plane, between = max(attributes.spacing_mm[:2]), attributes.spacing_mm[2]
    if attributes.coverage_mm < rules.coverage_min_mm:
        return Obstacle(
            "coverage",
            f"it covers {attributes.coverage_mm:.0f} mm, less than {rules.coverage_min_mm:g} mm",
        )
    if in_plane > rules.in_plane_max_mm:
        return Obstacle(
            "coarse",
            f"its pixels are {in_plane:.2g} mm wide, more than {rules.in_plane_max_mm:g} mm",
        )
    if between > rules.slice_spacing_max_mm:
        return Obstacle(
            "coarse",
            f"its slices are {between:.2g} mm apart, more than {rules.slice_spacing_max_mm:g} mm",
        )
    return None


def _match(role: str, rules: RoleRules, facts: Facts) -> _Match:
    named = next((facts.words[name] for name in rules.named_by if name in facts.words), None)
    verdicts = [(rule.name, evaluate(rule.needs, facts)) for rule in rules.physics]
    for name, verdict in verdicts:
        if verdict.holds is True:
            return _Match(role, True, named, f"{name} ({', '.join(verdict.because)})")
    for _, verdict in verdicts:
        if verdict.holds is None:
            return _Match(role, None, named, f"{', '.join(verdict.because)} absent")
    closest = min(verdicts, key=lambda item: len(item[1].because))
    return _Match(role, False, named, ", ".join(closest[1].because))


def _basis(best: _Match, named: _Match | None, facts: Facts) -> tuple[Basis, str]:
    if best.physics is not True:
        return "description", (
            f'described as "{best.named}"; the attributes do not decide ({best.because})'
        )
    if best.named is not None:
        return "attributes and description", f'{best.because}, described as "{best.named}"'
    if named is not None:
        return "attributes", (
            f'{best.because}, although described as "{named.named}": {named.because}'
        )
    if facts.described:
        return "attributes", f"{best.because}; the description names no role"
    return "attributes", f"{best.because}; there is no description"


def _nothing_known(facts: Facts) -> str:
    if facts.described:
        return "neither its attributes nor its description give it a role"
    return "its attributes give it no role and it has no description"


def _first_refusal(refusals: Sequence[Refusal], facts: Facts) -> Refusal | None:
    for refusal in refusals:
        if any(evaluate(condition, facts).holds is True for condition in refusal.unless_any):
            continue
        for condition in refusal.when_any:
            verdict = evaluate(condition, facts)
            if verdict.holds is True:
                reason = f"{refusal.reason} ({', '.join(verdict.because)})"
                return refusal.model_copy(update={"reason": reason})
    return None

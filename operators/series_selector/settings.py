"""The selection rules as app.yaml states them.

Roles, vocabularies and rules are free names: the code knows neither brain nor lesion, and another
body site is another set of rules.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from operators.series_selector.words import compile_words
from operators.settings import Settings


def _words(pattern: str) -> str:
    compile_words(pattern)
    return pattern


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
    return pattern


def _ordered(limits: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = limits
    if low is None and high is None:
        raise ValueError("a range needs a lower or an upper limit")
    if low is not None and high is not None and low > high:
        raise ValueError(f"the lower limit {low} is above the upper limit {high}")
    return limits


WordPattern = Annotated[str, AfterValidator(_words)]
"""A regular expression for whole words of a description (letter case and accents do not count)."""
Pattern = Annotated[str, AfterValidator(_regex)]
"""A regular expression for one value of a DICOM attribute, which it must match as a whole."""
Range = Annotated[tuple[float | None, float | None], AfterValidator(_ordered)]
"""Lower and upper limit, both included; null means none."""
Measure = Literal[
    "voxel_mm3",
    "largest_voxel_side_mm",
    "in_plane_mm",
    "slice_spacing_mm",
    "coverage_mm",
    "slice_count",
    "echo_time_ms",
    "series_number",
]


class Vocabulary(Settings):
    """Words that say one thing, in any language."""

    any: tuple[WordPattern, ...] = Field(min_length=1)
    """One of these has to occur."""
    cut: tuple[WordPattern, ...] = ()
    """Phrases that are taken out of the description first, as "without contrast" from the
    vocabulary of contrast."""


class Condition(Settings):
    """What a series' attributes have to be; everything stated has to hold.

    An attribute that the headers lack makes the condition undecided rather than false.
    """

    echo_time_ms: Range | None = None
    repetition_time_ms: Range | None = None
    inversion_time_ms: Range | None = None
    flip_angle_deg: Range | None = None
    echo_train_length: Range | None = None
    b_value: Range | None = None
    magnetic_field_strength_t: Range | None = None
    slice_count: Range | None = None
    temporal_positions: Range | None = None
    coverage_mm: Range | None = None
    in_plane_mm: Range | None = None
    """The larger of the two distances between pixels."""
    slice_spacing_mm: Range | None = None
    modality: tuple[Pattern, ...] = ()
    acquisition: Literal["2D", "3D"] | None = None
    orientation: tuple[Literal["axial", "sagittal", "coronal"], ...] = ()
    inversion: bool | None = None
    """Whether an inversion pulse is played: IR among the scanning sequences, or an inversion time
    above zero."""
    scanning_sequence_any: tuple[Pattern, ...] = ()
    scanning_sequence_none: tuple[Pattern, ...] = ()
    sequence_variant_any: tuple[Pattern, ...] = ()
    sequence_variant_none: tuple[Pattern, ...] = ()
    image_type_any: tuple[Pattern, ...] = ()
    image_type_none: tuple[Pattern, ...] = ()
    sequence_name: tuple[Pattern, ...] = ()
    """The vendor's name of the pulse sequence, without a leading asterisk."""
    body_part: tuple[Pattern, ...] = ()
    contrast: bool | None = None
    """Whether the attribute or the description says that contrast agent was given; where neither
    says anything, it was not."""
    words: tuple[str, ...] = ()
    """Vocabularies of which one occurs in the description."""
    no_words: tuple[str, ...] = ()
    """Vocabularies of which none occurs."""

    @model_validator(mode="after")
    def _states_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("the condition states nothing")
        return self


class Refusal(Settings):
    """A rule that refuses a series."""

    code: str
    reason: str
    """How the refusal reads, as in "it is a diffusion image"."""
    when_any: tuple[Condition, ...] = Field(min_length=1)
    """The series is refused where one of these certainly holds ..."""
    unless_any: tuple[Condition, ...] = ()
    """... and none of these does."""


class PhysicsRule(Settings):
    """One way in which a role is acquired."""

    name: str
    """As in "inversion recovery that nulls fluid"."""
    needs: Condition


class Criterion(Settings):
    """One step of the order among several candidates of a role."""

    name: str
    """How it reads in "preferred to series 5: 3D acquisition"."""
    when: Condition | None = None
    """Candidates for which this certainly holds come first."""
    smaller: Measure | None = None
    larger: Measure | None = None
    step: Annotated[float, Field(gt=0)] = 1.0
    """Measures that round to the same multiple of this count as equal."""
    relation: Literal["same_frame_of_reference", "attributes_confirm"] | None = None
    """In the frame of reference of the reference role's series; or with attributes that confirm
    the role rather than only not contradict it."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.when, self.smaller, self.larger, self.relation]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("give exactly one of when, smaller, larger, relation")
        return self


class RoleRules(Settings):
    """How the series of one role are recognised and which of them is taken."""

    physics: tuple[PhysicsRule, ...] = Field(min_length=1)
    """The series has the role when one of these holds; it cannot when all are contradicted."""
    named_by: tuple[str, ...] = Field(min_length=1)
    """Vocabularies that name the role."""
    refuse: tuple[Refusal, ...] = ()
    """Rules that refuse a series of this role."""
    order: tuple[Criterion, ...] = ()
    """Most important first. Candidates that remain equal make the input ambiguous."""


class UsableRules(Settings):
    """What a series of any role must be for its pixels to be used."""

    sop_classes: tuple[str, ...] = (
        "1.2.840.10008.5.1.4.1.1.4",
        "1.2.840.10008.5.1.4.1.1.4.1",
        "1.2.840.10008.5.1.4.1.1.4.4",
    )
    """MR Image, Enhanced MR Image and Legacy Converted Enhanced MR Image Storage."""
    slice_count_min: Annotated[int, Field(ge=1)] = 2
    """Slices or frames of the stack."""
    coverage_min_mm: Annotated[float, Field(ge=0)] = 0.0
    """Extent perpendicular to the slices."""
    in_plane_max_mm: Annotated[float, Field(gt=0)] = 10.0
    """The larger of the two distances between pixels."""
    slice_spacing_max_mm: Annotated[float, Field(gt=0)] = 20.0
    """Distance between slices."""
    temporal_positions_max: Annotated[int, Field(ge=1)] = 1
    """Time points of the DICOM series that the stack belongs to."""


class ContrastRules(Settings):
    """How contrast agent is recognised."""

    agent_absent: tuple[WordPattern, ...] = ()
    """Entries of the contrast agent attribute that mean "none"."""
    words: tuple[str, ...] = ()
    """Vocabularies that say that contrast agent was given."""


Ratio = Annotated[float, Field(ge=1)]


class ProtocolTolerances(Settings):
    """Differences between the protocols of two studies up to which the reader is not told."""

    field_strength_t: Annotated[float, Field(ge=0)] = 0.2
    """Tesla."""
    slice_spacing_ratio: Ratio = 1.2
    """Larger by smaller distance between slices (the largest side of a voxel)."""
    slice_thickness_ratio: Ratio = 1.2
    """Larger by smaller slice thickness."""
    pixel_ratio: Ratio = 1.5
    """Larger by smaller pixel."""
    echo_time_ratio: Ratio = 1.25
    """Longer by shorter echo time; the same for the next two."""
    repetition_time_ratio: Ratio = 1.25
    inversion_time_ratio: Ratio = 1.15
    """Inversion times decide what is dark, so that less is allowed."""
    flip_angle_deg: Annotated[float, Field(ge=0)] = 30.0
    """Degrees."""


class SeriesSelectorSettings(Settings):
    """Section ``settings.series_selector`` of app.yaml."""

    reference_role: str
    """The role that every time point must have."""
    required_roles: tuple[str, ...]
    """Without one of these a study cannot be current, and not prior either."""
    optional_roles: tuple[str, ...] = ()
    """Taken where they are found."""
    current_study_uid: str | None = None
    """Force the current study."""
    prior_study_uid: str | None = None
    """Force the prior study; other earlier studies are then not used."""
    use_prior: bool = True
    """False ignores every earlier study."""
    maximum_earlier_studies: Annotated[int, Field(ge=1)] = 12
    """At most so many studies before the current one are used: the newest ones and the first. Each
    takes memory and time, a 3D study of 1 mm about 0.3 GB."""
    future_tolerance_days: Annotated[int, Field(ge=0)] = 1
    """Days by which a study date may lie ahead of this computer's date (time zones)."""
    protocol: ProtocolTolerances = ProtocolTolerances()
    """When a difference between the studies' protocols is mentioned."""
    modalities: tuple[str, ...] = ("MR",)
    """A study without a series of one of these is no time point."""
    vocabulary: dict[str, Vocabulary] = Field(min_length=1)
    """The words that conditions, roles and contrast rules refer to by name."""
    contrast: ContrastRules = ContrastRules()
    """How contrast agent is recognised."""
    usable: UsableRules = UsableRules()
    """Geometry that every series needs."""
    refuse: tuple[Refusal, ...] = ()
    """Rules for every role; the first that holds gives the reason."""
    roles: dict[str, RoleRules] = Field(min_length=1)
    """In order of precedence, where a description names two roles."""

    @property
    def wanted_roles(self) -> tuple[str, ...]:
        """Required and optional roles, the reference role first."""
        others = [
            role
            for role in (*self.required_roles, *self.optional_roles)
            if role != self.reference_role
        ]
        return (self.reference_role, *dict.fromkeys(others))

    @field_validator("required_roles", "optional_roles")
    @classmethod
    def _distinct(cls, roles: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if len(set(roles)) != len(roles):
            raise ValueError(f"{info.field_name} names a role twice")
        return roles

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for role in (self.reference_role, *self.required_roles, *self.optional_roles):
            if role not in self.roles:
                raise ValueError(f"there are no rules for the role {role!r}")
        if self.reference_role not in self.required_roles:
            raise ValueError(f"the reference role {self.reference_role!r} must be required")
        for place, condition in self._conditions():
            for name in (*condition.words, *condition.no_words):
                self._check_vocabulary(place, name)
        for role, rules in self.roles.items():
            for name in rules.named_by:
                self._check_vocabulary(f"roles.{role}.named_by", name)
        for name in self.contrast.words:
            self._check_vocabulary("contrast.words", name)
        if self.current_study_uid is not None and self.current_study_uid == self.prior_study_uid:
            raise ValueError("current_study_uid and prior_study_uid are the same study")
        return self

    def _check_vocabulary(self, place: str, name: str) -> None:
        if name not in self.vocabulary:
            raise ValueError(f"{place} uses the vocabulary {name!r}, which is not defined")

    def _conditions(self) -> list[tuple[str, Condition]]:
        found: list[tuple[str, Condition]] = []

        def of_refusals(place: str, refusals: tuple[Refusal, ...]) -> None:
            for refusal in refusals:
                for condition in (*refusal.when_any, *refusal.unless_any):
                    found.append((f"{place}.{refusal.code}", condition))

        of_refusals("refuse", self.refuse)
        for role, rules in self.roles.items():
            of_refusals(f"roles.{role}.refuse", rules.refuse)
            found += [(f"roles.{role}.physics", rule.needs) for rule in rules.physics]
            found += [
                (f"roles.{role}.order", criterion.when)
                for criterion in rules.order
                if criterion.when is not None
            ]
        return found

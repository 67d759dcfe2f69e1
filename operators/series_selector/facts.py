"""What is known of one series, in the form in which the rules ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from operators.messages import SeriesAttributes
from operators.series_selector.settings import SeriesSelectorSettings, Vocabulary
from operators.series_selector.words import compile_words, cut_words, plain


@dataclass(frozen=True)
class Facts:
    """Attributes of a series and the vocabularies that occur in its description."""

    attributes: SeriesAttributes
    described: bool
    """Whether there is any description at all."""
    words: dict[str, str]
    """Vocabulary to the words of it that were found."""
    contrast: str | None
    """What says that contrast agent was given, or None."""

    @property
    def in_plane_mm(self) -> float | None:
        """The larger distance between pixels."""
        spacing = self.attributes.spacing_mm
        return None if spacing is None else max(spacing[:2])

    @property
    def slice_spacing_mm(self) -> float | None:
        """The distance between slices."""
        spacing = self.attributes.spacing_mm
        return None if spacing is None else spacing[2]

    @property
    def inversion(self) -> bool | None:
        """Whether an inversion pulse is played; None where no attribute tells."""
        time = self.attributes.inversion_time_ms
        if (time is not None and time > 0) or "IR" in self.attributes.scanning_sequence:
            return True
        if time is not None or self.attributes.scanning_sequence:
            return False
        return None

    def measure(self, name: str) -> float | None:
        """A measure that candidates are ordered by, None where unknown."""
        spacing = self.attributes.spacing_mm
        if name == "in_plane_mm":
            return self.in_plane_mm
        if name == "slice_spacing_mm":
            return self.slice_spacing_mm
        if name == "voxel_mm3":
            return None if spacing is None else spacing[0] * spacing[1] * spacing[2]
        if name == "largest_voxel_side_mm":
            return None if spacing is None else max(spacing)
        value = getattr(self.attributes, name)
        return None if value is None else float(value)


def words_in(text: str, vocabulary: Vocabulary) -> str | None:
    """The first words of the vocabulary that occur in ``text`` (plain), or None."""
    rest = cut_words(text, [compile_words(pattern) for pattern in vocabulary.cut])
    for pattern in vocabulary.any:
        match = compile_words(pattern).search(rest)
        if match:
            return match.group(0)
    return None


def gather(attributes: SeriesAttributes, settings: SeriesSelectorSettings) -> Facts:
    """Read the description of a series.

    The protocol name counts only where the series description names no role: some scanners write
    the name of the whole examination there ("brain with and without contrast").

    Parameters
    ----------
    attributes
        Header facts of the series.
    settings
        The selection rules, for their vocabularies.
    """
    text = plain(attributes.series_description)
    naming = {name for rules in settings.roles.values() for name in rules.named_by}
    if not any(words_in(text, settings.vocabulary[name]) for name in naming):
        text = " | ".join(filter(None, (text, plain(attributes.protocol_name))))
    words: dict[str, str] = {}
    for name, vocabulary in settings.vocabulary.items():
        found = words_in(text, vocabulary)
        if found is not None:
            words[name] = found
    return Facts(attributes, bool(text), words, _contrast(attributes, words, settings))


def _contrast(
    attributes: SeriesAttributes, words: dict[str, str], settings: SeriesSelectorSettings
) -> str | None:
    agent = plain(attributes.contrast_agent)
    absent = [compile_words(pattern) for pattern in settings.contrast.agent_absent]
    if agent and not any(pattern.fullmatch(agent) for pattern in absent):
        return "a contrast agent is entered"
    for name in settings.contrast.words:
        if name in words:
            return f'it is described as "{words[name]}"'
    return None

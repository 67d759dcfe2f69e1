"""From one study to the next: which lesions are which, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np

from operators.longitudinal_comparator.arisen import Known, add_to, agrees
from operators.longitudinal_comparator.changes import (
    UNKNOWN,
    Verdict,
    appeared,
    confidence_of,
    grown,
)
from operators.longitudinal_comparator.counterpart import outline_in
from operators.longitudinal_comparator.evidence import Evidence, Images, lesion_gain
from operators.longitudinal_comparator.field_of_view import either_is_cut, is_inside
from operators.longitudinal_comparator.increase import find_changes
from operators.longitudinal_comparator.lesions import LesionObject, in_order, measure
from operators.longitudinal_comparator.links import (
    KnownLinks,
    Link,
    Shape,
    find_links,
    nearest_of,
)
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.settings import LongitudinalComparatorSettings
from operators.longitudinal_comparator.size import LeastSize
from operators.longitudinal_comparator.volumes import (
    NORMAL_95,
    Measured,
    measured,
    outlined_share,
    total,
)
from operators.messages import AlignedStudy, FoundBy, LesionProbability

_TRACE = 3.0
"""Standard deviations of the noise from which on something is there."""
_BRIDGE_CONTRAST = 0.6
"""What joins the parts of a lesion in one study has at most this share of its contrast in the other
one; otherwise the parts were joined there too, or separate here too."""


@dataclass
class StudyLesions:
    """One study and its lesions as they are known so far.

    Attributes
    ----------
    study, part
        The study and the network's answer.
    matrix
        float64 (4, 4): points of the current FLAIR to points of this study's FLAIR.
    objects
        The lesions; those that were found with the help of another study come last.
    faint
        Positions in ``objects`` of lesions that the network did not find in this study.
    """

    study: AlignedStudy
    part: LesionProbability
    matrix: np.ndarray
    objects: list[LesionObject]
    faint: set[int] = field(default_factory=set)

    @property
    def probability(self) -> hd.Volume:
        """Probability on the FLAIR's grid."""
        return self.part.probability

    @property
    def affine(self) -> np.ndarray:
        """Voxel indices to LPS millimetres."""
        return np.asarray(self.part.probability.affine, dtype=float)

    def free(self) -> np.ndarray:
        """bool: voxels that belong to no lesion."""
        mask = np.ones(self.part.probability.spatial_shape, dtype=bool)
        for lesion in self.objects:
            mask[tuple(lesion.indices.T)] = False
        return mask

    def shows(self, points: np.ndarray) -> bool:
        """Whether at least half of the points (n, 3) of this study lie within its images."""
        index = np.rint(transform_points(np.linalg.inv(self.affine), points))
        inside = ((index >= 0) & (index < self.part.probability.spatial_shape)).all(axis=1)
        return bool(inside.mean() >= 0.5)

    def in_brain(self, points: np.ndarray) -> bool:
        """Whether at least half of the points (n, 3) of this study lie in its brain."""
        brain = np.asarray(self.study.brain_mask.array, dtype=bool)
        index = np.rint(transform_points(np.linalg.inv(self.affine), points)).astype(int)
        inside = ((index >= 0) & (index < brain.shape)).all(axis=1)
        return bool(brain[tuple(index[inside].T)].sum() >= len(points) / 2)

    def measured(self, position: int) -> Measured:
        """The volume of a lesion."""
        return measured(self.objects[position], self.part.probability, self.part.threshold)

    def found_by(self, position: int) -> FoundBy:
        """Whether the network itself outlined a lesion here, or half of it at least."""
        share = outlined_share(self.objects[position], self.part.probability, self.part.threshold)
        return "network" if share >= 0.5 else "comparison"


@dataclass(frozen=True)
class Descent:
    """Where a lesion comes from.

    Attributes
    ----------
    shares
        By position in the earlier study's lesions, the share of that lesion that became this one.
    heir_of
        The earlier lesion whose identity it carries on; None for a new identity.
    verdict
        The change.
    before
        Its volume in the earlier study; None where that does not show the place.
    widening
        Factor by which both volumes are less exactly known than each study alone says.
    """

    shares: dict[int, float]
    heir_of: int | None
    verdict: Verdict
    before: Measured | None
    widening: float = 1.0


@dataclass(frozen=True)
class Step:
    """The comparison of two studies.

    Attributes
    ----------
    descents
        One for each lesion of the later study.
    gone
        Earlier lesions that are resolved, with the confidence.
    unseen
        Earlier lesions whose place the later study does not show.
    owner
        For each earlier lesion, for each of its voxels the position of the later lesion that it
        became, -1 for none: intp (n,).
    """

    descents: tuple[Descent, ...]
    gone: dict[int, float]
    unseen: frozenset[int]
    owner: tuple[np.ndarray, ...]


class StepComparison:
    """Compares an earlier study with a later one.

    Parameters
    ----------
    later, earlier
        The studies; lesions that only the comparison shows are added to them, and lesions of the
        later one are joined or cut where the earlier one shows that they are one or several.
    images
        The two FLAIRs; None if they cannot be matched.
    settings, least
        Limits.
    """

    def __init__(
        self,
        later: StudyLesions,
        earlier: StudyLesions,
        images: Images | None,
        settings: LongitudinalComparatorSettings,
        least: LeastSize,
    ) -> None:
        self.later, self.earlier = later, earlier
        self.images = images
        self.settings, self.least = settings, least
        self.matrix = earlier.matrix @ np.linalg.inv(later.matrix)
        self.back = np.linalg.inv(self.matrix)
        self._sure: dict[LesionObject, Verdict] = {}
        self._unseen: set[LesionObject] = set()
        self._unproven: set[LesionObject] = set()
        self._bridges: dict[LesionObject, float] = {}
        self._parted: dict[int, float] = {}
        self._known: KnownLinks = {}

    def prepare(self) -> None:
        """Find what only the comparison shows, in both studies; cut and join what needs it."""
        self._learn_gain(self._links())
        self._add_what_the_images_show()
        links = self._links()
        self._find_missing_now({link.prior for link in links})
        links = self._links()
        linked = {link.current for link in links}
        self.look_back([c for c in range(len(self.later.objects)) if c not in linked])
        self._cut_what_only_touches()
        self._join_what_only_seems_apart()

    def look_back(self, positions: Iterable[int]) -> None:
        """Look in the earlier study for lesions of the later one that have no link."""
        for c in positions:
            self._find_before(self.later.objects[c])

    def _links(self) -> list[Link]:
        return find_links(
            self.later.objects,
            self.earlier.objects,
            self.later.affine,
            self.earlier.affine,
            self.matrix,
            self.settings,
            self._known,
        )

    def signal(
        self, later: Sequence[np.ndarray], earlier: Sequence[np.ndarray], *, wide: bool
    ) -> Evidence | None:
        """The signal of a region given by points (n, 3) of either study."""
        if self.images is None:
            return None
        space = self.images.difference.space
        index = [space.from_current(points) for points in later]
        index += [space.from_prior(points) for points in earlier]
        return self.images.signal(*index, wide=wide)

    def _learn_gain(self, links: list[Link]) -> None:
        if self.images is None:
            return
        signals = []
        for link in links:
            now, before = self.later.objects[link.current], self.earlier.objects[link.prior]
            found = self.signal([now.points], [before.points], wide=True)
            if found is not None:
                signals.append(found)
        self.images = self.images.with_gain(lesion_gain(signals))

    def _add_what_the_images_show(self) -> None:
        """Add what has become brighter to the later study, and darker to the earlier one."""
        if self.images is None:
            return
        before = Known(
            self.earlier.objects, self.earlier.affine, self.matrix, self.settings.tolerance_mm
        )
        brighter, darker = find_changes(self.images, self.settings, self.least)
        for later, earlier, images, known, regions in (
            (self.later, self.earlier, self.images, before, brighter),
            (self.earlier, self.later, self.images.exchanged, None, darker),
        ):
            for region in regions:
                if agrees(region, images, later.study, earlier.study):
                    add_to(
                        later.objects,
                        later.probability,
                        region,
                        images.difference.space,
                        self.least,
                        known,
                    )

    # --- lesions found at one time point only --------------------------------------------------

    def _find_missing_now(self, linked: set[int]) -> None:
        for p, lesion in enumerate(list(self.earlier.objects)):
            if p not in linked:
                found = self.signal([], [lesion.points], wide=False)
                self._look(lesion, None if found is None else found.exchanged, now=True)

    def _find_before(self, lesion: LesionObject) -> None:
        self._look(lesion, self.signal([lesion.points], [], wide=False), now=False)

    def _look(self, lesion: LesionObject, found: Evidence | None, *, now: bool) -> None:
        """Look for a lesion of one study in the other one: now, or before.

        ``found`` has the study that the lesion is from as the one now.
        """
        source, other = (self.earlier, self.later) if now else (self.later, self.earlier)
        to_other = self.back if now else self.matrix
        if not other.shows(transform_points(to_other, lesion.points)):
            self._unseen.add(lesion)
            return
        verdict = None if found is None else appeared(found, self.settings)
        faint = self.settings.faint_threshold * other.part.threshold
        if self.images is None:
            limits = [faint]
        elif verdict is not None and found is not None:
            # unless both the image and the network have a trace of it there
            limits = [faint] if found.before > _TRACE * found.noise else []
        elif found is not None and self._has_changed(found):
            limits = [faint, 0.0]
        else:
            limits = [0.0]
        for limit in limits:
            outline = outline_in(
                lesion, source.affine, other.probability, other.free(), to_other, limit, self.least
            )
            if outline is not None:
                other.faint.add(len(other.objects))
                other.objects.append(outline)
                return
        if verdict is None and self.images is not None:
            self._unproven.add(lesion)
        elif other.in_brain(transform_points(to_other, lesion.points)) and is_inside(
            lesion.points, source.probability, other.probability, to_other
        ):
            if verdict is not None:
                self._sure[lesion] = verdict
        else:
            # the network was not asked there, and what surrounds the brain changes by itself
            self._unseen.add(lesion)

    def _has_changed(self, found: Evidence) -> bool:
        half = 1 + self.settings.change_ratio / 2
        return found.z >= self.settings.minimum_evidence and found.now > half * found.before

    # --- lesions that merge and split ----------------------------------------------------------

    def _cut_what_only_touches(self) -> None:
        """A later lesion that covers several earlier ones is cut, unless a bridge has grown."""
        links = self._links()
        parts: list[LesionObject] = []
        for c, lesion in enumerate(self.later.objects):
            sources = sorted({link.prior for link in links if link.current == c})
            pieces = [lesion]
            if len(sources) > 1:
                pieces = self._pieces(lesion, sources)
            parts.extend(pieces)
        self._replace_later(parts)

    def _pieces(self, lesion: LesionObject, sources: list[int]) -> list[LesionObject]:
        earlier = [self.earlier.objects[p] for p in sources]
        points = transform_points(self.matrix, lesion.points)
        covered = np.zeros(len(points), dtype=bool)
        for one in earlier:
            covered |= Shape(one, self.earlier.affine).distance(points, limit=0.5) <= 0.5
        confidence = self._bridge(
            self.signal([lesion.points[~covered]], [], wide=False), ~covered, self.later.affine
        )
        if confidence is not None:
            self._bridges[lesion] = confidence
            return [lesion]
        owner = nearest_of(points, earlier, self.earlier.affine)
        pieces = []
        for n in range(len(earlier)):
            indices = lesion.indices[owner == n]
            if not self._large(indices):
                # a crumb stays with the rest
                return [lesion]
            pieces.append(measure(indices, self.later.probability))
        return pieces

    def _large(self, indices: np.ndarray) -> bool:
        voxel = abs(float(np.linalg.det(self.later.affine[:3, :3])))
        return len(indices) * voxel >= self.least.volume_mm3

    def _bridge(
        self, found: Evidence | None, where: np.ndarray, affine: np.ndarray
    ) -> float | None:
        """How sure it is that a bridge has grown; None if it is not sure enough.

        ``where`` are the voxels of a lesion on the grid of ``affine`` that make up the bridge.
        """
        size_mm3 = where.sum() * abs(float(np.linalg.det(affine[:3, :3])))
        if found is None or not where.any() or size_mm3 < self.least.volume_mm3:
            return None
        margin = _BRIDGE_CONTRAST * found.now - found.before
        if found.now <= 0 or margin < 0 or found.z < self.settings.minimum_evidence:
            return None
        return confidence_of(margin, found.noise)

    def _join_what_only_seems_apart(self) -> None:
        """Later lesions that come from one earlier one are joined, unless a gap has opened."""
        shares = self._shares(self._links())
        main = _main_sources(shares)
        joined: list[LesionObject] = []
        done: set[int] = set()
        for c, lesion in enumerate(self.later.objects):
            if c in done:
                continue
            family = [c] if main[c] is None else [k for k, p in enumerate(main) if p == main[c]]
            source = main[c]
            if len(family) == 1 or source is None:
                joined.append(lesion)
                continue
            done.update(family)
            members = [self.later.objects[k] for k in family]
            confidence = self._gap(members, source)
            if confidence is None:
                indices = np.concatenate([one.indices for one in members])
                whole = measure(indices, self.later.probability)
                kept = [self._bridges[one] for one in members if one in self._bridges]
                if kept:
                    self._bridges[whole] = min(kept)
                joined.append(whole)
            else:
                self._parted[source] = confidence
                joined.extend(members)
        self._replace_later(joined)

    def _gap(self, members: list[LesionObject], source: int) -> float | None:
        lesion = self.earlier.objects[source]
        points = transform_points(self.back, lesion.points)
        covered = np.zeros(len(points), dtype=bool)
        for one in members:
            covered |= Shape(one, self.later.affine).distance(points, limit=0.5) <= 0.5
        found = self.signal([], [lesion.points[~covered]], wide=False)
        return self._bridge(
            None if found is None else found.exchanged, ~covered, self.earlier.affine
        )

    def _replace_later(self, lesions: list[LesionObject]) -> None:
        faint = {self.later.objects[n] for n in self.later.faint}
        ordered = list(in_order(lesions))
        self.later.objects[:] = ordered
        self.later.faint = {n for n, one in enumerate(ordered) if one in faint}

    # --- the result ----------------------------------------------------------------------------

    def _owners(self, links: list[Link]) -> list[np.ndarray]:
        """For each earlier lesion the later one nearest to each of its voxels; -1 for none."""
        owners = []
        for p, lesion in enumerate(self.earlier.objects):
            linked = sorted(link.current for link in links if link.prior == p)
            if not linked:
                owners.append(np.full(len(lesion.points), -1, dtype=np.intp))
                continue
            points = transform_points(self.back, lesion.points)
            nearest = nearest_of(points, [self.later.objects[c] for c in linked], self.later.affine)
            owners.append(np.asarray(linked, dtype=np.intp)[nearest])
        return owners

    def _shares(self, links: list[Link]) -> list[dict[int, float]]:
        """For each later lesion the share of each earlier one that became it.

        A lesion that is linked but nearest to no voxel of its source has a share of 0 in it.
        """
        shares: list[dict[int, float]] = [{} for _ in self.later.objects]
        for link in links:
            shares[link.current][link.prior] = 0.0
        for p, owner in enumerate(self._owners(links)):
            for c in np.unique(owner[owner >= 0]):
                shares[int(c)][p] = float((owner == c).mean())
        return [
            dict(
                sorted(
                    one.items(),
                    key=lambda item: (-item[1] * self.earlier.objects[item[0]].volume_ml, item[0]),
                )
            )
            for one in shares
        ]

    def result(self) -> Step:
        """What became of each lesion, once all are known."""
        links = self._links()
        shares = self._shares(links)
        main = _main_sources(shares)
        descents = []
        for c, lesion in enumerate(self.later.objects):
            source = main[c]
            if source is None:
                descents.append(self._without_source(lesion))
            else:
                family = [k for k, p in enumerate(main) if p == source]
                descents.append(self._with_source(c, source, shares[c], family))
        continued = {p for one in shares for p in one}
        gone, unseen = {}, set()
        for p, lesion in enumerate(self.earlier.objects):
            if p in continued:
                continue
            if lesion in self._unseen or lesion in self._unproven:
                unseen.add(p)
            else:
                gone[p] = self._sure.get(lesion, Verdict("resolved", UNKNOWN)).confidence
        return Step(
            descents=tuple(descents),
            gone=gone,
            unseen=frozenset(unseen),
            owner=tuple(self._owners(links)),
        )

    def _without_source(self, lesion: LesionObject) -> Descent:
        if lesion in self._unseen:
            return Descent({}, None, Verdict("baseline", UNKNOWN), None)
        if lesion in self._unproven:
            # the images show it at both times, but another lesion takes its place in the earlier
            same = measured(lesion, self.later.probability, self.later.part.threshold)
            return Descent({}, None, Verdict("stable", UNKNOWN), same)
        verdict = self._sure.get(lesion, Verdict("new", UNKNOWN))
        overlooked = self.least.volume_mm3 / 1000 / NORMAL_95
        return Descent({}, None, verdict, Measured(0.0, overlooked))

    def _with_source(
        self, c: int, source: int, shares: dict[int, float], family: list[int]
    ) -> Descent:
        later, settings = self.later.objects, self.settings
        heir = c == max(family, key=lambda k: (later[k].volume_ml, -k))
        before = total(self.earlier.measured(p).part(share) for p, share in shares.items())
        family_ml = sum(later[k].volume_ml for k in family)
        others_ml = family_ml - later[c].volume_ml
        gap = self._parted.get(source, UNKNOWN)
        large = [
            p
            for p, share in shares.items()
            if share * self.earlier.objects[p].volume_ml >= settings.lineage_share * before.ml > 0
        ]
        widening = 1.0
        if before.ml == 0 or not heir:
            verdict = Verdict("split", gap)
        elif len(large) >= 2 and later[c] in self._bridges:
            verdict = Verdict("merged", self._bridges[later[c]])
        elif others_ml >= settings.lineage_share * family_ml:
            verdict = Verdict("split", gap)
        else:
            now = self.later.measured(c)
            found = self.signal(
                [later[c].points],
                [self.earlier.objects[p].points for p, share in shares.items() if share >= 0.5],
                wide=True,
            )
            verdict = Verdict("stable", UNKNOWN)
            if (found is not None or self.images is None) and not self._is_cut(later[c], shares):
                verdict = grown(now, before, found, settings)
            if verdict.change == "stable":
                widening = needed_widening(now, before)
        return Descent(shares, source if heir else None, verdict, before, widening)

    def _is_cut(self, lesion: LesionObject, sources: Iterable[int]) -> bool:
        """Whether a later lesion, or an earlier one that it comes from, is not shown whole."""
        images = (self.later.probability, self.earlier.probability)
        earlier = (self.earlier.objects[p].points for p in sources)
        return either_is_cut(lesion.points, earlier, images, self.matrix)


def needed_widening(now: Measured, before: Measured) -> float:
    """How much wider two intervals must be to say what the images say: no change."""
    spread = float(np.hypot(now.relative, before.relative))
    growth = abs(float(np.log(now.ml / before.ml)))
    return max(1.0, growth / (NORMAL_95 * spread)) if spread > 0 else 1.0


def _main_sources(shares: list[dict[int, float]]) -> list[int | None]:
    """The earlier lesion that most of each later one comes from."""
    return [next(iter(one), None) for one in shares]

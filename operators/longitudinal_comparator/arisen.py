"""Lesions that the comparison of two studies adds to one of them.

What has become brighter (see ``increase``) is drawn on the study's own voxels. Beside a lesion of
the later study it belongs to that lesion, which the network outlined in part; elsewhere it is a
lesion of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from operators.longitudinal_comparator.evidence import Images
from operators.longitudinal_comparator.halfway import Halfway
from operators.longitudinal_comparator.increase import Increase
from operators.longitudinal_comparator.lesions import LesionObject, label_array, measure
from operators.longitudinal_comparator.links import Shape
from operators.longitudinal_comparator.points import transform_points
from operators.longitudinal_comparator.size import LeastSize
from operators.messages import AlignedStudy

_STEP_MM = 1.0
"""A voxel's share in a region is taken from points at most this far apart."""
_TOUCHING = 0.2
"""A lesion's growth lies along it: less of a region near the lesion, and it is another one."""
_LARGELY = 0.5
_MISSED = 0.5
"""An outline that holds half of a region is the better one: the region is as blurred as the
images."""
_T2_CHANGE, _T1_CHANGE = 0.03, 0.05
"""A smaller increase on T2 or T1, as a share of the surroundings, is none."""


def agrees(region: Increase, images: Images, later: AlignedStudy, earlier: AlignedStudy) -> bool:
    """Whether the other sequences do not speak against a lesion.

    A lesion is bright on T2: where both studies have one, it must have become brighter there too.
    Without it, what has become brighter on T1 is none (blood, contrast medium, flow).

    Parameters
    ----------
    region
        What has become brighter from the earlier to the later study.
    images
        The pair, with ``later`` as its current image.
    later, earlier
        The studies.
    """
    for role, least, sign in (("t2", _T2_CHANGE, 1), ("t1", -_T1_CHANGE, -1)):
        if not all(_has(study, role) for study in (later, earlier)):
            continue
        space = images.difference.space
        ring = images.around(region.voxels).ring_voxels
        affine = np.asarray(space.grid.affine, dtype=float)
        now, before = (
            _contrast(study, role, to_study, affine, region.voxels, ring)
            for study, to_study in ((later, space.to_current), (earlier, space.to_prior))
        )
        if now is None or before is None:
            continue
        return bool(sign * (now - before) > least)
    return True


def _has(study: AlignedStudy, role: str) -> bool:
    series: Mapping[str, object] = study.selected.series
    return role in series and role in study.to_flair and study.to_flair[role].accepted


def _contrast(
    study: AlignedStudy,
    role: str,
    to_study: np.ndarray,
    affine: np.ndarray,
    core: np.ndarray,
    ring: np.ndarray,
) -> float | None:
    """Brightness of a region as a share of that of its surroundings, less 1; None if not shown."""
    volume = study.selected.series[role].volume
    to_index = np.linalg.inv(np.asarray(volume.affine, dtype=float))
    to_index = to_index @ study.to_flair[role].matrix_lps @ to_study @ affine
    values = [
        ndimage.map_coordinates(
            volume.array,
            transform_points(to_index, part.astype(float)).T,
            order=1,
            cval=np.nan,
            output=np.float64,
        )
        for part in (core, ring)
    ]
    values = [one[np.isfinite(one)] for one in values]
    if min(len(one) for one in values) == 0:
        return None
    around = float(np.median(values[1]))
    return float(values[0].mean()) / around - 1 if around > 0 else None


def drawn_on(volume: hd.Volume, voxels: np.ndarray, space: Halfway) -> np.ndarray:
    """A region of the common grid on the current study's voxels.

    Parameters
    ----------
    volume
        The study's grid.
    voxels
        int (n, 3): the region.
    space
        The common grid; ``to_current`` leads to the study.

    Returns
    -------
    numpy.ndarray
        int64 (m, 3): voxels of which at least half lies in the region or, where there is none (a
        region thinner than the slices), half of the largest share.
    """
    affine = np.asarray(volume.affine, dtype=float)
    grid_affine = np.asarray(space.grid.affine, dtype=float)
    corners = np.stack(
        np.meshgrid(*zip(voxels.min(axis=0) - 1, voxels.max(axis=0) + 1, strict=True)), axis=-1
    )
    points = transform_points(space.to_current @ grid_affine, corners.reshape(-1, 3).astype(float))
    index = transform_points(np.linalg.inv(affine), points)
    low = np.maximum(np.floor(index.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(index.max(axis=0)) + 1, volume.spatial_shape).astype(int)
    if (high <= low).any():
        return np.empty((0, 3), dtype=np.int64)
    inside = np.zeros(space.grid.spatial_shape, dtype=bool)
    inside[tuple(voxels.T)] = True
    candidates = np.stack(
        np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij"), -1
    ).reshape(-1, 3)
    counts = np.ceil(np.asarray(volume.spacing) / _STEP_MM).astype(int)
    steps = [(np.arange(n) + 0.5) / n - 0.5 for n in counts]
    share = np.zeros(len(candidates))
    for offset in np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3):
        at = space.from_current(transform_points(affine, candidates + offset))
        share += Images.at(inside, at)
    share /= counts.prod()
    limit = min(0.5, float(share.max()) / 2) if (share < 0.5).all() else 0.5
    return np.asarray(candidates[(share >= limit) & (share > 0)], dtype=np.int64)


@dataclass(frozen=True)
class Known:
    """The lesions of the other study.

    Attributes
    ----------
    objects, affine
        The lesions, and their voxel indices to LPS millimetres.
    matrix
        float64 (4, 4): points of the study that is added to, to points of the other one.
    tolerance_mm
        What lies farther from a lesion than this is not part of it.
    """

    objects: Sequence[LesionObject]
    affine: np.ndarray
    matrix: np.ndarray
    tolerance_mm: float

    def near(self, points: np.ndarray, share: float = 0.0) -> list[LesionObject]:
        """The lesions that more than a share of the points (n, 3) come near."""
        there = transform_points(self.matrix, points)
        low, high = there.min(axis=0) - self.tolerance_mm, there.max(axis=0) + self.tolerance_mm
        found = []
        for one in self.objects:
            shape = Shape(one, self.affine)
            if (shape.high < low).any() or (shape.low > high).any():
                continue
            if np.isfinite(shape.distance(there, self.tolerance_mm)).mean() > share:
                found.append(one)
        return found


def add_to(
    objects: list[LesionObject],
    probability: hd.Volume,
    region: Increase,
    space: Halfway,
    least: LeastSize,
    known: Known | None,
) -> None:
    """Add a region to the lesions of a study.

    Parameters
    ----------
    objects
        The study's lesions; one is replaced, or one is added at the end.
    probability
        The study's probability.
    region
        What is brighter in it than in the other study.
    space
        The common grid; ``to_current`` leads to the study.
    least
        The smallest addition to a lesion that counts.
    known
        The lesions of the other study. A region that is largely missing from a lesion beside it is
        added to it, unless that lesion was there before and the region hardly touches where it was:
        then it is a lesion of its own, however the outlines run together. None leaves a region
        beside a lesion out.
    """
    labels = label_array(tuple(objects), probability.spatial_shape)
    indices = drawn_on(probability, region.voxels, space)
    if not len(indices):
        return
    touched = _touched(indices, labels)
    points = transform_points(np.asarray(probability.affine, dtype=float), indices.astype(float))
    if touched is None:
        # what lies in a lesion of the other study is no new one: that one is looked for as a whole
        if known is None or not known.near(points, _LARGELY):
            objects.append(measure(indices, probability))
        return
    voxel_mm3 = float(np.prod(probability.spacing))
    free = indices[labels[tuple(indices.T)] == 0]
    if known is None:
        return
    beside = objects[touched]
    before = known.near(beside.points)
    if before and not known.near(points, _TOUCHING):
        apart = _apart(beside, points, before, known)
        rest, own = beside.indices[~apart], np.concatenate([beside.indices[apart], free])
        if min(len(rest), len(own)) * voxel_mm3 >= least.volume_mm3:
            objects[touched] = measure(rest, probability)
            objects.append(measure(own, probability))
            return
    if len(free) * voxel_mm3 >= least.volume_mm3 and len(free) > _MISSED * len(indices):
        whole = np.concatenate([beside.indices, free])
        objects[touched] = measure(whole, probability)


def _apart(
    beside: LesionObject,
    region: np.ndarray,
    before: Sequence[LesionObject],
    known: Known,
) -> np.ndarray:
    """bool (n,): voxels of a lesion that are nearer to a new region than to where it was before."""
    there = transform_points(known.matrix, beside.points)
    old = np.min([Shape(one, known.affine).distance(there, limit=1e4) for one in before], axis=0)
    new, _ = cKDTree(region).query(beside.points)
    return np.asarray(new < old)


def _touched(indices: np.ndarray, labels: np.ndarray) -> int | None:
    """The lesion that holds most of a region and its face neighbours; None if none does."""
    low = np.maximum(indices.min(axis=0) - 1, 0)
    high = np.minimum(indices.max(axis=0) + 2, labels.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    near = np.zeros(high - low, dtype=bool)
    near[tuple((indices - low).T)] = True
    near = ndimage.binary_dilation(near)
    counts = np.bincount(labels[box][near])
    counts[0] = 0
    return int(counts.argmax()) - 1 if counts.any() else None

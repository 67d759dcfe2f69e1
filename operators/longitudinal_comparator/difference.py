"""Two FLAIRs as one comparison: matched images, their difference and its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from operators.geometry import resample_to
from operators.longitudinal_comparator.halfway import Halfway, at_common_resolution, halfway, onto
from operators.longitudinal_comparator.intensity import matched
from operators.longitudinal_comparator.noise import NoiseModel, edge_strength, measure_noise
from operators.longitudinal_comparator.sharpness import equally_sharp
from operators.messages import AlignedStudy, LesionProbability

_LESION_SHARE = 0.5
_LESION_MARGIN_MM = 2.0
_BORDER_MM = 4.0


@dataclass(frozen=True)
class Difference:
    """What two studies show, on their halfway grid.

    Attributes
    ----------
    space
        The grid and the way to each study.
    current, prior
        float32: the FLAIRs in common units (see ``intensity.matched``), 0 outside ``seen``.
    seen
        bool: brain in either study, within both images.
    lesions
        bool: what may be lesion in either study.
    edges
        float32: see ``noise.edge_strength``.
    noise
        Of ``current - prior``.
    current_probability, prior_probability
        float32: the network's answers.
    brain
        bool: brain in both studies, within both images.
    """

    space: Halfway
    current: np.ndarray
    prior: np.ndarray
    seen: np.ndarray
    lesions: np.ndarray
    edges: np.ndarray
    noise: NoiseModel
    current_probability: np.ndarray
    prior_probability: np.ndarray
    brain: np.ndarray

    @property
    def exchanged(self) -> Difference:
        """The same, had the images been taken in the other order."""
        return replace(
            self,
            space=replace(
                self.space, to_current=self.space.to_prior, to_prior=self.space.to_current
            ),
            current=self.prior,
            prior=self.current,
            current_probability=self.prior_probability,
            prior_probability=self.current_probability,
        )


def compare_images(
    current_study: AlignedStudy,
    prior_study: AlignedStudy,
    current: LesionProbability,
    prior: LesionProbability,
    matrix: np.ndarray,
) -> Difference:
    """Bring two studies together.

    Parameters
    ----------
    current_study, prior_study
        The studies.
    current, prior
        Where lesions may be; these voxels do not take part in the matching of intensities and in
        the measure of noise.
    matrix
        4×4: points of the current FLAIR to points of the prior one.

    Raises
    ------
    ValueError
        If the two studies have no lesion-free brain in common.
    """
    now = current_study.selected.series["flair"].volume
    before = prior_study.selected.series["flair"].volume
    space = halfway(current_study.brain_mask, prior_study.brain_mask, now, before, matrix)
    mm = space.spacing_mm
    images = [
        onto(at_common_resolution(one, two, to_one, to_two, mm), space, to_one)
        for one, two, to_one, to_two in (
            (now, before, space.to_current, space.to_prior),
            (before, now, space.to_prior, space.to_current),
        )
    ]
    shown = np.isfinite(images[0]) & np.isfinite(images[1])
    brains = [
        resample_to(study.brain_mask, space.grid, to_study, nearest=True).array > 0
        for study, to_study in (
            (current_study, space.to_current),
            (prior_study, space.to_prior),
        )
    ]
    lesions = np.zeros_like(shown)
    probabilities = []
    for part, to_study in ((current, space.to_current), (prior, space.to_prior)):
        probability = np.asarray(resample_to(part.probability, space.grid, to_study).array)
        probabilities.append(probability)
        lesions |= probability >= _LESION_SHARE * part.threshold
    # two brain masks never agree at the surface; what one of them holds can be compared
    seen = shown & (brains[0] | brains[1])
    reach = max(1, round(_LESION_MARGIN_MM / mm))
    near_lesion = ndimage.binary_dilation(lesions, iterations=reach)
    normal = shown & brains[0] & brains[1] & ~near_lesion
    if not shown.all():
        # filters mix what lies at an image's border with what lies outside
        normal &= ndimage.binary_erosion(shown, iterations=max(1, round(_BORDER_MM / mm)))
    images = [np.where(shown, image, 0) for image in images]
    one, two = (np.where(shown, image, 0) for image in matched(images[0], images[1], normal, mm))
    one, two = equally_sharp(one, two, normal, mm)
    edges = edge_strength(one, two, mm)
    noise = measure_noise(one - two, edges, normal, mm)
    return Difference(
        space=space,
        current=np.where(seen, one, 0),
        prior=np.where(seen, two, 0),
        seen=seen,
        lesions=lesions,
        edges=edges,
        noise=noise,
        current_probability=probabilities[0],
        prior_probability=probabilities[1],
        brain=shown & brains[0] & brains[1],
    )

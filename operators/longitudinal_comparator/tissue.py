"""Grey matter, white matter and fluid of one patient, from whatever sequences there are.

A Gaussian mixture over all sequences at once, one Gaussian for each tissue, with the atlas as
prior probability of each voxel and a smooth bias field for each sequence, fitted by expectation
maximisation (Ashburner and Friston, NeuroImage 26:839, 2005; Van Leemput et al., IEEE TMI 18:885,
1999). Lesions take no part in the fit and get their tissue from the prior alone.
"""

from __future__ import annotations

import numpy as np

GREY, WHITE, FLUID = range(3)

_SAMPLE = 60_000
_ITERATIONS = 24
_BIAS_EVERY = 4
_BIAS_ORDER = 3
_LEAST_PRIOR = 0.003
_LEAST_SD = 0.03
_OUTLIER_SD = 4.0
_LEAST_CONTRAST = 2.5
"""Of white matter and fluid on the FLAIR, in standard deviations of white matter; scans have 6 and
more."""


def tissue_probabilities(
    images: np.ndarray, priors: np.ndarray, places: np.ndarray, lesion: np.ndarray
) -> np.ndarray:
    """The probability of each tissue in each voxel of the brain.

    Parameters
    ----------
    images
        float32 (sequences, n): intensities of the brain's voxels, in any units; the FLAIR first.
    priors
        float32 (2, n): prior probability of grey and of white matter; the rest is fluid.
    places
        float32 (n, 3): where the voxels lie, scaled to [-1, 1].
    lesion
        bool (n): voxels that hold no healthy tissue.

    Returns
    -------
    numpy.ndarray
        float32 (3, n): grey matter, white matter, fluid; all 0 if the images do not tell fluid
        from white matter.
    """
    count = images.shape[1]
    prior = np.empty((3, count), dtype=np.float32)
    prior[:2] = priors
    prior[2] = 1.0 - priors.sum(axis=0)
    np.clip(prior, _LEAST_PRIOR, 1.0, out=prior)
    prior /= prior.sum(axis=0)
    scale = np.median(images[:, (prior[WHITE] > 0.7) & ~lesion], axis=1)
    data = (images / np.maximum(scale, 1e-6)[:, None]).astype(np.float32)

    fit = np.flatnonzero(~lesion)
    fit = fit[:: max(1, len(fit) // _SAMPLE)]
    basis = _polynomial(places[fit].astype(float))
    sample, weight = data[:, fit].astype(float), prior[:, fit].astype(float)
    corrected, bias = sample, np.zeros((len(data), len(basis)))
    for iteration in range(_ITERATIONS):
        means, covariances = _gaussians(corrected, weight)
        weight = _posterior(corrected, prior[:, fit], means, covariances)
        if iteration % _BIAS_EVERY == _BIAS_EVERY - 1:
            bias = _bias(sample, weight[WHITE], basis)
            corrected = sample / np.exp(bias @ basis)
    data = data / np.exp(bias.astype(np.float32) @ _polynomial(places))
    means, covariances = _gaussians(corrected, weight)
    sd = np.sqrt(covariances[:, 0, 0])
    if means[WHITE, 0] - means[FLUID, 0] < _LEAST_CONTRAST * sd[WHITE]:
        return np.zeros_like(prior)
    result = _posterior(data, prior, means, covariances).astype(np.float32)
    # what is far brighter on FLAIR than any tissue is a lesion, known or not
    bright = (data[0] > (means[:, 0] + _OUTLIER_SD * sd)[:2].max()) | lesion
    result[:, bright] = prior[:, bright]
    return result


def _gaussians(data: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (3, sequences) and covariances (3, sequences, sequences) of the tissues."""
    means, covariances = [], []
    for one in weight:
        total = one.sum() + 1e-9
        mean = data @ one / total
        offset = data - mean[:, None]
        covariance = (offset * one) @ offset.T / total
        means.append(mean)
        covariances.append(covariance + _LEAST_SD**2 * np.eye(len(data)))
    return np.asarray(means), np.asarray(covariances)


def _posterior(
    data: np.ndarray, prior: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> np.ndarray:
    logarithm = np.empty_like(prior)
    for tissue, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
        offset = data - mean[:, None].astype(data.dtype)
        inverse = np.linalg.inv(covariance).astype(data.dtype)
        distance = np.einsum("in,ij,jn->n", offset, inverse, offset, optimize=True)
        constant = 0.5 * np.linalg.slogdet(covariance)[1]
        logarithm[tissue] = np.log(prior[tissue]) - 0.5 * distance - constant
    logarithm -= logarithm.max(axis=0)
    np.exp(logarithm, out=logarithm)
    logarithm /= logarithm.sum(axis=0)
    return logarithm


def _bias(data: np.ndarray, white: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Coefficients (sequences, terms) of the logarithm of the bias field, seen in white matter."""
    sure = (white > 0.8) & (data > 0.2).all(axis=0)
    design = basis[:, sure]
    coefficients = []
    for row in data:
        target = np.log(row[sure])
        target -= np.median(target)
        kept = np.abs(target) < 0.5
        terms = design[:, kept]
        # the normal equations: a few terms on [-1, 1] are well conditioned
        solved = np.linalg.lstsq(terms @ terms.T, terms @ target[kept], rcond=None)[0]
        coefficients.append(solved)
    return np.asarray(coefficients)


def _polynomial(places: np.ndarray) -> np.ndarray:
    """Terms of a polynomial of the third order in three variables; (20, n)."""
    powers = [[np.ones_like(axis)] for axis in places.T]
    for axis, known in zip(places.T, powers, strict=True):
        for _ in range(_BIAS_ORDER):
            known.append(known[-1] * axis)
    x, y, z = powers
    return np.stack(
        [
            x[i] * y[j] * z[k]
            for i in range(_BIAS_ORDER + 1)
            for j in range(_BIAS_ORDER + 1 - i)
            for k in range(_BIAS_ORDER + 1 - i - j)
        ]
    )

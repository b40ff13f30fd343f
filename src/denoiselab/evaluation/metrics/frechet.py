"""The Fréchet distance of Gaussians, its standard error, and its value at infinitely many samples.

It is ours, as torch-fidelity's product of covariances is not symmetric and its means are float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import INFINITY, Influences, Score
from denoiselab.evaluation.feature_contracts import FEATURES, SPATIAL, Gaussian, Layer, Metric, Sample
from denoiselab.evaluation.metrics.standard_errors import second_order, standard_error, without_second_order
from denoiselab.evaluation.verdicts.paired import pairs

# Pairs of differences of samples that the second influence is estimated from.
_PAIRS = 512


class FrechetDistance(Metric):
    """The Fréchet distance (FID with Inception-v3), with its standard error, and its value at n = infinity.

    Source: Heusel et al., arXiv 1706.08500; Chong and Forsyth, arXiv 1911.07023. With layer `spatial`: sFID, Nash et
    al., Generating Images with Sparse Representations, arXiv 2103.03841.

    Args:
        layer: `features` or `spatial`.

    Raises:
        ValueError: If the layer is another one.
    """

    reads_moments, reads_features, reads_reference = True, False, True

    def __init__(self, layer: str = "features") -> None:
        if layer not in (FEATURES, SPATIAL):
            raise ValueError(f"layer={layer}: it must be {FEATURES} or {SPATIAL}.")
        self.layer = layer
        self._name = {FEATURES: "fd", SPATIAL: "sfd"}[layer]
        self.lower_is_better = {self._name: True, self._name + INFINITY: True}
        self._rooted: tuple[object, Tensor] = (None, torch.empty(0))  # the last reference, and its root

    def check(self, n: int, what: str) -> None:
        if n < 4:
            raise ValueError(f"{what}={n}: it must be at least 4, so that each half has a covariance.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `fd` and `fd_infinity`, or `sfd` and `sfd_infinity`."""
        if self._rooted[0] is not reference.moments:
            self._rooted = reference.moments, root_of(reference.moments)
        both = frechet_scores(samples.moments, reference.moments, self._rooted[1])
        return dict(zip(self.lower_is_better, both, strict=True))


def frechet_distance(p: Gaussian, q: Gaussian) -> float:
    """|m_p - m_q|^2 + tr(S_p + S_q) - 2 tr (S_p S_q)^1/2, in float64.

    The trace of the root is the sum of the roots of the eigenvalues of L^T S_p L with S_q = L L^T. That matrix is
    symmetric, so that nothing turns complex; all but the largest min(n_p, n_q) - 1 of its eigenvalues are zero, and
    rounding is kept from adding to them. Where all samples are at hand, and fewer than dimensions, the smaller Gram
    matrix has the same eigenvalues. Source: Heusel et al., TTUR, arXiv 1706.08500, eq. 6.
    """
    for first, second in ((p, q), (q, p)):  # the distance is symmetric, and Cholesky's factor is the cheaper one
        factor, failed = torch.linalg.cholesky_ex(second.covariance)
        if not failed:
            return _distance(first, second, _eigenvalues(first, factor))
    return _distance(p, q, _eigenvalues(p, root_of(q)))


def frechet_scores(p: Sample, q: Gaussian, root: Tensor) -> tuple[Score, Score]:
    """The Fréchet distance of samples p to a reference q, and its value at n = infinity, with their standard errors.

    The standard errors are of drawing p, and start from the infinitesimal jackknife: the first-order change of the
    distance with the weight of a sample x, psi(x) = 2 (m_p - m_q)^T y + y^T (1 - T) y with y = x - m_p and the optimal
    map T = S_q^1/2 (S_q^1/2 S_p S_q^1/2)^-1/2 S_q^1/2, has a variance over samples, within their strata, which is
    divided by n. It is estimated over the samples at hand. Leaving out blocks of samples instead moves the bias of the
    distance as well, and takes an eigendecomposition a block. Source: Jaeckel, The infinitesimal jackknife, 1972.

    Near the reference the distance is a quadratic form <d, H d> / 2 of the deviation d that was drawn, of variance
    V = tr (H S)^2 / 2 n^2, and the jackknife includes 2 V (see `second_order`). For the distance, V is subtracted. The
    value at infinity is the bilinear form <d_1, H d_2> / 2 of the deviations of both halves, whose variance is 2 V:
    nothing is subtracted. With n <= D samples V has no estimate: the jackknife is an upper bound near the reference.

    The influences of the distance are those of its value at infinity as well, whose score has none of its own.

    Args:
        p: Of at least 4 samples.
        q: The reference.
        root: Its `root_of`.
    """
    y = p.first - p.mean
    values, vectors = torch.linalg.eigh(_product(p, root))
    top = slice(-min(p.n - 1, q.n - 1, len(values)), None)
    if _is_small(p):
        squares = (p.n - 1) * (vectors[:, top].square() @ values[top].clamp_min(0).sqrt())
    else:
        squares = (y @ root @ vectors[:, top]).square() @ values[top].clamp_min(values[-1] * 1e-15).rsqrt()
    influence = 2 * y @ (p.mean - q.mean) + y.square().sum(1) - squares
    error = jackknife = standard_error(influence, p.n, p.strata)
    differences = torch.empty(0)
    if error is not None and min(p.n, q.n) > len(p.mean):
        differences = _double_differences(y @ root @ vectors, values, p.strata)
        # Products of two samples under the covariance of the sample itself have (1 - D / n) of the mean square of those
        # of others, as the entries of a projection matrix of rank D have; the second influence has fourth moments.
        within = 1 - len(p.mean) / p.n
        error = without_second_order(error, second_order(differences, p.n) / within**2)
        differences = differences / within
    kept = Influences(influence.float(), differences.float(), p.n, p.strata)
    return Score(_distance(p, q, values), error, influences=kept), _at_infinity(p, q, root, values, jackknife)


def second_influence(w: Tensor, other: Tensor, values: Tensor) -> Tensor:
    """Second influence `(k,)` of k pairs of samples on the distance, but for terms of one sample alone.

    It is 2 y^T T y' + sum_ij w_i w_j w'_i w'_j / (s_i s_j (s_i + s_j)), with w in the basis of the eigenvectors of
    `_product` and s^2 its eigenvalues: y^T T y' is sum_i w_i w'_i / s_i, and the rest has the divided differences of
    the square root. T is 1 for the mean alone; the mean's share in the covariance makes it T.

    Args:
        w: Deviations `(k, D)` of samples from the mean, times root and eigenvectors.
        other: Those of the other samples.
        values: Rising eigenvalues `(D,)`.
    """
    kept = values > values[-1] * 1e-10
    s, product = values[kept].sqrt(), (w * other)[:, kept]
    kernel = (s[:, None] * s * (s[:, None] + s)).reciprocal()
    return 2 * product @ s.reciprocal() + (product @ kernel * product).sum(1)


def _double_differences(w: Tensor, values: Tensor, strata: int) -> Tensor:
    """Those of `second_order`, of some pairs of the samples w `(m, D)`."""
    a, b = pairs(len(w), strata, min(_PAIRS, len(w) - strata))
    total = torch.zeros(len(a), dtype=torch.float64)
    for sign, i, j in ((1, a, b), (-1, a, b + strata), (-1, a + strata, b), (1, a + strata, b + strata)):
        total += sign * second_influence(w[i], w[j], values)
    return total


def _at_infinity(p: Sample, q: Gaussian, root: Tensor, values: Tensor, jackknife: float | None) -> Score:
    """The distance at n = infinity, from those of all samples and of both halves, by a straight line in 1/n.

    Halves use each sample equally often and draw no random number, where random subsets of many sizes also let the
    curvature in 1/n in. Source: Chong and Forsyth, Effectively Unbiased FID, arXiv 1911.07023, sec. 4.

    The bias falls as 1/n once n is well above the dimension D. With n < 2 D a half has a singular covariance, the line
    misses by up to the whole bias, and there is no value. Above, the standard error adds what the line misses to the
    jackknife. The trace of the root of a Wishart matrix of D equal eigenvalues s^2 is s D (1 - c/8 - c^2/64 - ...)
    with c = D / n, so that the line misses by s D c^2 / 16 at a step of s D c / 4, the mean's part tr S / n left out:
    by step^2 over the trace s D. Eigenvalues that fall have a smaller step and miss less.

    Args:
        p: Of at least 4 samples.
        q: The reference.
        root: Its `root_of`.
        values: The rising eigenvalues of S_p S_q.
        jackknife: The infinitesimal jackknife's standard error of the distance of p to q.
    """
    dimension = len(p.mean)
    if p.n < 2 * dimension:
        reason = f"n = {p.n} is less than 2 x {dimension} dimensions: no line in 1/n."
        return Score(math.nan, reason=reason)
    value, halves = _distance(p, q, values), p.halves
    at_half = sum(_distance(half, q, _eigenvalues(half, root)) for half in halves) / 2
    inverse_n = sum(1 / half.n for half in halves) / 2
    step = (at_half - value) / (inverse_n - 1 / p.n) / p.n
    if jackknife is None:
        return Score(value - step)
    bent = max(0.0, step - float(p.covariance.trace()) / p.n)
    missed = bent**2 / float(values.clamp_min(0).sqrt().sum())
    return Score(value - step, math.hypot(jackknife, missed))


def root_of(q: Gaussian) -> Tensor:
    """L with S_q = L L^T, `(D, D)`: Cholesky's factor, or the symmetric root of a singular matrix."""
    covariance = q.covariance
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        cholesky: Tensor = factor
        return cholesky
    values, vectors = torch.linalg.eigh(covariance)
    root: Tensor = vectors * values.clamp_min(0).sqrt() @ vectors.T
    return root


def _distance(p: Gaussian, q: Gaussian, values: Tensor) -> float:
    """The distance, from the rising eigenvalues of S_p S_q."""
    cross = values[-min(p.n - 1, q.n - 1, len(values)) :].clamp_min(0).sqrt().sum()
    return float((p.mean - q.mean).square().sum() + p.covariance.trace() + q.covariance.trace() - 2 * cross)


def _eigenvalues(p: Gaussian, root: Tensor) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(_product(p, root))
    return values


def _product(p: Gaussian, root: Tensor) -> Tensor:
    """A symmetric matrix with the eigenvalues of S_p S_q other than zero."""
    if _is_small(p):
        deviations = (p.first - p.mean) @ root
        return deviations @ deviations.T / (p.n - 1)
    return root.T @ p.covariance @ root


def _is_small(p: Gaussian) -> bool:
    """Fewer samples than dimensions, all at hand."""
    return len(p.first) == p.n <= len(p.mean)

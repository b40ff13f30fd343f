"""The Monge Inception Distance: a sliced squared Wasserstein distance of features, with a standard error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error

_NUMBERS = 2**23  # of one set along the directions that are projected on at once


class MongeInceptionDistance(Metric):
    """3 D times the mean over random directions of the squared W2 distance between projections of both sets (MIND).

    Sets of different sizes are cut to the smaller one at random. The draws are torch-fidelity's, so that the value is
    its value; projections are in double precision.

    Source: Berthet et al., MIND: Monge Inception Distance for Generative Models Evaluation, arXiv 2605.06797.

    Args:
        projections: Number of directions.
        seed: Of the generator that draws subsets and directions.

    Raises:
        ValueError: If projections < 1.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True
    lower_is_better: Mapping[str, bool] = {"mind": True}

    def __init__(self, projections: int = 1000, seed: int = 2020) -> None:
        if projections < 1:
            raise ValueError(f"projections={projections}: it must be at least 1.")
        self.projections, self.seed = projections, seed

    def check(self, n: int, what: str) -> None:
        if n < 2:
            raise ValueError(f"{what}={n}: it must be at least 2.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `mind`. Its standard error is that of drawing samples, by their influence.

        The influence of a sample is the mean over directions of the Kantorovich potential of the optimal map T along
        the direction, whose slope is 2 (x - T(x)), times 3 D. Near the reference, where it vanishes, the jackknife
        counts the second order twice, so that the error is an upper bound. Samples that are cut have no influence.
        """
        x, y = samples.outputs, reference.outputs
        n, dimension = min(len(x), len(y)), x.shape[1]
        rng = torch.Generator().manual_seed(self.seed)
        if len(x) > n:
            x = x[torch.randperm(len(x), generator=rng)[:n]]
        if len(y) > n:
            y = y[torch.randperm(len(y), generator=rng)[:n]]
        directions = torch.randn(self.projections, dimension, generator=rng)
        directions = (directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)).double()
        total, influence = torch.zeros((), dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        for some in directions.split(max(1, _NUMBERS // n)):
            distance, potential = _along(x.double() @ some.T, y.double() @ some.T)
            total += distance.sum()
            influence += potential.sum(1)
        scale = 3 * dimension / self.projections
        whole = n == len(samples.outputs)  # else the samples left are in no order
        error = standard_error(scale * influence, n, samples.strata if whole else 1)
        kept = influences(scale * influence, n, samples.strata) if whole else None
        return {"mind": Score(float(scale * total), error, influences=kept)}


def _along(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Squared W2 distances `(K,)` of the columns of x and y `(n, K)`, and the potentials `(n, K)` of x, with mean 0.

    The potential is the integral of its slope between neighbours, by the trapezoidal rule, which is exact for a map
    that is linear between them.
    """
    x, order = x.sort(0)
    gap = x - y.sort(0).values
    potential = torch.zeros_like(x)
    potential[1:] = (x.diff(dim=0) * (gap[1:] + gap[:-1])).cumsum(0)
    potential -= potential.mean(0)
    return gap.square().mean(0), torch.zeros_like(x).scatter_(0, order, potential)

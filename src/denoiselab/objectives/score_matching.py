"""Score matching without a regression target: implicit (exact trace) and sliced.

Both fit the score s of the noisy marginal q_t. With the weight sigma^2 their expectation is that of the denoising
loss |eps_hat - eps|^2 / 2 up to a constant (Vincent 2011): sigma^2 (|s|^2 / 2 + tr ds/dx) has D / 2 less.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import LevelObjective, corrupt
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.objectives.projections import Projection
from denoiselab.schedules.base import like


class _ScoreMatching(LevelObjective):
    """sigma^power (|s|^2 / 2 + tr ds/dx), s = -eps_hat / sigma, at noisy data.

    Args:
        level_distribution: Draws the noise levels; a single one gives Hyvärinen's loss on data with that much noise.
        power: Of sigma in the weight; with 2 all levels have the same weight.
    """

    second_derivatives = True

    def __init__(self, level_distribution: LevelDistribution, power: float = 2.0, sum_dimensions: bool = False) -> None:
        super().__init__(level_distribution, sum_dimensions)
        self.power = power

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        draw = self.level_distribution(denoiser.schedule, noise)
        level = draw.level
        # The loss is differentiated twice, which only the plain form of attention can be.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = corrupt(x0, noise.like(x0), level).requires_grad_()
            eps = denoiser(x, level, cond).eps
            # In terms of eps: sigma^2 (|s|^2 / 2 + tr ds/dx) = |eps|^2 / 2 - sigma tr d eps/dx.
            inner = self.inner(x, eps, like(level.sigma, x), noise)
        loss = inner if self.sum_dimensions else inner / x0[0].numel()
        if self.power != 2:
            loss = (level.sigma ** (self.power - 2)).to(loss) * loss
        self.level_distribution.observe(level, loss)
        loss = loss if draw.weight is None else draw.weight.to(loss) * loss
        return loss.float()

    @abstractmethod
    def inner(self, x: Tensor, eps: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
        """sigma^2 (|s|^2 / 2 + tr ds/dx), `(B,)`, a sum over dimensions; `eps` `(B, *)` depends on `x` `(B, *)`."""


class ImplicitScoreMatching(_ScoreMatching):
    """The exact trace, one backward pass a dimension: for few dimensions, and to test the other objectives.

    Source: Hyvärinen, Estimation of Non-Normalized Statistical Models by Score Matching, JMLR 6, 2005, theorem 1.
    """

    def inner(self, x: Tensor, eps: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
        flat = eps.flatten(1)
        trace = torch.zeros_like(flat[:, 0])
        for i in range(flat.shape[1]):
            gradient = torch.autograd.grad(flat[:, i].sum(), x, create_graph=True)[0]
            trace = trace + (sigma * gradient).flatten(1)[:, i]
        return flat.square().sum(1) / 2 - trace


class SlicedScoreMatching(_ScoreMatching):
    """The trace along random directions v, v^T (ds/dx) v, one backward pass a direction.

    Source: Song et al., Sliced Score Matching, arXiv 1905.07088, eq. 7 and 8.

    Args:
        projection: Draws the directions.
        count: Directions a sample, whose terms are averaged.
        variance_reduced: Use |s|^2 / 2 (eq. 8) instead of its projection on the direction (eq. 7).
    """

    def __init__(
        self,
        level_distribution: LevelDistribution,
        projection: Projection,
        count: int = 1,
        variance_reduced: bool = True,
        power: float = 2.0,
        sum_dimensions: bool = False,
    ) -> None:
        super().__init__(level_distribution, power, sum_dimensions)
        if count < 1:
            raise ValueError(f"count={count}: it must be at least 1.")
        self.projection, self.count, self.variance_reduced = projection, count, variance_reduced

    def inner(self, x: Tensor, eps: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
        terms = []
        for _ in range(self.count):
            v = self.projection(x, noise)
            along = (v * eps).flatten(1).sum(1)
            gradient = torch.autograd.grad(along.sum(), x, create_graph=True)[0]
            square = eps.flatten(1).square().sum(1) if self.variance_reduced else along.square()
            terms.append(square / 2 - (sigma * v * gradient).flatten(1).sum(1))
        return torch.stack(terms).mean(0)

"""Denoising regression: parameterization x weighting x distribution of levels."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser
from denoiselab.noise import Noise
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.objectives.weights import Weighting
from denoiselab.parameterizations import determinant
from denoiselab.schedules.base import like


class DenoisingObjective:
    """w(level) |x0_hat - x0|^2, evaluated where the network speaks.

    With out = a x0 + b eps, |out_hat - out|^2 = (det / sigma)^2 |x0_hat - x0|^2, so the weight of the output's
    squared error is w (sigma / det)^2: 1 for L_simple with an eps network (Ho et al., arXiv 2006.11239, eq. 14).

    Args:
        weighting: The weight w of the squared error of x0.
        level_distribution: Draws the levels to train at.
    """

    def __init__(self, weighting: Weighting, level_distribution: LevelDistribution) -> None:
        self.weighting = weighting
        self.level_distribution = level_distribution

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, **cond: Tensor) -> Tensor:
        """The loss of each sample, `(B,)` float32: a mean over dimensions, in no unit.

        Args:
            denoiser: What is trained.
            x0: Clean batch `(B, *)`.
            noise: Source of the levels and of eps.
            cond: Conditioning tensors of the batch.
        """
        level = self.level_distribution(denoiser.schedule, noise)
        eps = noise.like(x0)
        x = like(level.alpha, x0) * x0 + like(level.sigma, x0) * eps
        out, level, (a, b) = denoiser.output(x, level, **cond)
        target = like(a, x0) * x0 + like(b, x0) * eps
        weight = self.weighting(level) * (level.sigma / determinant(level, (a, b))).square()
        error = (out.float() - target.float()).square().flatten(1).mean(1)
        return weight.to(torch.float32) * error

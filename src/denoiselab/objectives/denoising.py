"""Denoising regression: parameterization x weighting x distribution of levels x distance."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, Output
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import LevelObjective, corrupt
from denoiselab.objectives.distances import Distance, l2
from denoiselab.objectives.level_distributions import Draw, LevelDistribution
from denoiselab.objectives.uncertainty import Uncertainty
from denoiselab.objectives.weights import Weighting
from denoiselab.parameterizations import determinant
from denoiselab.schedules.base import like


class DenoisingObjective(LevelObjective):
    """w(level) |x0_hat - x0|^2, evaluated in the space of the network's output.

    With out = a x0 + b eps, |out_hat - out|^2 = (det / sigma)^2 |x0_hat - x0|^2, so the weight of the output's
    squared error is w (sigma / det)^2: 1 for L_simple with an eps network (Ho et al., arXiv 2006.11239, eq. 14).
    Denoising score matching (Vincent 2011) is this at one level, NCSN's loss this at many.

    Args:
        weighting: The weight w of the squared error of x0.
        distance: Replaces the square of the output's error, with the same weight.
        uncertainty: A further, learned weight of each level; None for none.
    """

    def __init__(
        self,
        weighting: Weighting,
        level_distribution: LevelDistribution,
        distance: Distance = l2,
        uncertainty: Uncertainty | None = None,
        sum_dimensions: bool = False,
    ) -> None:
        super().__init__(level_distribution, sum_dimensions)
        self.weighting = weighting
        self.distance = distance
        self.uncertainty = uncertainty

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        draw = self.level_distribution(denoiser.schedule, noise)
        eps = noise.like(x0)
        output = denoiser.output(corrupt(x0, eps, draw.level), draw.level, cond)
        return self.loss(output, x0, eps, draw)

    def loss(self, output: Output, x0: Tensor, eps: Tensor, draw: Draw) -> Tensor:
        """The loss `(B,)` float32 of a network's output on alpha x0 + sigma eps at the levels drawn."""
        a, b = output.coefficients
        target = like(a, x0) * x0 + like(b, x0) * eps
        error = self.distance(output.out.float() - target.float()).flatten(1)
        weight = self.weighting(draw.level) * (draw.level.sigma / determinant(draw.level, (a, b))).square()
        loss = weight.to(torch.float32) * (error.sum(1) if self.sum_dimensions else error.mean(1))
        self.level_distribution.observe(draw.level, loss)
        if self.uncertainty is not None:
            u = self.uncertainty(draw.level)
            loss = loss * torch.exp(-u) + u
        return loss if draw.weight is None else draw.weight.to(loss) * loss

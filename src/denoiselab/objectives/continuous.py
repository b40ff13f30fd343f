"""The continuous-time variational bound on the likelihood, in bits/dim."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives import weights
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.bounds import ends, mean_square_error, prior_divergence
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.level_distributions import UniformTime
from denoiselab.objectives.uniforms import Uniforms
from denoiselab.schedules import Schedule


class ContinuousTerms(NamedTuple):
    """The continuous-time bound's parts in bits/dim, `(B,)` float64 each; it is their sum."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor


class ContinuousBound(Objective):
    """VDM's loss: prior, reconstruction and the continuous-time diffusion loss, a bound in bits/dim.

    It depends on the schedule through its end points alone, which a learned schedule trains with it.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 11-19.

    Args:
        decoder: log p(x0 | z_0) around z_0 / alpha_0, with variance (sigma_0 / alpha_0)^2.
        uniforms: Source of uniform times; None for `Independent`. VDM's is `LowDiscrepancy`.
    """

    def __init__(self, decoder: Decoder, uniforms: Uniforms | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.levels = UniformTime(uniforms)

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """An unbiased estimate of the bound of each sample, `(B,)` float32, in bits/dim."""
        schedule = denoiser.schedule
        level = self.levels(schedule, noise).level
        eps, last_eps = noise.like(x0), noise.like(x0)
        prediction = denoiser(corrupt(x0, eps, level), level, cond)
        diffusion = (schedule.t_max - schedule.t_min) * weights.likelihood(level) * mean_square_error(prediction, x0)
        prior, reconstruction = self._ends(schedule, x0, last_eps)
        return ((prior + reconstruction + diffusion) / math.log(2)).float()

    def evaluate(
        self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning(), draws: int = 1
    ) -> ContinuousTerms:
        """An unbiased estimate of the bound of each sample, `draws` network calls; differentiable in x0.

        The bound does not depend on the path between its ends, so levels are drawn uniformly not in t but in
        w = asinh(alpha / sigma), where the integrand snr |x0 - x0_hat|^2 d lam varies least; those of a sample are
        equally spaced with one random offset.

        Args:
            denoiser: The model to evaluate.
            x0: Clean batch `(B, *)`.
            noise: Source of levels and of the eps at each.
            cond: The batch's conditioning.
            draws: Levels a sample.
        """
        schedule = denoiser.schedule
        first, last = ((level.alpha / level.sigma).asinh() for level in ends(schedule))
        offset, diffusion = noise.uniform(), torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for draw in range(draws):
            place = last + (offset + draw) / draws * (first - last)
            level = schedule.at(place.sinh().log())
            prediction = denoiser(corrupt(x0, noise.like(x0), level), level, cond)
            # snr d lam, with snr = sinh(w)^2
            diffusion = diffusion + (first - last) / draws * place.sinh() * place.cosh() * mean_square_error(
                prediction, x0
            )
        prior, reconstruction = self._ends(schedule, x0, noise.like(x0))
        return ContinuousTerms(*(nats / math.log(2) for nats in (prior, reconstruction, diffusion)))

    def _ends(self, schedule: Schedule, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Prior and reconstruction loss in nats per dimension, `(B,)` float64; `eps` is that of z_0."""
        first, last = ends(schedule)
        mean = corrupt(x0.double(), eps.double(), first) / first.alpha
        return prior_divergence(x0, last), -self.decoder(x0, mean, 2 * first.rho.log()).flatten(1).mean(1)

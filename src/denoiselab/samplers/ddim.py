"""DDIM: the transfer that every deterministic sampler improves on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Sampler, move_eps
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import posterior_variances


class DDIM(Sampler):
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, with v = eta^2 times the posterior variance.

    eta = 0 is deterministic and first order; eta = 1 is DDPM's fixed-small ancestral step.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 and 16.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        eta: From 0 to 1.

    Raises:
        ValueError: `eta` is outside [0, 1].
    """

    order = 1

    def __init__(self, spacing: Spacing, steps: int, eta: float = 0.0) -> None:
        super().__init__(spacing, steps)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta}: it must lie between 0 and 1.")
        self.eta = eta

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Tensor,
        here: Level,
        there: Level,
        state: Any,
        noise: Noise,
    ) -> tuple[Tensor, Any]:
        """One transfer."""
        x0, eps, _ = denoise(x, here)
        if self.eta == 0:
            return move_eps(x, here, there, eps), state
        variance = self.eta**2 * posterior_variances(here, there)[0]
        x = there.alpha * x0 + (there.sigma.square() - variance).sqrt() * eps
        return x + variance.sqrt() * noise.like(x), state

"""Ancestral sampling: draw from the posterior q(x_s | x_t, x0) at the predicted x0."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Sampler
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule


def posterior_variances(here: Level, there: Level) -> tuple[Tensor, Tensor]:
    """DDPM's two bounds on the variance of x_there given x_here: (posterior, beta), scalars.

    beta = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2, posterior = beta sigma_s^2 / sigma_t^2.
    Source: Ho et al., DDPM, arXiv 2006.11239, section 3.2; Kingma et al., arXiv 2107.00630, eq. 20-24.
    """
    ratio = here.alpha / there.alpha
    beta = here.sigma.square() - (ratio * there.sigma).square()
    return beta * (there.sigma / here.sigma).square(), beta


class Ancestral(Sampler):
    """x_s = mean(x_t, x0_hat) + sqrt(variance) z, with the posterior's mean.

    The variance is posterior^(1 - large) beta^large: 0 is DDPM's fixed-small, 1 its fixed-large, and what lies
    between is the interpolation of Nichol and Dhariwal (arXiv 2102.09672, eq. 15).

    Source: Ho et al., DDPM, arXiv 2006.11239, algorithm 2, for any schedule and any step.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        large: From 0 (fixed small) to 1 (fixed large).

    Raises:
        ValueError: `large` is outside [0, 1].
    """

    order = 1

    def __init__(self, spacing: Spacing, steps: int, large: float = 0.0) -> None:
        super().__init__(spacing, steps)
        if not 0 <= large <= 1:
            raise ValueError(f"large={large}: it must lie between 0 and 1.")
        self.large = large

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
        """One draw from the posterior."""
        x0 = denoise(x, here).x0
        small, beta = posterior_variances(here, there)
        keep = here.alpha / there.alpha * (there.sigma / here.sigma).square()
        mean = keep * x + (there.alpha * beta / here.sigma.square()) * x0
        variance = small ** (1 - self.large) * beta**self.large
        return mean + variance.sqrt() * noise.like(x), state

"""Ancestral sampling: draw from the posterior q(x_s | x_t, x0) at the predicted x0."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.parameterizations import posterior_mean
from denoiselab.samplers.base import Sampler
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import log_bounds


class Ancestral(Sampler):
    """x_s = mean(x_t, x0_hat) + sqrt(variance) z, with the posterior's mean.

    The variance is the model's, where it has one; or posterior^(1 - large) beta^large: 0 is DDPM's fixed-small, 1
    its fixed-large, and what lies between is the interpolation of Nichol and Dhariwal (arXiv 2102.09672, eq. 15).

    Source: Ho et al., DDPM, arXiv 2006.11239, algorithm 2, for any schedule and any step.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        large: From 0 (fixed small) to 1 (fixed large); None for the model's own variance, and 0 where it has none.

    Raises:
        ValueError: `large` is outside [0, 1].
    """

    order = 1

    def __init__(self, spacing: Spacing, steps: int, large: float | None = None) -> None:
        super().__init__(spacing, steps)
        if large is not None and not 0 <= large <= 1:
            raise ValueError(f"large={large}: it must lie between 0 and 1, or be null for the model's own.")
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
        prediction = denoise(x, here)
        keep, gain = posterior_mean(here, there)
        mean = keep * x + gain * prediction.x0
        if self.large is None and prediction.variance is not None:
            std = (prediction.variance(here, there) / 2).exp()
        else:
            small, beta = log_bounds(here, there)
            std = ((small + (self.large or 0.0) * (beta - small)) / 2).exp()
        return mean + std * noise.like(x), state

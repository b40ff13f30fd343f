"""Ancestral sampling: draw from the posterior q(x_s | x_t, x0) at the predicted x0."""

from __future__ import annotations

import math

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.parameterizations import posterior_mean
from denoiselab.samplers.base import Memory, OneStep, Step
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import log_bounds


class Ancestral(OneStep):
    """x_s = mean(x_t, x0_hat) + sqrt(variance) z, with the posterior's mean.

    The variance is the model's, where it has one; or posterior^(1 - large) beta^large: 0 is DDPM's fixed-small, 1
    its fixed-large (with x0 clipped it is DDIM's sigma-hat, `ddpm_noisy` in its code), and what lies between is the
    interpolation of Nichol and Dhariwal (arXiv 2102.09672, eq. 15).

    Source: Ho et al., DDPM, arXiv 2006.11239, algorithm 2, for any schedule and any step.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        large: From 0 (fixed small) to 1 (fixed large); None for the model's own variance, and 0 where it has none.
        threshold: Mends each predicted x0; `Clip` is what DDPM's code does.

    Raises:
        ValueError: `large` is outside [0, 1].
    """

    order = 1
    stochastic = True

    def __init__(
        self, spacing: Spacing, steps: int, large: float | None = None, threshold: Threshold | None = None
    ) -> None:
        super().__init__(spacing, steps, threshold)
        if large is not None and not 0 <= large <= 1:
            raise ValueError(f"large={large}: it must lie between 0 and 1, or be null for the model's own.")
        self.large = large

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One draw from the posterior."""
        mean = [float(c) for c in posterior_mean(here, there)]
        small, beta = (float(bound) for bound in log_bounds(here, there))
        std = math.exp((small + (self.large or 0.0) * (beta - small)) / 2)
        own = self.large is None

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            prediction = denoise(x, here)
            x = linear(mean, (x, prediction.x0))
            z = noise.between(x, here, there)
            if own and prediction.variance is not None:
                return x.add_((prediction.variance(here, there) / 2).exp() * z)
            return x.add_(z, alpha=std)

        return step

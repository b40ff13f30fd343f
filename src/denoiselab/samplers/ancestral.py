"""Ancestral sampling: draw from the posterior q(x_s | x_t, x0) at the predicted x0."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.parameterizations import posterior_mean
from denoiselab.samplers.base import Memory, OneStep, Step
from denoiselab.samplers.spacing import Spacing, VPTime
from denoiselab.samplers.transfer import linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import log_bounds


@dataclass(eq=False)
class Ancestral(OneStep):
    """x_s = mean(x_t, x0_hat) + sqrt(variance) z, with the posterior's mean.

    The variance is posterior^(1 - large) beta^large: `large=0` is DDPM's fixed-small, 1 its fixed-large (with x0
    clipped: DDIM's sigma-hat, `ddpm_noisy` in its code), and values between are the interpolation of Nichol and
    Dhariwal (arXiv 2102.09672, eq. 15). Or it is predicted by the model. Of a denoiser that predicts a gradient
    (`Prediction.gradient`), the mean moves by the variance times it.

    Source: Ho et al., DDPM, arXiv 2006.11239, algorithm 2, for any schedule and any step.

    Args:
        large: From 0 to 1; None for the variance that the model predicts, or 0 if it predicts none.
    """

    spacing: Spacing = field(default_factory=VPTime)
    steps: int = 100
    large: float | None = 0.0

    convergence_order = 1
    stochastic = True
    moves_mean = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.large is not None and not 0 <= self.large <= 1:
            raise ValueError(f"large={self.large}: it must lie between 0 and 1, or be null for the model's own.")

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        mean = [float(c) for c in posterior_mean(here, there)]
        small, beta = (float(bound) for bound in log_bounds(here, there))
        std = math.exp((small + (self.large or 0.0) * (beta - small)) / 2)
        own = self.large is None

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            prediction = denoise(x, here)
            x = linear(mean, (x, prediction.x0))
            z = noise.between(x, here, there)
            spread: Tensor | float = std
            if own and prediction.variance is not None:
                spread = (prediction.variance(here, there) / 2).exp()
                x.add_(spread * z)
            else:
                x.add_(z, alpha=std)
            return x if prediction.gradient is None else x.add_(spread**2 * prediction.gradient)

        return step

"""A sampler."""

import math

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers import Memory, OneStep
from denoiselab.samplers.base import Step
from denoiselab.schedules import Level, Schedule


class ExponentialHeun(OneStep):
    """Heun's rule for x0 in half log-SNR: the mean of the predictions at both ends of a step takes the place of x0.

    Source: Hochbruck and Ostermann, Exponential integrators, Acta Numerica 2010, example 2.17 with c2 = 1.
    """

    convergence_order = 2
    calls_per_step = 2

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The step from `here` to `there`."""
        keep = float(there.sigma / here.sigma)
        gain = -float(there.alpha) * math.expm1(float(here.lam - there.lam))

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            first = denoise(x, here).x0
            second = denoise(keep * x + gain * first, there).x0
            return keep * x + gain * (first + second) / 2

        return step

"""EDM's deterministic sampler."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Sampler, move_eps
from denoiselab.schedules import Level, Schedule


class Heun(Sampler):
    """Heun's rule on d(x / alpha) = eps d(sigma / alpha): Euler (DDIM) to the next level, then the mean slope.

    Two network calls a step; with a clean end, 2 steps - 1 in all.

    Source: Karras et al., EDM, arXiv 2206.00364, algorithm 1, for any alpha and sigma.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
    """

    order = 2
    calls_per_step = 2

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
        """One predictor and one corrector."""
        eps = denoise(x, here).eps
        eps_there = denoise(move_eps(x, here, there, eps), there).eps
        return move_eps(x, here, there, (eps + eps_there) / 2), state

"""DPM-Solver++: exponential integrators in half log-SNR, for the predicted x0."""

from __future__ import annotations

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Sampler, move_x0
from denoiselab.schedules import Level, Schedule

_Last = tuple[Level, Tensor] | None


class DPMSolverPlusPlus2M(Sampler):
    """DPM-Solver++(2M): move by x0 extrapolated linearly in lam to the middle of the step.

    D = x0_t + (x0_t - x0_r) h / (2 h_r), with h = lam_s - lam_t the step ahead and h_r = lam_t - lam_r the one
    behind; the first step is DDIM's.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 2.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
    """

    order = 2

    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Tensor,
        here: Level,
        there: Level,
        state: _Last,
        noise: Noise,
    ) -> tuple[Tensor, _Last]:
        """One multistep transfer; the state is the previous level and its x0."""
        x0 = denoise(x, here).x0
        guess = x0
        if state is not None:
            last, x0_last = state
            guess = x0 + ((there.lam - here.lam) / (2 * (here.lam - last.lam))) * (x0 - x0_last)
        return move_x0(x, here, there, guess), (here, x0)

"""Ends of a run as released codes have them, for any grid."""

from __future__ import annotations

import copy

import torch

from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule


class DenoiseToZero(Spacing):
    """All steps of a run lead to noisy levels; clean data follow by one x0 transfer that is a call, but no step.

    A run of S steps ends its grid at the schedule's own last level and makes one call more than its rule does for S.
    `lower_order_final` does not count the transfer. This is `denoise_to_zero=True` of the released DPM-Solver and
    UniPC, which its authors report to lower the FID of low resolutions such as CIFAR-10; their script's `--denoise`
    takes a step less, so that the calls are as many.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, code (`sample`); Zhao et al., UniPC, arXiv 2302.04867, code.

    Args:
        spacing: Chooses the noisy levels; its own `to_clean` is not used.
        first_lam: As in `Spacing`, but None for the chosen grid's own.
    """

    end_is_step = False

    def __init__(self, spacing: Spacing, first_lam: float | None = None) -> None:
        super().__init__(False, spacing.first_lam if first_lam is None else first_lam)
        self.spacing = copy.copy(spacing)
        self.spacing.to_clean, self.spacing.first_lam = False, self.first_lam

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        """The `steps + 1` noisy levels, and clean data."""
        return [*self.spacing(schedule, steps), Level.clean()]

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return self.spacing.levels(schedule, count)


class ToLeastNoise(Spacing):
    """The last step lands on the schedule's least noisy level, in the place of clean data.

    Latent Diffusion's DDIM and PLMS end so, with levels 1, 1 + T // S, ... (`Leading`, offset 1), and so do diffusers'
    schedulers with `set_alpha_to_one=False`.

    Source: Rombach et al., Latent Diffusion, arXiv 2112.10752, code (`make_ddim_sampling_parameters`).

    Args:
        spacing: Chooses the levels before it.
        first_lam: As in `Spacing`, but None for the chosen grid's own.
    """

    def __init__(self, spacing: Spacing, first_lam: float | None = None) -> None:
        super().__init__(False, spacing.first_lam if first_lam is None else first_lam)
        self.spacing = copy.copy(spacing)
        self.spacing.to_clean, self.spacing.first_lam = True, self.first_lam

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        """The levels of `steps` calls, and the last one; a grid that ends there has a step less."""
        levels = self.spacing(schedule, steps)[:-1]
        last = schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64))
        return levels if len(levels) > 1 and float(levels[-1].rho) <= float(last.rho) else [*levels, last]

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return self.spacing.levels(schedule, count)


class WithoutLast(Spacing):
    """A grid of one level more, without its last noisy one.

    diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler` have such grids (`linspace`, their default,
    and `leading`), and so their last step to clean data is longer.

    Args:
        spacing: Chooses the levels; its own `to_clean` is not used.
        first_lam: As in `Spacing`, but None for the chosen grid's own.
    """

    def __init__(self, spacing: Spacing, first_lam: float | None = None) -> None:
        super().__init__(True, spacing.first_lam if first_lam is None else first_lam)
        self.spacing = copy.copy(spacing)
        self.spacing.to_clean, self.spacing.first_lam = True, self.first_lam

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return schedule.level(self.spacing.levels(schedule, count + 1).t[:-1])

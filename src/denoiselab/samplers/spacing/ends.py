"""Wrappers that end a grid as released codes do."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from denoiselab.samplers.spacing.grids import Spacing, UniformLogSNR
from denoiselab.samplers.spacing.trained import Leading, Linspace
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class Wrapped(Spacing):
    """A grid made from another one.

    Args:
        spacing: The other grid; its own `to_clean` is not used.
        first_lam: As in `Spacing`, with None for the other grid's own.
    """

    to_clean: bool = field(init=False, repr=False)
    spacing: Spacing

    ends_clean = True  # `to_clean` of this grid
    wraps_clean = True  # `to_clean` of the other grid

    def __post_init__(self) -> None:
        self.to_clean = self.ends_clean
        self.spacing = copy.copy(self.spacing)
        if self.first_lam is None:
            self.first_lam = self.spacing.first_lam
        self.spacing.to_clean, self.spacing.first_lam = self.wraps_clean, self.first_lam

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self.spacing.levels(schedule, count)


@dataclass(eq=False)
class DenoiseToZero(Wrapped):
    """All steps of a run end at noisy levels; one transfer of x0 to clean data follows, which is a call but no step.

    A run of S steps ends its grid at the schedule's own last level and makes one call more than its rule does for S.
    `lower_order_final` does not count the transfer. This is `denoise_to_zero=True` of the released DPM-Solver and
    UniPC, which its authors report to lower the FID of low resolutions such as CIFAR-10; their script's `--denoise`
    makes one step less, so that the number of calls is the same.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, code (`sample`); Zhao et al., UniPC, arXiv 2302.04867, code.
    """

    spacing: Spacing = field(default_factory=UniformLogSNR)

    end_is_step = ends_clean = wraps_clean = False

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        return [*self.spacing(schedule, steps), Level.clean()]


@dataclass(eq=False)
class ToLeastNoise(Wrapped):
    """The last step ends at the schedule's least noisy level, not at clean data.

    Latent Diffusion's DDIM and PLMS end like this, with levels 1, 1 + T // S, ... (`Leading`, offset 1), and so do
    diffusers' schedulers with `set_alpha_to_one=False`.

    Source: Rombach et al., Latent Diffusion, arXiv 2112.10752, code (`make_ddim_sampling_parameters`).
    """

    spacing: Spacing = field(default_factory=lambda: Leading(offset=1))

    ends_clean = False

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        levels = self.spacing(schedule, steps)[:-1]
        last = schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64))
        return levels if len(levels) > 1 and float(levels[-1].rho) <= float(last.rho) else [*levels, last]


@dataclass(eq=False)
class WithoutLast(Wrapped):
    """A grid with one level more, without its last noisy level.

    The grids of diffusers' `DPMSolverMultistepScheduler` and `UniPCMultistepScheduler` (`linspace`, their default, and
    `leading`), whose last step, to clean data, is longer.
    """

    spacing: Spacing = field(default_factory=Linspace)

    def levels(self, schedule: Schedule, count: int) -> Level:
        return schedule.level(self.spacing.levels(schedule, count + 1).t[:-1])

"""Samplers of a part of the way: those that start below the noisy end, as SDEdit does."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from denoiselab.samplers.base import Sampler
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule

# How far two times may differ that are the same up to rounding.
_SAME = 1e-9


def starting_at(sampler: Sampler, schedule: Schedule, t: float) -> Sampler:
    """The sampler with its grid from a time on: all its steps lie below, and the level of that time is the first.

    The first step of a grid of listed levels ends at the first of them below, and a grid of trained levels keeps to
    those.

    Args:
        sampler: Of any kind.
        schedule: The path from noise to data.
        t: Time at which it starts, above `schedule.t_min`.

    Raises:
        ValueError: If the sampler's own grid starts below, or no grid of so many steps starts there.
    """
    first = sampler.grid(schedule)[0]
    if float(first.t) < t - _SAME * max(1.0, abs(t)):
        raise ValueError(
            f"its grid starts at t={float(first.t):.4g} (rho={float(first.rho):.4g}), below t={t:.4g}; start lower, or "
            "use another sampler.spacing"
        )
    return _with(sampler, From(sampler.spacing, t), schedule, sampler.steps)


def last_steps(sampler: Sampler, schedule: Schedule, steps: int) -> Sampler:
    """The sampler with only the last `steps` of the steps of its own grid.

    Raises:
        ValueError: If it has not so many, or chooses its own.
    """
    whole = sampler.steps
    if sampler.adaptive:
        raise ValueError("it chooses its own steps, so there is no number of them to keep")
    if not 1 <= steps <= whole:
        raise ValueError(f"{steps} of {whole} steps are left; there must be at least 1")
    # Of a sampler that passes over levels, its grid has more steps than `sampler.steps`.
    more = len(sampler.grid(schedule)) - len(sampler.spacing(schedule, whole))
    return _with(sampler, Last(sampler.spacing, whole + more), schedule, steps)


@dataclass(eq=False)
class _Part(Spacing):
    """A part of another grid.

    Args:
        spacing: The other grid.
    """

    to_clean: bool = field(init=False, repr=False)
    first_lam: float | None = field(init=False, repr=False)
    spacing: Spacing

    def __post_init__(self) -> None:
        self.to_clean, self.first_lam = self.spacing.to_clean, self.spacing.first_lam
        self.end_is_step = self.spacing.end_is_step

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self.spacing.levels(schedule, count)


@dataclass(eq=False)
class From(_Part):
    """Another grid made for the levels from a time on, with the level of that time as its first.

    On a discrete schedule it is a trained level: the noisiest that is not above.

    Args:
        t: The time.

    Raises:
        ValueError: (call) If there is no such grid.
    """

    t: float

    @torch.no_grad()
    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        start = schedule.level(torch.tensor(self.t, dtype=torch.float64))
        try:
            if schedule.steps is not None:
                time = schedule.start(float(start.lam) - _SAME)
                start = schedule.level(torch.tensor(time, dtype=torch.float64))
            levels = [start, *_lowered(self.spacing, float(start.lam))(schedule, steps)[1:]]
            falls = all(a.rho > b.rho for a, b in pairwise(levels))
        except ValueError:
            falls = False
        if not falls:
            name = type(self.spacing).__name__
            raise ValueError(
                f"{name} has no grid of {steps} steps from t={self.t:.4g} down; use fewer, or start higher"
            )
        return levels


@dataclass(eq=False)
class Last(_Part):
    """The last levels of another grid.

    Args:
        whole: Number of steps of the other grid.
    """

    whole: int

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        return self.spacing(schedule, self.whole)[self.whole - steps :]


def _with(sampler: Sampler, spacing: Spacing, schedule: Schedule, steps: int) -> Sampler:
    out = copy.copy(sampler)
    out.spacing, out.steps = spacing, steps
    out.grid(schedule)
    return out


def _lowered(spacing: Spacing, lam: float) -> Spacing:
    """A grid, and those that it wraps, with levels from a half log-SNR on only."""
    out = copy.copy(spacing)
    out.first_lam = lam
    inner = getattr(out, "spacing", None)
    if isinstance(inner, Spacing):
        out.spacing = _lowered(inner, lam)  # type: ignore[attr-defined]
    return out

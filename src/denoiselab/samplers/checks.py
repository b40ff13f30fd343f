"""Checks of options, and of whether steps are those that a model takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denoiselab.samplers.base import Sampler
    from denoiselab.schedules import Level, Schedule


def check_number(name: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    """Check that an option lies in [low, high]."""
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value}: it must be {allowed}.")


def check_positive(name: str, value: float) -> None:
    """Check that an option is positive."""
    if not value > 0:
        raise ValueError(f"{name}={value}: it must be positive.")


def check_distilled(sampler: Sampler, schedule: Schedule, steps: int | None, grid: Sequence[Level] | None) -> None:
    """Refuse a sampler whose steps, its own number by default, are not those that a model was distilled for.

    Args:
        sampler: Of any kind.
        schedule: The model's.
        steps: Of the run.
        grid: The levels of the model's steps; None where any steps will do.

    Raises:
        ValueError: If they are not.
    """
    if grid is None:
        return
    transfers = sampler.convergence_order == 1 and not (
        sampler.stochastic or sampler.path_dependent or sampler.adaptive
    )
    if not (transfers and same_levels(sampler.grid(schedule, steps), grid)):
        count = len(grid) - 1
        raise ValueError(
            f"{type(sampler).__name__}: the model was distilled for {count} steps of DDIM on one grid; "
            f"give ddim of {count} steps with the spacing of its training."
        )


def same_levels(grid: Sequence[Level], other: Sequence[Level]) -> bool:
    """Whether two grids are one, up to the rounding of a schedule's inverse."""
    return len(grid) == len(other) and all(
        one.lam == own.lam or abs(float(one.lam - own.lam)) < 1e-6 for one, own in zip(grid, other, strict=True)
    )

"""Grids: the levels at which a sampler stops. A grid is not a schedule; any sampler takes any grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.schedules import Level, Schedule


class Spacing(ABC):
    """Chooses the levels of a run, from noise to data, in float64.

    Args:
        to_clean: The last level is clean data (sigma = 0), reached by one x0 transfer. Otherwise it is the
            schedule's `t_min`.
    """

    def __init__(self, to_clean: bool = True) -> None:
        self.to_clean = to_clean

    def __call__(self, schedule: Schedule, steps: int) -> list[Level]:
        """The `steps + 1` levels of a run of `steps` steps."""
        if self.to_clean:
            return [*self.levels(schedule, steps).unbind(), Level.clean()]
        return self.levels(schedule, steps + 1).unbind()

    @abstractmethod
    def levels(self, schedule: Schedule, count: int) -> Level:
        """The `count` noisy levels, `(count,)`, from the schedule's `t_max` down."""


class UniformTime(Spacing):
    """Equal steps in t: DDPM's and DDIM's respacing; with `to_clean` the grid runs on to t = 0 (or from t_min)."""

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        last = max(schedule.t_max / count, schedule.t_min) if self.to_clean else schedule.t_min
        return schedule.level(schedule.t_max + _fractions(count) * (last - schedule.t_max))


class UniformLogSNR(Spacing):
    """Equal steps in half log-SNR (Lu et al., DPM-Solver, arXiv 2206.00927, section 4).

    A schedule that starts at pure noise (alpha = 0) has no finite log-SNR there: its first level is `t_max`, and the
    equal steps begin at a half log-SNR of -5, where the linear VP schedule begins.
    """

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return _along(schedule, count, lambda lam: lam, lambda u: u)


class Karras(Spacing):
    """Equal steps in (sigma/alpha)^(1/rho) (Karras et al., EDM, arXiv 2206.00364, eq. 5).

    Pure noise at `t_max` is treated as in `UniformLogSNR`.

    Args:
        rho: The power; larger puts more levels near the data.
        to_clean: As in `Spacing`.

    Raises:
        ValueError: `rho` is not positive.
    """

    def __init__(self, rho: float = 7.0, to_clean: bool = True) -> None:
        super().__init__(to_clean)
        if rho <= 0:
            raise ValueError(f"rho={rho}: it must be positive.")
        self.rho = rho

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return _along(schedule, count, lambda lam: (-lam / self.rho).exp(), lambda u: -self.rho * u.log())


# Where grids in log-SNR begin on a schedule whose own log-SNR begins at minus infinity.
_FIRST_LAM = -5.0


def _fractions(count: int) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)


def _along(
    schedule: Schedule, count: int, warp: Callable[[Tensor], Tensor], unwarp: Callable[[Tensor], Tensor]
) -> Level:
    """Levels in equal steps of `warp(lam)`; the ends are the schedule's own, whatever the inverse rounds to."""
    ends = torch.tensor([schedule.t_max, schedule.t_min], dtype=torch.float64)
    lam = schedule.level(ends).lam
    pure = int(lam[0].isinf()) if count > 1 else 0
    first, last = warp(torch.where(lam.isinf(), _FIRST_LAM, lam))
    t = schedule.time_of(unwarp(first + _fractions(count - pure) * (last - first)))
    t = torch.cat((ends[:pure], t))
    t[-1] = schedule.t_min
    t[0] = schedule.t_max
    return schedule.level(t)

"""Grids over the trained levels 0..T-1 of a discrete schedule, as in released codes and diffusers."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.samplers.checks import check_number
from denoiselab.samplers.spacing.grids import Spacing
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class TrainedSpacing(Spacing):
    """Chooses trained levels by index; on a continuous schedule, of `trained` levels equally spaced in t.

    If its first level would be noisier than `first_lam` allows, it chooses from the chain without the noisier levels.

    Args:
        trained: Number of levels on a continuous schedule.

    Raises:
        ValueError: If trained < 2, or (`levels`) there are fewer trained levels than asked for.
    """

    trained: int = field(default=1000, kw_only=True)

    def __post_init__(self) -> None:
        check_number("trained", self.trained, 2)

    @abstractmethod
    def indices(self, trained: int, count: int) -> Tensor:
        """The `count` chosen indices of 0..trained-1, ascending and distinct; DDIM's released rules may differ."""

    def levels(self, schedule: Schedule, count: int) -> Level:
        trained = schedule.steps or self.trained
        if count > trained:
            raise ValueError(f"steps={count}: the schedule has {trained} trained levels, and no level is used twice.")
        span, i = schedule.t_max - schedule.t_min, self.indices(trained, count)
        kept = int((schedule.start(self.first_lam) - schedule.t_min) / span * (trained - 1) + 1e-6) + 1
        if int(i[-1]) >= kept:
            if count > kept:
                raise ValueError(
                    f"steps={count}: a grid has {kept} of the {trained} levels; first_lam=-inf allows all."
                )
            i = self.indices(kept, count)
        return schedule.level(schedule.t_min + i.double().flip(0) / (trained - 1) * span)


@dataclass(eq=False)
class Leading(TrainedSpacing):
    """0, T // S, 2 (T // S), ...: diffusers' `leading`, which starts below T. A single step is at the least noise.

    Args:
        offset: Added to each index (Stable Diffusion: 1).

    Raises:
        ValueError: (`levels`) If an index is out of range.
    """

    offset: int = 0

    def indices(self, trained: int, count: int) -> Tensor:
        i = torch.arange(count) * (trained // count) + self.offset
        if int(i[-1]) >= trained or int(i[0]) < 0:
            raise ValueError(f"offset={self.offset}: index {int(i[-1])} is not among 0 to {trained - 1}.")
        return i


class Linspace(TrainedSpacing):
    """Equally spaced from 0 to T - 1, rounded: improved-diffusion's and diffusers' `linspace`."""

    def indices(self, trained: int, count: int) -> Tensor:
        if count == 1:
            return torch.tensor([trained - 1])
        return torch.linspace(0, trained - 1, count, dtype=torch.float64).round().long()


class Trailing(TrainedSpacing):
    """T - 1, T - 1 - T/S, ..., rounded: diffusers' `trailing` (Lin et al., arXiv 2305.08891, section 3.3)."""

    def indices(self, trained: int, count: int) -> Tensor:
        i = trained - torch.arange(count, dtype=torch.float64) * (trained / count)
        return (i.round().long() - 1).flip(0)


class DDIMUniform(TrainedSpacing):
    """DDIM's linear sub-sequence: floor(i T / S), exactly S levels. A single step is at the least noise.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, appendix D.2.
    """

    def indices(self, trained: int, count: int) -> Tensor:
        return torch.arange(count) * trained // count


class DDIMQuadratic(TrainedSpacing):
    """DDIM's quadratic sub-sequence: equal steps in sqrt(i) up to i = 0.8 T, exactly S distinct levels.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, appendix D.2.
    """

    def indices(self, trained: int, count: int) -> Tensor:
        i = quadratic(trained, count)
        # Each index is at least one above the previous one, and leaves room for the following ones.
        apart = torch.arange(count)
        i = (i - apart).cummax(0).values + apart
        return torch.minimum(i, trained - count + apart)


class DDIMUniformReleased(TrainedSpacing):
    """The released code's linear rule, range(0, T, T // S): for S that does not divide T, more than S levels."""

    def indices(self, trained: int, count: int) -> Tensor:
        return torch.arange(0, trained, trained // count)


class DDIMQuadraticReleased(TrainedSpacing):
    """The released code's quadratic rule, int(linspace(0, sqrt(0.8 T), S)^2), without repeats."""

    def indices(self, trained: int, count: int) -> Tensor:
        return torch.tensor(sorted(set(quadratic(trained, count).tolist())))


def quadratic(trained: int, count: int) -> Tensor:
    """int(linspace(0, sqrt(0.8 T), count)^2)."""
    roots = torch.linspace(0, math.sqrt(0.8 * trained), count, dtype=torch.float64)
    return (roots.square() + 1e-9).long()

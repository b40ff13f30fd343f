"""Grids over the trained levels 0..T-1 of a discrete schedule, as the field's libraries choose them."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule


class TrainedSpacing(Spacing):
    """Picks trained levels by index; on a continuous schedule, of `trained` levels equally spaced in t.

    Where its first would be noisier than `first_lam` allows, it picks from the chain without such levels.

    Args:
        trained: Number of levels on a continuous schedule.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.
    """

    def __init__(self, trained: int = 1000, to_clean: bool = True, first_lam: float | None = None) -> None:
        super().__init__(to_clean, first_lam)
        if trained < 2:
            raise ValueError(f"trained={trained}: it must be at least 2.")
        self.trained = trained

    @abstractmethod
    def indices(self, trained: int, count: int) -> Tensor:
        """The `count` chosen of the indices 0..trained-1, ascending, each once."""

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels.

        Raises:
            ValueError: There are fewer trained levels.
        """
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


class Leading(TrainedSpacing):
    """0, T // S, 2 (T // S), ...: diffusers' `leading`; starts below T, and a single step at its least noise.

    Args:
        offset: Added to each index (Stable Diffusion: 1).
        trained: As in `TrainedSpacing`.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.
    """

    def __init__(
        self, offset: int = 0, trained: int = 1000, to_clean: bool = True, first_lam: float | None = None
    ) -> None:
        super().__init__(trained, to_clean, first_lam)
        self.offset = offset

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices.

        Raises:
            ValueError: The offset leads beyond the last one.
        """
        i = torch.arange(count) * (trained // count) + self.offset
        if int(i[-1]) >= trained or int(i[0]) < 0:
            raise ValueError(f"offset={self.offset}: index {int(i[-1])} is not among 0 to {trained - 1}.")
        return i


class Linspace(TrainedSpacing):
    """Equally spaced from 0 to T - 1, rounded: improved-diffusion's and diffusers' `linspace`."""

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices."""
        if count == 1:
            return torch.tensor([trained - 1])
        return torch.linspace(0, trained - 1, count, dtype=torch.float64).round().long()


class Trailing(TrainedSpacing):
    """T - 1, T - 1 - T/S, ..., rounded: diffusers' `trailing` (Lin et al., arXiv 2305.08891, section 3.3)."""

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices."""
        i = trained - torch.arange(count, dtype=torch.float64) * (trained / count)
        return (i.round().long() - 1).flip(0)


class DDIMUniform(TrainedSpacing):
    """DDIM's linear sub-sequence: floor(i T / S), exactly S of them, a single one being the least noisy.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, appendix D.2.
    """

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices."""
        return torch.arange(count) * trained // count


class DDIMQuadratic(TrainedSpacing):
    """DDIM's quadratic sub-sequence: equal steps in sqrt(i) up to i = 0.8 T, exactly S of them, none twice.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, appendix D.2.
    """

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices."""
        i = quadratic(trained, count)
        # From both sides: each at least one above the one before, and room for those to come.
        apart = torch.arange(count)
        i = (i - apart).cummax(0).values + apart
        return torch.minimum(i, trained - count + apart)


class DDIMUniformReleased(TrainedSpacing):
    """The released code's linear rule, range(0, T, T // S): for S that does not divide T, more than S levels."""

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices, `count` or more."""
        return torch.arange(0, trained, trained // count)


class DDIMQuadraticReleased(TrainedSpacing):
    """The released code's quadratic rule, int(linspace(0, sqrt(0.8 T), S)^2): what repeats is used once."""

    def indices(self, trained: int, count: int) -> Tensor:
        """The indices, `count` or fewer."""
        return torch.tensor(sorted(set(quadratic(trained, count).tolist())))


def quadratic(trained: int, count: int) -> Tensor:
    """int(linspace(0, sqrt(0.8 T), count)^2)."""
    roots = torch.linspace(0, math.sqrt(0.8 * trained), count, dtype=torch.float64)
    indices: Tensor = (roots.square() + 1e-9).long()
    return indices

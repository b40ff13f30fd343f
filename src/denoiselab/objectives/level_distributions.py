"""At which noise levels a batch is trained: maps from uniform numbers to levels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from denoiselab.noise import Noise
from denoiselab.objectives.uniforms import Independent, Uniforms
from denoiselab.schedules import Level, Schedule


class Draw(NamedTuple):
    """Levels to train at.

    Args:
        level: `(B,)`, float64.
        weight: `(B,)`, uniform density over the density drawn from; None where the losses are taken as they are.
    """

    level: Level
    weight: Tensor | None = None


class LevelDistribution(nn.Module, ABC):
    """Draws one level a sample.

    Args:
        uniforms: The numbers that are mapped to levels; None for `Independent`.
    """

    def __init__(self, uniforms: Uniforms | None = None) -> None:
        super().__init__()
        self.uniforms = uniforms or Independent()

    @abstractmethod
    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64, on the device of the noise's index."""

    def observe(self, level: Level, losses: Tensor) -> None:
        """Take note of the unweighted losses `(B,)` at the levels last drawn."""

    def check(self, schedule: Schedule) -> None:
        """Refuse a schedule that has no such levels.

        Raises:
            ValueError: It has none.
        """


class SingleLevel(LevelDistribution):
    """All samples at one level: denoising at one noise level (Vincent 2011).

    Args:
        t: The level's time on the schedule.
    """

    def __init__(self, t: float) -> None:
        super().__init__()
        self.t = t

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, all the same."""
        return Draw(schedule.level(torch.full_like(noise.index, self.t, dtype=torch.float64)))

    def check(self, schedule: Schedule) -> None:
        """Refuse a time outside of the schedule's range.

        Raises:
            ValueError: It is outside.
        """
        if not schedule.t_min <= self.t <= schedule.t_max:
            raise ValueError(
                f"level_distribution.t={self.t}: the schedule's times run from {schedule.t_min} to {schedule.t_max}."
            )


class UniformTime(LevelDistribution):
    """t uniform in [t_min, t_max]."""

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        return Draw(_at_fraction(schedule, self.uniforms(noise)))


class UniformSteps(LevelDistribution):
    """One of the levels of a chain, all equally likely.

    Args:
        uniforms: As in `LevelDistribution`.
        steps: Length of the chain; None for a discrete schedule's own.
    """

    def __init__(self, uniforms: Uniforms | None = None, steps: int | None = None) -> None:
        super().__init__(uniforms)
        self.steps = steps

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        steps = schedule.chain(self.steps)
        return Draw(_at_fraction(schedule, (self.uniforms(noise) * steps).floor() / (steps - 1)))

    def check(self, schedule: Schedule) -> None:
        """Refuse a continuous schedule without a number of steps.

        Raises:
            ValueError: There is no chain.
        """
        schedule.chain(self.steps)


class LogNormalNoise(LevelDistribution):
    """log(sigma / alpha) normal, cut off at the schedule's ends (Karras et al., EDM, arXiv 2206.00364, table 1).

    Args:
        mean: Of the logarithm.
        std: Of the logarithm.
        uniforms: As in `LevelDistribution`.

    Raises:
        ValueError: `std` is not positive.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if std <= 0:
            raise ValueError(f"std={std}: it must be positive.")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        return Draw(schedule.at(-(self.mean + self.std * torch.special.ndtri(self.uniforms(noise)))))


class LogitNormalTime(LevelDistribution):
    """logit(t) normal, t scaled to [t_min, t_max] (Esser et al., Stable Diffusion 3, arXiv 2403.03206, eq. 19).

    Args:
        mean: Of the logit; positive favours noise.
        std: Of the logit.
        uniforms: As in `LevelDistribution`.

    Raises:
        ValueError: `std` is not positive.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if std <= 0:
            raise ValueError(f"std={std}: it must be positive.")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        u = self.uniforms(noise)
        return Draw(_at_fraction(schedule, torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))))


class ModeTime(LevelDistribution):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), heavy in the middle (Esser et al., arXiv 2403.03206, eq. 20).

    Args:
        scale: From -1 to 2 / (pi - 2); 0 is uniform, positive favours the middle.
        uniforms: As in `LevelDistribution`.

    Raises:
        ValueError: `scale` is outside of its range.
    """

    def __init__(self, scale: float = 1.29, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale={scale}: it must lie between -1 and {2 / (math.pi - 2):.4f}.")
        self.scale = scale

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        u = self.uniforms(noise)
        return Draw(_at_fraction(schedule, 1 - u - self.scale * ((math.pi / 2 * u).cos().square() - 1 + u)))


class CosineLogSNR(LevelDistribution):
    """The log-SNR distribution of the cosine schedule, cut to the schedule's range, on any schedule.

    The half log-SNR is -log tan(pi u / 2), whose density is sech(lam) / pi.

    Source: Kingma and Gao, Understanding Diffusion Objectives as the ELBO, arXiv 2303.00848, table 1.

    Args:
        shift: Added to the half log-SNR.
        uniforms: As in `LevelDistribution`.
    """

    def __init__(self, shift: float = 0.0, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        self.shift = shift

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64."""
        u = self.uniforms(noise)
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64, device=u.device)).lam
        low, high = (2 / math.pi * (self.shift - ends).exp().atan()).unbind()
        return Draw(schedule.at(self.shift - (math.pi / 2 * (low + u * (high - low))).tan().log()))


class LossHistory(UniformSteps):
    """Steps drawn in proportion to the root of the mean square of their last losses, weighted back to uniform.

    Until every step has `history` losses, the draw is uniform. All ranks share one history.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 18.

    Args:
        steps: Length of the chain.
        history: Losses kept a step.
        uniform: Share of draws that stay uniform, so that no step starves.
        uniforms: As in `LevelDistribution`.

    Raises:
        ValueError: A value is out of range.
    """

    losses: Tensor
    count: Tensor

    def __init__(self, steps: int, history: int = 10, uniform: float = 0.001, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms, steps)
        if steps < 2:
            raise ValueError(f"steps={steps}: it must be at least 2.")
        if history < 1:
            raise ValueError(f"history={history}: it must be at least 1.")
        if not 0 < uniform <= 1:
            raise ValueError(f"uniform={uniform}: it must be more than 0 and at most 1.")
        self.uniform = uniform
        self.register_buffer("losses", torch.zeros(steps, history, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """The probability of each step, `(steps,)` float64."""
        steps, history = self.losses.shape
        p = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform) * p / p.sum().clamp_min(torch.finfo(p.dtype).tiny) + self.uniform / steps
        return torch.where((self.count >= history).all(), p, 1 / steps)

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)`, float64, and their weights."""
        p = self.probabilities()
        edges = p.cumsum(0)
        index = torch.searchsorted(edges, self.uniforms(noise) * edges[-1], right=True).clamp_max(len(p) - 1)
        return Draw(_at_fraction(schedule, index.double() / (len(p) - 1)), 1 / (len(p) * p[index]))

    @torch.no_grad()
    def observe(self, level: Level, losses: Tensor) -> None:
        """Keep the latest losses `(B,)` of each step, those of all ranks in one order."""
        assert level.path is not None
        steps, history = self.losses.shape
        span = level.path.t_max - level.path.t_min
        index = ((level.t - level.path.t_min) / span * (steps - 1)).round().long()
        values = losses.detach().double()
        if dist.is_available() and dist.is_initialized():
            pairs = torch.stack((index.double(), values))
            gathered = [torch.empty_like(pairs) for _ in range(dist.get_world_size())]
            dist.all_gather(gathered, pairs)
            joined = torch.cat(gathered, 1)
            index, values = joined[0].long(), joined[1]
        # The place of each loss in its step's ring: the number of earlier ones of the same step in the batch.
        order = index.argsort(stable=True)
        index, values = index[order], values[order]
        rank = torch.arange(len(index), device=index.device) - torch.searchsorted(index, index)
        total = torch.bincount(index, minlength=steps)
        late = rank >= total[index] - history  # an earlier one would be overwritten at once
        index, values, rank = index[late], values[late], rank[late]
        self.losses[index, (self.count[index] + rank) % history] = values
        self.count += total

    def check(self, schedule: Schedule) -> None:
        """Refuse a discrete schedule of another length.

        Raises:
            ValueError: The lengths differ.
        """
        if schedule.steps not in (None, self.steps):
            raise ValueError(f"level_distribution.steps={self.steps}: the schedule has {schedule.steps} steps.")


def _at_fraction(schedule: Schedule, u: Tensor) -> Level:
    return schedule.level(schedule.t_min + u * (schedule.t_max - schedule.t_min))

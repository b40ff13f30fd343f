"""Distributions of the noise levels in training: maps from uniform numbers to levels."""

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
    """Noise levels drawn for a batch.

    Attributes:
        level: `(B,)`, float64.
        weight: `(B,)`, factors on the losses that undo importance sampling; None for no factors.
    """

    level: Level
    weight: Tensor | None = None


class LevelDistribution(nn.Module, ABC):
    """Draws one noise level a sample.

    Args:
        uniforms: Source of the uniform numbers that are mapped to levels; None for `Independent`.

    Raises:
        ValueError: If an option of this class or a subclass is out of range.
    """

    def __init__(self, uniforms: Uniforms | None = None) -> None:
        super().__init__()
        self.uniforms = uniforms or Independent()

    @abstractmethod
    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        """Levels `(B,)` float64 of a schedule, on the device of `noise.index`, whose samples they are for.

        Args:
            schedule: The path from noise to data.
            noise: Source of the draws, with the indices of the samples.
        """

    def observe(self, level: Level, losses: Tensor) -> None:
        """Note the unweighted losses `(B,)` at levels `(B,)` that were drawn; called once a batch."""

    def settle(self) -> None:
        """Let the next draws depend on what was noted; called after an optimizer step, on all ranks."""

    def check(self, schedule: Schedule) -> None:
        """Check before training that a schedule has the levels to be drawn.

        Raises:
            ValueError: If it has not.
        """


class SingleLevel(LevelDistribution):
    """One level for all samples (Vincent 2011).

    Args:
        t: Its time on the schedule.
    """

    def __init__(self, t: float) -> None:
        super().__init__()
        self.t = t

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        return Draw(schedule.level(torch.full_like(noise.index, self.t, dtype=torch.float64)))

    def check(self, schedule: Schedule) -> None:
        if not schedule.t_min <= self.t <= schedule.t_max:
            raise ValueError(
                f"level_distribution.t={self.t}: the schedule's times run from {schedule.t_min} to {schedule.t_max}."
            )


class UniformTime(LevelDistribution):
    """t uniform in [t_min, t_max]."""

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        return Draw(_at_fraction(schedule, self.uniforms(noise)))


class UniformSteps(LevelDistribution):
    """One of the levels of a chain, all equally likely.

    Args:
        steps: Length of the chain; None for the discrete schedule's own.
    """

    def __init__(self, uniforms: Uniforms | None = None, steps: int | None = None) -> None:
        super().__init__(uniforms)
        self.steps = steps

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        steps = schedule.chain(self.steps)
        return Draw(_at_fraction(schedule, (self.uniforms(noise) * steps).floor() / (steps - 1)))

    def check(self, schedule: Schedule) -> None:
        schedule.chain(self.steps)


class LogNormalNoise(LevelDistribution):
    """log(sigma / alpha) normal, cut off at the schedule's ends (Karras et al., EDM, arXiv 2206.00364, table 1).

    Args:
        mean: Of the logarithm.
        std: Of the logarithm.
    """

    def __init__(self, mean: float = -1.2, std: float = 1.2, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if std <= 0:
            raise ValueError(f"std={std}: it must be positive.")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        return Draw(schedule.at(-(self.mean + self.std * torch.special.ndtri(self.uniforms(noise)))))


class LogitNormalTime(LevelDistribution):
    """logit(t) normal, t scaled to [t_min, t_max] (Esser et al., Stable Diffusion 3, arXiv 2403.03206, eq. 19).

    Args:
        mean: Of the logit; positive favours noise.
        std: Of the logit.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if std <= 0:
            raise ValueError(f"std={std}: it must be positive.")
        self.mean, self.std = mean, std

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        u = self.uniforms(noise)
        return Draw(_at_fraction(schedule, torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))))


class ModeTime(LevelDistribution):
    """t = 1 - u - scale (cos^2(pi u / 2) - 1 + u), heavy in the middle (Esser et al., arXiv 2403.03206, eq. 20).

    Args:
        scale: From -1 to 2 / (pi - 2); 0 is uniform, positive favours the middle.
    """

    def __init__(self, scale: float = 1.29, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if not -1 <= scale <= 2 / (math.pi - 2):
            raise ValueError(f"scale={scale}: it must lie between -1 and {2 / (math.pi - 2):.4f}.")
        self.scale = scale

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        u = self.uniforms(noise)
        return Draw(_at_fraction(schedule, 1 - u - self.scale * ((math.pi / 2 * u).cos().square() - 1 + u)))


class UShapedTime(LevelDistribution):
    """u with density proportional to e^(a u) + e^(a (1 - u)), t scaled to [t_min, t_max]: most at both ends.

    For pairs of noise and sample, where the network errs most near the ends. Source: Lee et al., Improving the Training
    of Rectified Flows, arXiv 2405.20320, section 4.

    Args:
        a: Positive; the density at the ends is cosh(a / 2) times that in the middle.
    """

    def __init__(self, a: float = 4.0, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        if not 0 < a <= 100:
            raise ValueError(f"a={a}: it must be positive, and at most 100.")
        self.a = a

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        u = (2 * self.uniforms(noise) - 1) * math.sinh(self.a / 2)
        return Draw(_at_fraction(schedule, (0.5 + u.asinh() / self.a).clamp(0, 1)))


class CosineLogSNR(LevelDistribution):
    """The log-SNR distribution of the cosine schedule, cut to the schedule's range, on any schedule.

    The half log-SNR is -log tan(pi u / 2), whose density is sech(lam) / pi.

    Source: Kingma and Gao, Understanding Diffusion Objectives as the ELBO, arXiv 2303.00848, table 1.

    Args:
        shift: Added to the half log-SNR.
    """

    def __init__(self, shift: float = 0.0, uniforms: Uniforms | None = None) -> None:
        super().__init__(uniforms)
        self.shift = shift

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        u = self.uniforms(noise)
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64, device=u.device)).lam
        low, high = (2 / math.pi * (self.shift - ends).exp().atan()).unbind()
        return Draw(schedule.at(self.shift - (math.pi / 2 * (low + u * (high - low))).tan().log()))


class LossHistory(UniformSteps):
    """Steps drawn in proportion to the root of the mean square of their last losses, weighted back to uniform.

    The draw is uniform until every step has `history` losses. All ranks share one history, to which an optimizer step
    adds its losses in the order of its images.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 18.

    Args:
        steps: Length of the chain.
        history: Number of losses kept for each step.
        uniform: Share of draws that are uniform, so that every step is drawn.
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
        self._noted: list[Tensor] = []  # `(2, B)`, steps and losses of this rank's batches since the optimizer's step

    def probabilities(self) -> Tensor:
        """The probability of each step, `(steps,)` float64."""
        steps, history = self.losses.shape
        p = self.losses.square().mean(1).sqrt()
        p = (1 - self.uniform) * p / p.sum().clamp_min(torch.finfo(p.dtype).tiny) + self.uniform / steps
        return torch.where((self.count >= history).all(), p, 1 / steps)

    def forward(self, schedule: Schedule, noise: Noise) -> Draw:
        p = self.probabilities()
        edges = p.cumsum(0)
        index = torch.searchsorted(edges, self.uniforms(noise) * edges[-1], right=True).clamp_max(len(p) - 1)
        return Draw(_at_fraction(schedule, index.double() / (len(p) - 1)), 1 / (len(p) * p[index]))

    @torch.no_grad()
    def observe(self, level: Level, losses: Tensor) -> None:
        assert level.path is not None
        span = level.path.t_max - level.path.t_min
        index = ((level.t - level.path.t_min) / span * (len(self.losses) - 1)).round()
        self._noted.append(torch.stack((index.double(), losses.detach().double())))

    @torch.no_grad()
    def settle(self) -> None:
        if not self._noted:
            return
        steps, history = self.losses.shape
        pairs, self._noted = torch.cat(self._noted, 1), []
        if dist.is_available() and dist.is_initialized():
            gathered = [torch.empty_like(pairs) for _ in range(dist.get_world_size())]
            dist.all_gather(gathered, pairs)
            pairs = torch.stack(gathered, -1).flatten(1)  # rank r has the images r, r + world, ... of each batch
        index, values = pairs[0].long(), pairs[1]
        # Position of each loss in its step's ring buffer: the number of earlier ones of the same step in the batch.
        order = index.argsort(stable=True)
        index, values = index[order], values[order]
        rank = torch.arange(len(index), device=index.device) - torch.searchsorted(index, index)
        total = torch.bincount(index, minlength=steps)
        late = rank >= total[index] - history  # an earlier one would be overwritten at once
        index, values, rank = index[late], values[late], rank[late]
        self.losses[index, (self.count[index] + rank) % history] = values
        self.count += total

    def check(self, schedule: Schedule) -> None:
        if schedule.steps not in (None, self.steps):
            raise ValueError(f"level_distribution.steps={self.steps}: the schedule has {schedule.steps} steps.")


def _at_fraction(schedule: Schedule, u: Tensor) -> Level:
    return schedule.level(schedule.t_min + u * (schedule.t_max - schedule.t_min))

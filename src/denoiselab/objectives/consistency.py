"""Consistency models: x0 predicted at a level is that predicted at the next less noisy level of the same trajectory.

A trajectory of the probability-flow ODE ends in one clean sample, and the network learns to name it from any level of
it. All is written in rho = sigma / alpha and in x0, so it holds on every path. The x0 predicted of clean data must be
those data, which is a property of the parameterization; the network is never called at sigma = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.distances import SampleDistance, norm
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.objectives.weights import Weighting
from denoiselab.parameterizations import determinant
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like

# rho of pure noise, where a finite number is needed.
_PURE = 1e6


class Pair(NamedTuple):
    """Two levels of each sample's trajectory.

    Attributes:
        here: `(B,)`, float64.
        there: `(B,)`, float64, less noisy and never clean: where `clean`, a level at which a call gives numbers.
        clean: `(B,)` bool, where the second level is clean data.
        gap: `(B,)`, float64, the difference of their rho, positive.
        weight: `(B,)`, factors on the losses that undo importance sampling; None for no factors.
    """

    here: Level
    there: Level
    clean: Tensor
    gap: Tensor
    weight: Tensor | None = None


class Pairs(nn.Module, ABC):
    """Draws the two levels of each sample."""

    @abstractmethod
    def forward(self, schedule: Schedule, noise: Noise, fraction: float) -> Pair:
        """A pair of levels for each sample of `noise`.

        Args:
            schedule: The path from noise to data.
            noise: Source of the draws.
            fraction: Of the training done, from 0 to 1.
        """

    def check(self, schedule: Schedule) -> None:
        """Check before training that a schedule has the levels to be drawn.

        Raises:
            ValueError: If it has not.
        """


class Narrowing(Pairs):
    """rho' = rho max(0, 1 - (1 + k sigmoid(-b rho)) / q^(s + 1)) in stage s = 0, 1, ...: Easy Consistency Tuning.

    With q = 2 and k = 8, rho' is 0 below rho = ln 7 in the first stage, which so begins as the training of a denoiser.
    Levels below the schedule's least noise are clean.

    Source: Geng et al., Consistency Models Made Easy, arXiv 2406.14548, section 3 and released code.

    Args:
        level_distribution: Draws rho; theirs is log-normal of mean -1.1 and standard deviation 2.
        q: By which the relative gap is divided in each stage; with 256 and one stage, their training of an hour.
        stages: Their number; of equal length.
        k: How much wider the gap is at small rho.
        b: How fast that falls with rho.

    Raises:
        ValueError: If q <= 1, stages < 1, k < 0 or b < 0.
    """

    def __init__(
        self, level_distribution: LevelDistribution, q: float = 2.0, stages: int = 8, k: float = 8.0, b: float = 1.0
    ) -> None:
        super().__init__()
        if q <= 1:
            raise ValueError(f"q={q}: it must be more than 1.")
        if stages < 1:
            raise ValueError(f"stages={stages}: it must be at least 1.")
        if min(k, b) < 0:
            raise ValueError(f"k={k} and b={b}: they must not be negative.")
        self.level_distribution = level_distribution
        self.q, self.stages, self.k, self.b = q, stages, k, b

    def forward(self, schedule: Schedule, noise: Noise, fraction: float) -> Pair:
        draw = self.level_distribution(schedule, noise)
        rho = draw.level.rho.clamp_max(_PURE)
        stage = min(int(fraction * self.stages), self.stages - 1)
        share = (1 + self.k * torch.sigmoid(-self.b * rho)) / self.q ** (stage + 1)
        return _pair(schedule, draw.level, rho, rho * (1 - share).clamp_min(0), draw.weight)

    def check(self, schedule: Schedule) -> None:
        self.level_distribution.check(schedule)


class Counts(Protocol):
    """The number of levels as a function of the training done."""

    def __call__(self, fraction: float, /) -> int:
        """At least 2; `fraction` runs from 0 to 1."""
        ...


def doubling(fraction: float, first: int = 10, last: int = 1280) -> int:
    """min(first 2^s, last) + 1 levels in stage s of log2(last / first) + 1, equal but for the last one.

    Source: Song and Dhariwal, Improved Techniques for Training Consistency Models, arXiv 2310.14189, section 3.4.

    Args:
        fraction: Of the training done.
        first: Steps between levels in the first stage.
        last: In the last.
    """
    return min(first << int(fraction * (math.log2(max(1, last // first)) + 1)), last) + 1


def root(fraction: float, first: int = 2, last: int = 150) -> int:
    """ceil(sqrt(f ((last + 1)^2 - first^2) + first^2) - 1) + 1 levels.

    Source: Song et al., Consistency Models, arXiv 2303.01469, appendix C.

    Args:
        fraction: f, of the training done.
        first: Levels at its begin.
        last: Levels at its end, less one.
    """
    return math.ceil(math.sqrt(fraction * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1


def constant(fraction: float, count: int = 18) -> int:
    """The same number of levels all along.

    Args:
        fraction: Of the training that is done.
        count: The number.
    """
    return count


class Neighbours(Pairs):
    """Neighbours of N levels, equally spaced in rho^(1/power); the least noisy level counts as clean data.

    Source: Song et al., arXiv 2303.01469, section 5; their weights: Song and Dhariwal, arXiv 2310.14189, section 3.5.

    Args:
        counts: N.
        power: Of the spacing, which is that of Karras et al. (EDM, arXiv 2206.00364, eq. 5).
        mean: A pair is drawn with the probability that log rho, normal with this mean, lies between its levels; None:
            all are equally likely.
        std: The standard deviation of log rho.
        least: Lowest rho, where the schedule has it.
        most: Highest rho, where the schedule has it.

    Raises:
        ValueError: If power, std or least are not positive, or least >= most.
    """

    def __init__(
        self,
        counts: Counts = doubling,
        power: float = 7.0,
        mean: float | None = -1.1,
        std: float = 2.0,
        least: float = 0.002,
        most: float = 80.0,
    ) -> None:
        super().__init__()
        for name, value in (("power", power), ("std", std), ("least", least)):
            if value <= 0:
                raise ValueError(f"{name}={value}: it must be positive.")
        if least >= most:
            raise ValueError(f"least={least} and most={most}: they must rise.")
        self.counts, self.power, self.mean, self.std, self.least, self.most = counts, power, mean, std, least, most

    def levels(self, schedule: Schedule, count: int) -> Tensor:
        """The rho of `count` levels, `(count,)` float64, rising."""
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).rho
        low, high = (ends.clamp(self.least, self.most) ** (1 / self.power)).unbind()
        return (low + torch.linspace(0, 1, count, dtype=torch.float64) * (high - low)) ** self.power

    def probabilities(self, rho: Tensor) -> Tensor:
        """Of the pairs of neighbours of `rho` `(N,)`, `(N - 1,)` float64."""
        mass = rho if self.mean is None else torch.special.ndtr((rho.log() - self.mean) / self.std)
        p = torch.ones_like(rho[1:]) if self.mean is None else mass.diff()
        return p / p.sum()

    def forward(self, schedule: Schedule, noise: Noise, fraction: float) -> Pair:
        rho = self.levels(schedule, max(2, self.counts(fraction)))
        edges, rho = self.probabilities(rho).cumsum(0).to(noise.index.device), rho.to(noise.index.device)
        index = torch.searchsorted(edges, noise.uniform() * edges[-1], right=True).clamp_max(len(rho) - 2)
        here, there = rho[index + 1], torch.where(index == 0, 0.0, rho[index])
        return _pair(schedule, schedule.at(-here.log()), here, there)


class ConsistencyTraining(Objective):
    """w d(x0_hat(x_t) - sg x0_hat(x_r)), with x_t and x_r of the same x0 and eps; the target at clean data is x0.

    Both calls have the same dropout masks, and the target the same weights, without gradient (arXiv 2310.14189,
    section 3.2), so there is no average of the weights beside those of evaluation.

    Source: Song et al., Consistency Models, arXiv 2303.01469, algorithm 3; Song and Dhariwal, arXiv 2310.14189; Geng
    et al., arXiv 2406.14548. They differ in pairs, distance and weight.

    Args:
        pairs: Draws t and r.
        distance: d, of a whole sample.
        weighting: w at t; None: 1 / (rho_t - rho_r).
    """

    def __init__(self, pairs: Pairs, distance: SampleDistance = norm, weighting: Weighting | None = None) -> None:
        super().__init__()
        self.pairs, self.distance, self.weighting = pairs, distance, weighting

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        self.pairs.check(denoiser.schedule)
        level = denoiser.schedule.level(torch.tensor(denoiser.schedule.t_min, dtype=torch.float64))
        # Of an error of the output in x0: of order sigma for all that predict x0 = x at sigma = 0.
        if float((level.sigma / determinant(level, denoiser.parameterization(level))).abs()) > 0.5:
            raise ValueError(
                "parameterization: the x0 of a consistency model must be x itself at clean data, which its output "
                "alone decides in this one; choose parameterization=edm, v, velocity or eps."
            )

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        pair = self.pairs(denoiser.schedule, noise, self.fraction)
        eps = noise.like(x0)
        x = corrupt(x0, eps, pair.here)
        guess = denoiser(x, pair.here, cond).x0
        with torch.no_grad():
            less_noisy, clean = self.earlier(x, x0, eps, pair, cond)
            target = denoiser(less_noisy, pair.there, cond).x0
            target = torch.where(pair.clean.view(-1, *[1] * (x0.ndim - 1)), clean, target)
        loss = self.distance((guess - target).float())
        weight = 1 / pair.gap if self.weighting is None else self.weighting(pair.here)
        loss = weight.to(loss) * loss
        return loss if pair.weight is None else pair.weight.to(loss) * loss

    def earlier(self, x: Tensor, x0: Tensor, eps: Tensor, pair: Pair, cond: Conditioning) -> tuple[Tensor, Tensor]:
        """(x_r, x0), both `(B, *)`: the sample at the second level, and the clean data that are there if it is clean.

        Args:
            x: Batch `(B, *)` at the first level.
            x0: Clean batch `(B, *)`.
            eps: Its noise `(B, *)`.
            pair: The levels.
            cond: The batch's conditioning.
        """
        return corrupt(x0, eps, pair.there), x0


class ConsistencyDistillation(ConsistencyTraining):
    """As `ConsistencyTraining`, with x_r by one Heun step of a teacher's ODE from x_t, or Euler's step to clean data.

    Source: Song et al., Consistency Models, arXiv 2303.01469, algorithm 2 and eq. 6, with the weights themselves in
    place of their average in the target.
    """

    uses_teacher = True
    teacher_calls = 2

    def earlier(self, x: Tensor, x0: Tensor, eps: Tensor, pair: Pair, cond: Conditioning) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        here, there, gap = pair.here, pair.there, like(pair.gap, x)
        y, alpha = x / like(here.alpha, x), like(there.alpha, x)
        slope = self.teacher(x, here, cond).eps
        corrected = (slope + self.teacher(alpha * (y - gap * slope), there, cond).eps) / 2
        # Where the end is clean, x_r is that of the level at which the network is called all the same.
        return alpha * (y - gap * corrected), y - gap * slope


def _pair(schedule: Schedule, here: Level, rho: Tensor, less: Tensor, weight: Tensor | None = None) -> Pair:
    """The pair of `here`, of `rho` `(B,)`, and the level of `less` `(B,)`, clean below the schedule's least noise."""
    least = schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64)).rho
    clean = less <= least.to(less)
    return Pair(here, schedule.at(-less.log()), clean, rho - torch.where(clean, 0.0, less), weight)

"""Langevin dynamics: NCSN's annealed sampler, and the plain and Metropolis-adjusted algorithms at one level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.spacing import Spacing, UniformLogSNR
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


@dataclass(eq=False)
class AnnealedLangevin(OneStep):
    """At each level, `repeats` steps y += d score + sqrt(2 d) z in y = x / alpha, with d = rate rho^2 / rho_last^2.

    The step is that of the released code; the paper writes a = 2 d, and `NCSNLangevin` takes the paper's epsilon. The
    step to the next level only rescales x. A grid that ends in clean data denoises at the end (NCSNv2), with one more
    call. rho_last is the schedule's own. Without a rate, d = r rho^2 with NCSNv2's r for the ratio of each level to
    the next (`technique_4`); the last noisy level uses the r of the level before.

    Source: Song and Ermon, NCSN, arXiv 1907.05600, algorithm 1; NCSNv2, arXiv 2006.09011, section 3.

    Args:
        rate: Step size at the last level (`step_lr`); None for NCSNv2's choice.
        repeats: Langevin steps at a level (T).

    Raises:
        ValueError: If an option is out of range; or (steps) without a rate, if there are not two noisy levels.
    """

    spacing: Spacing = field(default_factory=UniformLogSNR)
    steps: int = 10
    rate: float | None = 2e-5
    repeats: int = 100

    stochastic = True
    convergence_order = None
    no_order = "the error of a Langevin step depends on its size; more repeats at a smaller rate reduce it, not levels"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is not None:
            check_number("rate", self.rate)
        check_number("repeats", self.repeats, 1)
        self.calls_per_step = self.calls_at_last = self.repeats

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        walk, keep = self._walk(schedule, here, here, there), float(there.alpha / here.alpha)
        return lambda denoise, x, memory, noise: walk(denoise, x, memory, noise) * keep

    def at_last(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        before, last = levels[-2:] if len(levels) > 1 else (levels[0], levels[0])
        return [Planned(self._walk(schedule, last, before, last), last)]

    def _walk(self, schedule: Schedule, level: Level, above: Level, below: Level) -> Step:
        """The Langevin steps at a level; without a rate, their size depends on the rho of `above` and `below`."""
        if self.rate is None:
            size = technique_4(float(above.rho / below.rho), self.repeats) * float(level.rho) ** 2
        else:
            last = schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64))
            size = self.rate * float(level.rho / last.rho) ** 2
        rho, alpha = float(level.rho), float(level.alpha)

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            for _ in range(self.repeats):
                score = denoise(x, level).eps / -rho  # of y
                x = x.add(score, alpha=alpha * size).add_(noise.like(x), alpha=alpha * math.sqrt(2 * size))
            return x

        return step


def technique_4(gamma: float, repeats: int) -> float:
    """The r = epsilon / sigma_L^2 for which the noise after `repeats` Langevin steps is nearest to the level's own.

    Its variance, in units of the level's, is s^2 = (1 - r)^(2 T) (gamma^2 - 2 / (2 - r)) + 2 / (2 - r) > 1; the
    minimum is searched over r = 1e-8 to 1.

    Source: Song and Ermon, NCSNv2, arXiv 2006.09011, proposition 3 and technique 4.

    Args:
        gamma: Ratio of the rho of a level to that of the next, above 1.
        repeats: T.

    Raises:
        ValueError: If gamma <= 1 or infinite.
    """
    if not 1 < gamma < math.inf:
        raise ValueError(
            f"rate=null: two noisy levels of finite, falling rho are needed; their ratio here is {gamma:g}."
        )
    r = torch.logspace(-8, 0, 20_001, dtype=torch.float64)[:-1]
    rest = 2 / (2 - r)
    spread = (1 - r) ** (2 * repeats) * (gamma**2 - rest) + rest
    return float(r[spread.argmin()])


@dataclass(eq=False)
class NCSNLangevin(AnnealedLangevin):
    """`AnnealedLangevin` in the paper's notation: y += (a / 2) score + sqrt(a) z, a = epsilon rho^2 / rho_last^2.

    Source: Song and Ermon, NCSN, arXiv 1907.05600, algorithm 1.

    The other arguments are those of `AnnealedLangevin`, without `rate`.

    Args:
        epsilon: The paper's; twice the released code's `step_lr`.
    """

    rate: float | None = field(init=False, repr=False)
    epsilon: float = 2e-5

    def __post_init__(self) -> None:
        self.rate = self.epsilon / 2
        super().__post_init__()


def ula(score: Callable[[Tensor], Tensor], x: Tensor, size: float, count: int, noise: Noise) -> Tensor:
    """Unadjusted Langevin: x += size score(x) + sqrt(2 size) z, `count` times, on `(B, *)`; biased by O(size).

    Source: Roberts and Tweedie, Bernoulli 2 (1996).
    """
    for _ in range(count):
        x = x + size * score(x) + math.sqrt(2 * size) * noise.like(x)
    return x


def mala(
    log_density: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    size: float,
    count: int,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Metropolis-adjusted Langevin: `ula`'s proposal, accepted so that the density `(B,)` is invariant.

    Source: Roberts and Tweedie, Bernoulli 2 (1996).

    Returns:
        The states `(B, *)`, and the share of proposals that each chain accepted, `(B,)`.
    """
    accepted = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    log_p, slope = log_density(x), score(x)
    for _ in range(count):
        y = x + size * slope + math.sqrt(2 * size) * noise.like(x)
        log_p_y, slope_y = log_density(y), score(y)
        there = (y - x - size * slope).flatten(1).square().sum(1)
        back = (x - y - size * slope_y).flatten(1).square().sum(1)
        log_ratio = log_p_y - log_p + (there - back) / (4 * size)
        take = noise.uniform().log() < log_ratio
        x, slope = torch.where(like(take, x).bool(), y, x), torch.where(like(take, x).bool(), slope_y, slope)
        log_p = torch.where(take, log_p_y, log_p)
        accepted += take
    return x, accepted / count

"""EDM's churn and k-diffusion's ancestral steps: wrappers that add noise to any single-step rule, for any alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step, check_one_step, jump
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.runge_kutta import RhoRK
from denoiselab.samplers.tableaus import euler
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import NOISIER, X0, Lam, Rho, gap, linear
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class _Refined(OneStep):
    """A sampler that adds noise to the steps of a deterministic single-step rule.

    The other arguments are those of `Sampler`, except for `threshold`, which is the rule's.

    Args:
        rule: A deterministic single-step sampler; its grid is not used.
        s_noise: Factor on the standard deviation of the noise.
    """

    threshold: Threshold | None = field(init=False, repr=False)
    rule: OneStep = field(default_factory=RhoRK)

    stochastic = True

    def __post_init__(self) -> None:
        self.renoises, self.threshold = self.rule.renoises, self.rule.threshold
        super().__post_init__()
        check_one_step("rule", self.rule)
        if self.rule.stochastic:
            raise ValueError(f"rule={type(self.rule).__name__}: it is stochastic; use a deterministic sampler.")
        self.calls_per_step = self.rule.calls_per_step

    def _noisier(self, s_noise: float) -> None:
        check_number("s_noise", s_noise)
        self.convergence_order, self.no_order = (1, "") if s_noise == 1 else (None, NOISIER)


@dataclass(eq=False)
class Churn(_Refined):
    """EDM's stochastic sampler: raise the noise to rho (1 + gamma), then step down by a rule (Heun or Euler).

    gamma = min(s_churn / steps, sqrt(2) - 1) while s_tmin <= rho <= s_tmax, else 0; also before the step to clean
    data.

    Source: Karras et al., EDM, arXiv 2206.00364, algorithm 2, with rho = sigma / alpha for any alpha (appendix B).

    Args:
        s_churn: Amount of noise in a whole run.
        s_tmin: Least rho at which noise is added.
        s_tmax: Largest rho at which noise is added.
        cap: Whether the raised level stays below the schedule's end. In the released code it does not, and its first
            step starts above sigma_max if s_tmax allows it.

    Raises:
        ValueError: If an option is negative, s_tmin > s_tmax, or the rule is multistep or stochastic; or (steps) if
            `cap` is false and the schedule has no levels above its end.
    """

    steps: int = 18
    s_churn: float = 40.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    cap: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._noisier(self.s_noise)
        for name, value in (("s_churn", self.s_churn), ("s_tmin", self.s_tmin), ("s_tmax", self.s_tmax)):
            check_number(name, value)
        if self.s_tmin > self.s_tmax:
            raise ValueError(f"s_tmin={self.s_tmin}: it must not be above s_tmax={self.s_tmax}.")

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        count = len(levels) - 1 + to_come
        return [Planned(self._churned(schedule, here, there, count), there) for here, there in pairwise(levels)]

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        steps = super().plan(schedule, levels)
        if levels[-1].is_end and not levels[-2].is_end:
            count = len(levels) - 1 - int(levels[0].is_end) - int(not self.spacing.end_is_step)
            steps[-1] = Planned(self._churned(schedule, levels[-2], levels[-1], count), levels[-1])
        return steps

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        return self._churned(schedule, here, there, self.steps)

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        return Planned(self._churned(schedule, here, there, self.steps), there)

    def _churned(self, schedule: Schedule, here: Level, there: Level, count: int) -> Step:
        rho, gamma = float(here.rho), min(self.s_churn / count, math.sqrt(2) - 1)
        top = float(schedule.level(torch.tensor(schedule.t_max, dtype=torch.float64)).rho)
        raised = min(rho * (1 + gamma), top if self.cap else math.inf)
        if not self.s_tmin <= rho <= self.s_tmax or raised <= rho:
            return self._down(schedule, here, there)
        above = Rho().level(schedule, raised) if raised <= top else _beyond(schedule, raised)
        down = self._down(schedule, above, there)
        keep = float(above.alpha / here.alpha)
        std = self.s_noise * float(above.alpha) * math.sqrt(raised**2 - rho**2)

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = (x * keep).add_(noise.like(x), alpha=std)
            return down(denoise, x, memory, noise)

        return step

    def _down(self, schedule: Schedule, here: Level, there: Level) -> Step:
        return jump(here, there).step if there.is_end else self.rule.between(schedule, here, there)


def _beyond(schedule: Schedule, rho: float) -> Level:
    """The level at a rho above the schedule's end, by the schedule's formula."""
    level = schedule.level(schedule.time_of(torch.tensor(-math.log(rho), dtype=torch.float64)))
    if not abs(float(level.rho) / rho - 1) < 1e-6:
        raise ValueError(f"cap=false: {type(schedule).__name__} has no levels above its end; use cap=true.")
    return level


@dataclass(eq=False)
class Renoised(_Refined):
    """k-diffusion's ancestral samplers (`_a`): step down below the target by a rule, then add noise up to it.

    rho_up = min(rho_s, eta sqrt(rho_s^2 (rho_t^2 - rho_s^2) / rho_t^2)), rho_down = sqrt(rho_s^2 - rho_up^2). With
    Euler in rho and eta = 1 it is DDPM's ancestral step.

    Source: Crowson's k-diffusion, `sample_euler_ancestral` and similar, for any alpha.

    Args:
        eta: Amount of noise, from 0 to 1.
    """

    steps: int = 50
    rule: OneStep = field(default_factory=lambda: RhoRK(steps=50, tableau=euler()))
    eta: float = 1.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._noisier(self.s_noise)
        check_number("eta", self.eta, 0, 1)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        lower, std = _ancestral(here, there, self.eta)
        down = self.rule.between(schedule, here, lower)
        std *= self.s_noise

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = down(denoise, x, memory, noise)
            return x.add_(noise.between(x, here, there), alpha=std)

        return step


@dataclass(eq=False)
class DPMSolverPPSDE(OneStep):
    """k-diffusion's DPM++ SDE: the rule 2S with an ancestral step to its middle, and another to its end.

    Source: Crowson's k-diffusion, `sample_dpmpp_sde`, for any alpha.

    Args:
        eta: Amount of noise, from 0 to 1.
        r: Place of the second call in half log-SNR, between 0 and 1.
        s_noise: Factor on the standard deviation of the noise.
    """

    steps: int = 25
    eta: float = 1.0
    r: float = 0.5
    s_noise: float = 1.0

    calls_per_step = 2
    stochastic = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0, 1)
        check_number("s_noise", self.s_noise)
        if not 0 < self.r < 1:
            raise ValueError(f"r={self.r}: it must lie between 0 and 1.")
        self.convergence_order, self.no_order = (1, "") if self.s_noise == 1 else (None, NOISIER)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        space = X0()
        middle = Lam().level(schedule, float(here.lam) + self.r * gap(here, there))
        (below, std), (lower, last_std) = _ancestral(here, middle, self.eta), _ancestral(here, there, self.eta)
        first, (keep, gain) = space.move(here, below), space.move(here, lower)
        share, std, last_std = 1 / (2 * self.r), self.s_noise * std, self.s_noise * last_std

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x0 = denoise(x, here).x0
            inner = linear(first, (x, x0)).add_(noise.between(x, here, middle), alpha=std)
            x = linear((keep, gain * (1 - share), gain * share), (x, x0, denoise(inner, middle).x0))
            return x.add_(noise.between(x, here, there), alpha=last_std)

        return step


def _ancestral(here: Level, there: Level, eta: float) -> tuple[Level, float]:
    """The level below `there` to step down to, and the standard deviation of the noise back up to `there`."""
    rho_t, rho_s = float(here.rho), float(there.rho)
    up = min(rho_s, eta * rho_s * math.sqrt(1 - (rho_s / rho_t) ** 2))
    below = math.sqrt(rho_s**2 - up**2)
    # The level has the alpha of `there`, so that x keeps its scale, and less noise.
    lower = Level(there.t, there.alpha, there.alpha * below) if below > 0 else there
    return lower, float(there.alpha) * up

"""EDM's churn and k-diffusion's ancestral steps: wrappers that give noise to any single-step rule, for any alpha."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler, Step, check_number, jump
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import NOISIER, X0, Lam, Rho, gap, linear
from denoiselab.schedules import Level, Schedule


class _Refined(OneStep):
    """A sampler that holds the rule of its deterministic part.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        rule: A deterministic single-step sampler; its own grid and threshold are not used.
        s_noise: Factor on the noise's standard deviation.

    Raises:
        ValueError: The rule is multistep or stochastic, or the factor negative.
    """

    stochastic = True

    def __init__(self, spacing: Spacing, steps: int, rule: Sampler, s_noise: float) -> None:
        self.renoises = rule.renoises
        super().__init__(spacing, steps, rule.threshold)
        if not isinstance(rule, OneStep) or rule.stochastic:
            raise ValueError(f"rule={type(rule).__name__}: it must be a deterministic single-step sampler.")
        self.rule = rule
        check_number("s_noise", s_noise)
        self.calls_per_step, self.s_noise = rule.calls_per_step, s_noise
        self.order, self.no_order = (1, "") if s_noise == 1 else (None, NOISIER)


class Churn(_Refined):
    """EDM's stochastic sampler: raise the noise to rho (1 + gamma), then step down by a rule (Heun or Euler).

    gamma = min(s_churn / steps, sqrt(2) - 1) while s_tmin <= rho <= s_tmax, else 0, before the transfer to clean data
    too.

    Source: Karras et al., EDM, arXiv 2206.00364, algorithm 2, with rho = sigma / alpha for any alpha (appendix B).

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        rule: The single-step rule.
        s_churn: Amount of noise in a whole run.
        s_tmin: Least rho at which noise is added.
        s_tmax: Largest rho at which it is.
        s_noise: Factor on its standard deviation.
        cap: The raised level does not pass the schedule's own end. False: it does, as in the released code, whose first
            step starts above sigma_max where s_tmax allows it.

    Raises:
        ValueError: An option is negative, s_tmin above s_tmax, or the rule does not fit; or cap is False, and the
            schedule has no levels above its end.
    """

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        rule: Sampler,
        s_churn: float = 40.0,
        s_tmin: float = 0.05,
        s_tmax: float = 50.0,
        s_noise: float = 1.003,
        cap: bool = True,
    ) -> None:
        super().__init__(spacing, steps, rule, s_noise)
        for name, value in (("s_churn", s_churn), ("s_tmin", s_tmin), ("s_tmax", s_tmax)):
            check_number(name, value)
        if s_tmin > s_tmax:
            raise ValueError(f"s_tmin={s_tmin}: it must not be above s_tmax={s_tmax}.")
        self.s_churn, self.s_tmin, self.s_tmax, self.cap = s_churn, s_tmin, s_tmax, cap

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """The steps; the churn of each is a share of the run's."""
        count = len(levels) - 1 + to_come
        return [Planned(self._churned(schedule, here, there, count), there) for here, there in pairwise(levels)]

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """All steps, the transfer to clean data from a raised level."""
        steps = super().plan(schedule, levels)
        if levels[-1].is_end and not levels[-2].is_end:
            count = len(levels) - 1 - int(levels[0].is_end) - int(not self.spacing.end_is_step)
            steps[-1] = Planned(self._churned(schedule, levels[-2], levels[-1], count), levels[-1])
        return steps

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One step of a run of the sampler's own length."""
        return self._churned(schedule, here, there, self.steps)

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        """The transfer from a raised level, of such a run."""
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
        step: Step = jump(here, there).step if there.is_end else self.rule.between(schedule, here, there)
        return step


def _beyond(schedule: Schedule, rho: float) -> Level:
    """The level at rho above the schedule's end, where its formula goes on."""
    level = schedule.level(schedule.time_of(torch.tensor(-math.log(rho), dtype=torch.float64)))
    if not abs(float(level.rho) / rho - 1) < 1e-6:
        raise ValueError(f"cap=false: {type(schedule).__name__} has no levels above its end; use cap=true.")
    return level


class Renoised(_Refined):
    """k-diffusion's ancestral samplers (`_a`): step down below the target by a rule, then add noise up to it.

    rho_up = min(rho_s, eta sqrt(rho_s^2 (rho_t^2 - rho_s^2) / rho_t^2)), rho_down = sqrt(rho_s^2 - rho_up^2). With
    Euler in rho and eta = 1 it is DDPM's ancestral step.

    Source: Crowson's k-diffusion, `sample_euler_ancestral` and its kin, for any alpha.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        rule: The single-step rule.
        eta: Amount of noise, from 0 to 1.
        s_noise: Factor on its standard deviation.

    Raises:
        ValueError: An option is negative, or the rule does not fit.
    """

    def __init__(self, spacing: Spacing, steps: int, rule: Sampler, eta: float = 1.0, s_noise: float = 1.0) -> None:
        super().__init__(spacing, steps, rule, s_noise)
        check_number("eta", eta, 0, 1)
        self.eta = eta

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """Down, and up again."""
        lower, std = _ancestral(here, there, self.eta)
        down: Step = self.rule.between(schedule, here, lower)
        std *= self.s_noise

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = down(denoise, x, memory, noise)
            return x.add_(noise.between(x, here, there), alpha=std)

        return step


class DPMSolverPPSDE(OneStep):
    """k-diffusion's DPM++ SDE: the rule 2S with an ancestral step to its middle, and another to its end.

    Source: Crowson's k-diffusion, `sample_dpmpp_sde`, for any alpha.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        eta: Amount of noise, from 0 to 1.
        r: Where the second call stands, in half log-SNR.
        s_noise: Factor on the noise's standard deviation.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range.
    """

    calls_per_step = 2
    stochastic = True

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        eta: float = 1.0,
        r: float = 0.5,
        s_noise: float = 1.0,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("eta", eta, 0, 1)
        check_number("s_noise", s_noise)
        if not 0 < r < 1:
            raise ValueError(f"r={r}: it must lie between 0 and 1.")
        self.eta, self.r, self.s_noise = eta, r, s_noise
        self.order, self.no_order = (1, "") if s_noise == 1 else (None, NOISIER)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """Two calls."""
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
    """The level below `there` to step down to, and the noise that leads up again."""
    rho_t, rho_s = float(here.rho), float(there.rho)
    up = min(rho_s, eta * rho_s * math.sqrt(1 - (rho_s / rho_t) ** 2))
    below = math.sqrt(rho_s**2 - up**2)
    # A level of the same alpha as `there` keeps x in its scale; only its noise is less.
    lower = Level(there.t, there.alpha, there.alpha * below) if below > 0 else there
    return lower, float(there.alpha) * up

"""Samplers that choose the steps of each sample from tolerances; their NFE is only known after the run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned, Sampler, Step
from denoiselab.samplers.checks import check_number, check_positive
from denoiselab.samplers.spacing import Spacing, UniformLogSNR
from denoiselab.samplers.transfer import X0, Eps, Space
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


@dataclass(eq=False)
class Adaptive(Sampler):
    """One step from the first to the last level inside the axis, with as many calls as the tolerances require.

    A call evaluates the whole batch, so a batch takes as many calls as its hardest sample; no sample depends on the
    others. The other arguments are those of `Sampler`, without `steps`; only the ends of the grid are used.

    Args:
        rtol: Relative tolerance.
        atol: Absolute tolerance, in units of the data.

    Raises:
        ValueError: If a tolerance is negative, or both are 0.
    """

    spacing: Spacing = field(default_factory=UniformLogSNR)
    steps: int = field(default=3, init=False, repr=False)
    rtol: float = 1e-5
    atol: float = 1e-5

    # Convergence order of the steps, whose number grows as the tolerances fall.
    convergence_order: int = field(init=False, repr=False)
    adaptive = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("rtol", self.rtol)
        check_number("atol", self.atol)
        if self.rtol == self.atol == 0:
            raise ValueError("rtol=0 and atol=0: one of them must be positive.")

    @abstractmethod
    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The solution from `here` to `there`."""

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        return [Planned(self.solve(schedule, levels[0], levels[-1]), levels[-1])]

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """A grid of three steps, so that one that starts at pure noise has two noisy levels."""
        return self.spacing(schedule, 3)

    def nfe(self, steps: int, schedule: Schedule) -> int:
        raise ValueError(f"{type(self).__name__} chooses its own steps; set its tolerances, not a number of calls.")


@dataclass(eq=False)
class AdaptiveODE(Adaptive):
    """The probability-flow ODE (`flow_slope`) by an adaptive Runge-Kutta method.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, appendix D (RK45).

    Args:
        tsitouras: Whether to use Tsitouras' tableau of order 5; otherwise Dormand and Prince's.
    """

    tsitouras: bool = False

    convergence_order = 5

    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            def slope(place: Tensor, u: Tensor) -> Tensor:
                return flow_slope(denoise, schedule, place, u.view(x.shape), x.dtype).flatten(1)

            norms = [float(torch.hypot(level.alpha, level.sigma)) for level in (here, there)]
            ends = [like_batch(flow_place(level), x) for level in (here, there)]
            u = x.flatten(1).double() / norms[0]
            end = runge_kutta_45(slope, u, ends[0], ends[1], self.rtol, self.atol, tsitouras=self.tsitouras)
            return (end.view(x.shape) * norms[1]).to(x)

        return step


def flow_place(level: Level) -> Tensor:
    """The variable of `flow_slope` at a level, float64, shaped like it: w = asinh(alpha / sigma), 0 at pure noise."""
    return (level.alpha / level.sigma).double().asinh()


def flow_slope(denoise: Denoise, schedule: Schedule, place: Tensor, u: Tensor, dtype: torch.dtype) -> Tensor:
    """du/dw `(B, *)` of the probability-flow ODE at unit variance, u = x / sqrt(alpha^2 + sigma^2).

    With tan(phi) = sigma / alpha it is du/d phi = cos(phi) eps - sin(phi) x0: the same ODE, with the same steps, on
    every schedule. The variable w has d phi / dw = -sin(phi): near the data it is the half log-SNR plus log 2, and
    unlike the latter it is finite at pure noise.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.

    Args:
        denoise: A denoiser with its conditioning bound.
        schedule: The path whose levels are passed to the denoiser.
        place: w `(B,)` float64 (`flow_place`).
        u: `(B, *)` float64.
        dtype: Type of the denoiser's input.
    """
    with torch.no_grad():  # a learned schedule's search for the level
        level = schedule.at(place.sinh().log())
    norm = torch.hypot(level.alpha, level.sigma)
    cos, sin = (like(part / norm, u) for part in (level.alpha, level.sigma))
    x0, eps, *_ = denoise((u * like(norm, u)).to(dtype), level)
    return sin * (sin * x0.to(u) - cos * eps.to(u))


def runge_kutta_45(
    slope: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    first: Tensor,
    last: Tensor,
    rtol: float,
    atol: float,
    *,
    tsitouras: bool = False,
) -> Tensor:
    """The solution `(B, D)` at `last` of an ODE, by torchode's adaptive rules of order 5 with own steps of each sample.

    The error of a step is the root of the mean square over D of error / (atol + rtol |y|).

    Source: Lienen and Günnemann, torchode, arXiv 2210.12375.

    Args:
        slope: dy/dt `(B, D)` from t `(B,)` and y `(B, D)`.
        start: y at `first`, `(B, D)` float64.
        first: `(B,)`.
        last: `(B,)`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        tsitouras: Whether to use Tsitouras' tableau; otherwise Dormand and Prince's.

    Raises:
        ValueError: If the solver fails.
    """
    import torchode  # takes half a second, and only this function needs it

    term = torchode.ODETerm(slope)
    method = (torchode.Tsit5 if tsitouras else torchode.Dopri5)(term=term)
    control = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
    problem = torchode.InitialValueProblem(y0=start, t_start=first, t_end=last)
    solution = torchode.AutoDiffAdjoint(method, control).solve(problem)
    if bool((solution.status != 0).any()):
        raise ValueError(f"rtol={rtol}, atol={atol}: the ODE solver failed; use larger tolerances.")
    out: Tensor = solution.ys[:, -1]
    return out


@dataclass(eq=False)
class DPMSolverAdaptive(Adaptive):
    """DPM-Solver-12 or -23, for eps: two rules of consecutive orders, whose difference is the error of the step.

    For each sample, E = rms((high - low) / max(atol, rtol max(|low|, |x_before|))); the step is accepted if E <= 1, and
    h is multiplied by 0.9 E^(-1/order).

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, appendix C.

    The other arguments are those of `Adaptive`; the paper's `atol` is 1 / 128 for data in [-1, 1].

    Args:
        order: 2 for DPM-Solver-12, 3 for -23.
        h: First step in half log-SNR.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    order: int = field(default=3, kw_only=True)
    h: float = field(default=0.05, kw_only=True)

    path_dependent = True  # by the tolerances
    space: ClassVar[Space] = Eps()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("order", self.order, 2, 3)
        check_positive("h", self.h)
        self.convergence_order = self.order

    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            lam, last = like_batch(here.lam, x), like_batch(there.lam, x)
            sign = torch.sign(last - lam)
            h = sign * torch.minimum(torch.full_like(lam, self.h), (last - lam).abs())
            before = x
            while bool(((last - lam).abs() > 1e-9).any()):
                low, high = self._pair(denoise, schedule, x, lam, h)
                scale = torch.maximum(self.rtol * torch.maximum(low.abs(), before.abs()), torch.full_like(x, self.atol))
                error = ((high - low) / scale).flatten(1).double().square().mean(1).sqrt()
                # A step with a NaN error is accepted too, and ends the sample: repeating it would not help.
                accepted = ~(error > 1) & ((last - lam).abs() > 1e-9)
                x = torch.where(like(accepted, x).bool(), high, x)
                before = torch.where(like(accepted, x).bool(), low, before)
                lam = torch.where(accepted, lam + h, lam)
                wanted = h.abs() * 0.9 * error.clamp_min(1e-10).pow(-1 / self.order)
                h = sign * torch.minimum(wanted, (last - lam).abs())
            return x

        return step

    def _pair(self, denoise: Denoise, schedule: Schedule, x: Tensor, lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The states after `h` by the rule of lower order and by that of higher order."""
        start, end = schedule.at(lam), schedule.at(lam + h)
        assert self.space.rate is not None
        rate = self.space.rate

        def call(at: Tensor, level: Level) -> Tensor:
            return self.space.reader(schedule, level)(denoise(at, level))

        def move(there: Level, guess: Tensor) -> Tensor:
            keep, gain = self.move(start, there)
            return like(keep, x) * x + like(gain, x) * guess

        def bend(step: Tensor) -> Tensor:
            """The weight of a slope in the mean over a step: (e^z - 1 - z) / (z (e^z - 1)), z = -rate step."""
            z = -rate * step
            return torch.where(z.abs() < 1e-4, 0.5 - z / 12, 1 / z - 1 / torch.expm1(z))

        first = call(x, start)
        if self.order == 2:
            middle = schedule.at(lam + h / 2)
            second = call(move(middle, first), middle)
            return move(end, first), move(end, second)
        third, two_thirds = schedule.at(lam + h / 3), schedule.at(lam + 2 * h / 3)
        second = call(move(third, first), third)
        guess = first + like(2 * bend(2 * h / 3), x) * (second - first)
        last = call(move(two_thirds, guess), two_thirds)
        low = move(end, first + 1.5 * (second - first))
        return low, move(end, first + like(1.5 * bend(h), x) * (last - first))

    def move(self, here: Level, there: Level) -> tuple[Tensor, Tensor]:
        """(keep, gain) `(B,)` of a step between levels of each sample, as `Space.move`."""
        return there.alpha / here.alpha, -there.sigma * torch.expm1(there.lam - here.lam)


class DPMSolverPPAdaptive(DPMSolverAdaptive):
    """DPM-Solver++-12 or -23: `DPMSolverAdaptive` for x0.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, and its released code (`dpm_solver_adaptive`).
    """

    space = X0()

    def move(self, here: Level, there: Level) -> tuple[Tensor, Tensor]:
        return there.sigma / here.sigma, -there.alpha * torch.expm1(here.lam - there.lam)


def like_batch(value: Tensor, x: Tensor) -> Tensor:
    """A scalar of the grid for each sample of x, `(B,)` float64."""
    return value.to(x.device).expand(len(x)).clone()

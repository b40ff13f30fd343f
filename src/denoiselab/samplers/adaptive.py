"""Samplers that choose their own steps, each sample its own, from tolerances: their NFE is known when it is spent."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned, Sampler, Step, check_number
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import X0, Eps, Space
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class Adaptive(Sampler):
    """One step from the first to the last level inside the axis, by as many calls as its tolerances ask for.

    A call evaluates the whole batch, so a batch costs what its hardest sample costs; no sample's value depends on
    the others.

    Args:
        spacing: Where it starts, and whether it lands on clean data; levels between are not used.
        rtol: Relative tolerance.
        atol: Absolute tolerance, in units of the data.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: A tolerance is negative, or both are 0.
    """

    adaptive = True
    order: int  # of the steps, whose number grows as the tolerances fall

    def __init__(self, spacing: Spacing, rtol: float, atol: float, threshold: Threshold | None = None) -> None:
        super().__init__(spacing, 3, threshold)
        check_number("rtol", rtol)
        check_number("atol", atol)
        if rtol == atol == 0:
            raise ValueError("rtol=0 and atol=0: one of them must be positive.")
        self.rtol, self.atol = rtol, atol

    @abstractmethod
    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The way from `here` to `there`."""

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """One step."""
        return [Planned(self.solve(schedule, levels[0], levels[-1]), levels[-1])]

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The ends, and a level between them so that one that starts at pure noise has two inside."""
        return self.spacing(schedule, 3)

    def nfe(self, steps: int, schedule: Schedule) -> int:
        """Not known before.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{type(self).__name__} chooses its own steps: give it tolerances, not a number of calls.")


class AdaptiveODE(Adaptive):
    """The probability-flow ODE (`flow_slope`) by an adaptive Runge-Kutta method.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, appendix D (RK45).

    Args:
        spacing: As in `Adaptive`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        tsitouras: His tableau of order 5, else Dormand and Prince's.
        threshold: Mends each predicted x0.
    """

    order = 5

    def __init__(
        self,
        spacing: Spacing,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        tsitouras: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, rtol, atol, threshold)
        self.tsitouras = tsitouras

    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The solver's run."""

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
    """Where `flow_slope` has a level, float64, shaped like it: w = asinh(alpha / sigma), 0 at pure noise."""
    return (level.alpha / level.sigma).double().asinh()


def flow_slope(denoise: Denoise, schedule: Schedule, place: Tensor, u: Tensor, dtype: torch.dtype) -> Tensor:
    """du/dw `(B, *)` of the probability-flow ODE at unit variance, u = x / sqrt(alpha^2 + sigma^2).

    With tan(phi) = sigma / alpha it is du/d phi = cos(phi) eps - sin(phi) x0: the same ODE, with the same steps, on
    every schedule. The variable w has d phi / dw = -sin(phi): near the data it is the half log-SNR plus log 2, and
    unlike that it is finite at pure noise.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.

    Args:
        denoise: A denoiser with its conditioning bound.
        schedule: Whose levels are used.
        place: w, `(B,)` float64, as `flow_place` has it.
        u: `(B, *)` float64.
        dtype: Of the denoiser's input.
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
    """The solution `(B, D)` at `last` of an ODE, by torchode's adaptive rules of order 5 with steps of each sample.

    The error of a step is the root of the mean square over D of error / (atol + rtol |y|).

    Source: Lienen and Günnemann, torchode, arXiv 2210.12375.

    Args:
        slope: dy/dt `(B, D)` from t `(B,)` and y `(B, D)`.
        start: y at `first`, `(B, D)` float64.
        first: `(B,)`.
        last: `(B,)`.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        tsitouras: His tableau, else Dormand and Prince's.

    Raises:
        ValueError: The solver gave up.
    """
    import torchode  # Half a second, for this function alone.

    term = torchode.ODETerm(slope)
    method = (torchode.Tsit5 if tsitouras else torchode.Dopri5)(term=term)
    control = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
    problem = torchode.InitialValueProblem(y0=start, t_start=first, t_end=last)
    solution = torchode.AutoDiffAdjoint(method, control).solve(problem)
    if bool((solution.status != 0).any()):
        raise ValueError(f"the ODE's solver gave up at rtol={rtol}, atol={atol}.")
    end: Tensor = solution.ys[:, -1]
    return end


class DPMSolverAdaptive(Adaptive):
    """DPM-Solver-12 or -23, for eps: a rule in another of one order more, whose difference is the error of the step.

    Per sample: E = rms((high - low) / max(atol, rtol max(|low|, |x_before|))); the step is taken if E <= 1; then h is
    multiplied by 0.9 E^(-1/order).

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, appendix C.

    Args:
        spacing: As in `Adaptive`.
        order: 2 for DPM-Solver-12, 3 for -23.
        rtol: Relative tolerance.
        atol: Absolute tolerance; the paper's is 1 / 128 for data in [-1, 1].
        h: First step in half log-SNR.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range.
    """

    space: Space = Eps()

    def __init__(
        self,
        spacing: Spacing,
        order: int = 3,
        rtol: float = 0.05,
        atol: float = 0.0078,
        h: float = 0.05,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, rtol, atol, threshold)
        check_number("order", order, 2, 3)
        if not h > 0:
            raise ValueError(f"h={h}: it must be positive.")
        self.order, self.h = order, h

    def solve(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """Steps until every sample has arrived."""

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            lam, last = like_batch(here.lam, x), like_batch(there.lam, x)
            sign = torch.sign(last - lam)
            h = sign * torch.minimum(torch.full_like(lam, self.h), (last - lam).abs())
            before = x
            while bool(((last - lam).abs() > 1e-9).any()):
                low, high = self._pair(denoise, schedule, x, lam, h)
                scale = torch.maximum(self.rtol * torch.maximum(low.abs(), before.abs()), torch.full_like(x, self.atol))
                error = ((high - low) / scale).flatten(1).double().square().mean(1).sqrt()
                # An error that is no number is taken too, and ends the sample's way: it cannot be mended.
                taken = ~(error > 1) & ((last - lam).abs() > 1e-9)
                x = torch.where(like(taken, x).bool(), high, x)
                before = torch.where(like(taken, x).bool(), low, before)
                lam = torch.where(taken, lam + h, lam)
                wanted = h.abs() * 0.9 * error.clamp_min(1e-10).pow(-1 / self.order)
                h = sign * torch.minimum(wanted, (last - lam).abs())
            return x

        return step

    def _pair(self, denoise: Denoise, schedule: Schedule, x: Tensor, lam: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """The states after `h` by the rule and by the one it stands in."""
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
    """DPM-Solver++-12 or -23: as `DPMSolverAdaptive`, for x0.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, and its released code (`dpm_solver_adaptive`).
    """

    space = X0()

    def move(self, here: Level, there: Level) -> tuple[Tensor, Tensor]:
        """(keep, gain)."""
        return there.sigma / here.sigma, -there.alpha * torch.expm1(here.lam - there.lam)


def like_batch(value: Tensor, x: Tensor) -> Tensor:
    """A grid's value for each sample of x, `(B,)` float64."""
    return value.to(x.device).expand(len(x)).clone()

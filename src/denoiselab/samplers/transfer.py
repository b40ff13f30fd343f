"""What all samplers share: the spaces in which a step is exact, and the weights of predictions within it.

In the space of a prediction m (x0, eps or the velocity) a step from `here` to `there` is

    x_there = keep x_here + gain guess,        guess = sum_j w_j m_j,    sum_j w_j = 1,

exact if m is constant on the way. Every sampler is a choice of space, and of a guess.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.schedules import Level, Schedule

Reader = Callable[[Prediction], Tensor]

# Why a sampler with another factor on its noise has no order.
NOISIER = "s_noise is not 1: the noise added is not that of the levels"


class Space(Protocol):
    """What is held constant during a step."""

    @property
    def rate(self) -> float | None:
        """A step integrates the prediction against exp(rate lam) d lam; None where lam is not its variable."""

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        """Reads m from the prediction at a level."""
        ...

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        """(keep, gain) of a step between levels inside the axis."""
        ...

    def std(self, here: Level, there: Level) -> float:
        """Standard deviation of the noise that the step adds."""
        ...


def gap(here: Level, there: Level) -> float:
    """The step's length in half log-SNR, positive towards the data."""
    return float(there.lam - here.lam)


class X0:
    """Constant x0, on the way of dx/d lam = ... + (1 + eta) x0 with noise of rate eta; eta = 0 is the ODE.

    keep = sigma_s / sigma_t e^(-eta h), gain = alpha_s (1 - e^(-(1 + eta) h)), std = sigma_s sqrt(1 - e^(-2 eta h)).
    At eta = 1 a step is the draw from q(x_s | x_t, x0).

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, eq. 9 and 18; eta as in the extended reverse SDE.

    Args:
        eta: Not negative.
        s_noise: Factor on std.
    """

    def __init__(self, eta: float = 0.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise
        self.rate = 1.0 + eta

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        """x0."""
        return _x0

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        """(keep, gain)."""
        h = gap(here, there)
        keep = float(there.sigma / here.sigma) * math.exp(-self.eta * h)
        return keep, -float(there.alpha) * math.expm1(-self.rate * h)

    def std(self, here: Level, there: Level) -> float:
        """The noise's standard deviation."""
        own = math.sqrt(-math.expm1(-2 * self.eta * gap(here, there))) if self.eta else 0.0
        return self.s_noise * float(there.sigma) * own


class Eps:
    """Constant eps. keep = alpha_s / alpha_t, gain = -(1 + eta) sigma_s (e^h - 1), std = sigma_s sqrt(eta (e^2h - 1)).

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, eq. 3.4; DPM-Solver++, arXiv 2211.01095, eq. 17 (eta = 1).

    Args:
        eta: Rate of noise, not negative; 0 is the ODE.
        s_noise: Factor on std.
    """

    rate = -1.0

    def __init__(self, eta: float = 0.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        """Eps."""
        return _eps

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        """(keep, gain)."""
        gain = -(1 + self.eta) * float(there.sigma) * math.expm1(gap(here, there))
        return float(there.alpha / here.alpha), gain

    def std(self, here: Level, there: Level) -> float:
        """The noise's standard deviation."""
        own = math.sqrt(self.eta * math.expm1(2 * gap(here, there))) if self.eta else 0.0
        return self.s_noise * float(there.sigma) * own


class Velocity:
    """Constant dx/dt = alpha' x0 + sigma' eps: the classical rules, in the schedule's own time.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.
    """

    rate = None

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        """The velocity."""
        d_alpha, d_sigma = (float(d) for d in schedule.derivatives(level.t))
        return lambda prediction: linear((d_alpha, d_sigma), (prediction.x0, prediction.eps))

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        """(1, step in t)."""
        return 1.0, float(there.t - here.t)

    def std(self, here: Level, there: Level) -> float:
        """None."""
        return 0.0


def _x0(prediction: Prediction) -> Tensor:
    return prediction.x0


def _eps(prediction: Prediction) -> Tensor:
    return prediction.eps


class Axis(Protocol):
    """A coordinate along the noise axis, in which predictions are interpolated or stages placed."""

    def of(self, level: Level) -> float:
        """The coordinate of a level."""
        ...

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        """The coordinates at half log-SNRs."""
        ...

    def level(self, schedule: Schedule, value: float) -> Level:
        """The level at a coordinate."""
        ...


class Lam:
    """Half log-SNR."""

    def of(self, level: Level) -> float:
        """Lam."""
        return float(level.lam)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        """Lam itself."""
        return lam

    def level(self, schedule: Schedule, value: float) -> Level:
        """The level at lam."""
        return schedule.at(torch.tensor(value, dtype=torch.float64))


class Rho:
    """rho = sigma / alpha."""

    def of(self, level: Level) -> float:
        """Rho."""
        return float(level.rho)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        """Rho at lam."""
        return (-lam).exp()

    def level(self, schedule: Schedule, value: float) -> Level:
        """The level at rho.

        Raises:
            ValueError: It is not positive.
        """
        if not value > 0:
            raise ValueError(f"rho={value}: it must be positive.")
        return schedule.at(torch.tensor(-math.log(value), dtype=torch.float64))


class Time:
    """The schedule's t^(1/rho).

    Args:
        rho: The power; 2 is DPM-Solver's `time_quadratic`.

    Raises:
        ValueError: If it is not positive.
    """

    def __init__(self, rho: float = 1.0) -> None:
        if not rho > 0:
            raise ValueError(f"rho={rho}: it must be positive.")
        self.rho = rho

    def of(self, level: Level) -> float:
        """t^(1/rho)."""
        return math.pow(float(level.t), 1 / self.rho)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        """t^(1/rho) at lam."""
        return schedule.time_of(lam) ** (1 / self.rho)

    def level(self, schedule: Schedule, value: float) -> Level:
        """The level at t^(1/rho)."""
        return schedule.level(torch.tensor(value**self.rho, dtype=torch.float64))


def interpolation(
    schedule: Schedule, space: Space, axis: Axis, nodes: Sequence[Level], here: Level, there: Level
) -> list[float]:
    """Weights of the predictions at `nodes`: those of their polynomial in `axis`, integrated exactly over the step.

    w_j = int l_j e^(rate lam) d lam / int e^(rate lam) d lam from `here` to `there`, by Gauss-Legendre quadrature.
    One routine for tAB, rhoAB, DPM-Solver, ++, LMS and UniPC of any order.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, eq. 15.
    """
    if len(nodes) == 1:
        return [1.0]
    assert space.rate is not None
    h = gap(here, there)
    points, masses = kernel(space.rate * h)
    u = axis.along(schedule, here.lam + h * points).tolist()
    at = [axis.of(node) for node in nodes]
    weights = []
    for j, own in enumerate(at):
        others = [other for i, other in enumerate(at) if i != j]
        scale = math.prod(own - other for other in others)
        mean = sum(k * math.prod(v - o for o in others) for v, k in zip(u, masses, strict=True))
        weights.append(mean / scale)
    return weights


def kernel(exponent: float) -> tuple[Tensor, list[float]]:
    """Points z of [0, 1] and masses proportional to exp(exponent z), of sum 1, for integrals over a step."""
    points, masses = _quadrature()
    # Relative to the end at which it is largest.
    masses = masses * (exponent * points - max(0.0, exponent)).exp()
    return points, (masses / masses.sum()).tolist()


@functools.cache
def _quadrature(count: int = 32) -> tuple[Tensor, Tensor]:
    """Points and masses of Gauss-Legendre quadrature on [0, 1] (Golub and Welsch)."""
    n = torch.arange(1, count, dtype=torch.float64)
    points, vectors = torch.linalg.eigh(torch.diag(n / (4 * n.square() - 1).sqrt(), 1).T.contiguous(), UPLO="L")
    return (points + 1) / 2, vectors[0].square()


def linear(coefficients: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_j c_j tensor_j, with one new tensor."""
    out = tensors[0] * coefficients[0]
    for c, tensor in zip(coefficients[1:], tensors[1:], strict=True):
        out.add_(tensor, alpha=c)
    return out

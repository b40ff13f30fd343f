"""The parts that samplers share: spaces in which a step is exact, and weights of predictions.

In the space of a prediction m (x0, eps or the velocity) a step from `here` to `there` is

    x_there = keep x_here + gain guess,        guess = sum_j w_j m_j,    sum_j w_j = 1,

exact if m is constant during the step. Samplers differ in the space and in the weights.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.samplers.checks import check_positive
from denoiselab.schedules import Level, Schedule

Reader = Callable[[Prediction], Tensor]

# `no_order` of a sampler whose noise is scaled.
NOISIER = "s_noise is not 1: the noise added is not that of the levels"


class Space(ABC):
    """The prediction that a step holds constant.

    Attributes:
        rate: A step integrates the prediction against exp(rate lam) d lam; None if lam is not the variable.
    """

    rate: float | None

    @abstractmethod
    def reader(self, schedule: Schedule, level: Level) -> Reader:
        """A function that reads m from the prediction at a level."""

    @abstractmethod
    def move(self, here: Level, there: Level) -> tuple[float, float]:
        """(keep, gain) of a step between levels inside the axis."""

    @abstractmethod
    def coefficients(self, schedule: Schedule, level: Level) -> tuple[float, float]:
        """(a, b) of m = a x0 + b eps at a level."""

    def std(self, here: Level, there: Level) -> float:
        """Standard deviation of the noise that the step adds."""
        return 0.0

    def lands(self, schedule: Schedule, here: Level, there: Level) -> Level | None:
        """The level at which keep x + gain m ends before noise is added: `there`, or a cleaner one; None if none.

        A network with a second time is asked to map to it.
        """
        (keep, gain), (a, b) = self.move(here, there), self.coefficients(schedule, here)
        alpha, sigma = keep * here.alpha + gain * a, keep * here.sigma + gain * b
        near = torch.hypot(alpha - there.alpha, sigma - there.sigma) <= 1e-9 * torch.hypot(there.alpha, there.sigma)
        if bool(near):
            return there
        return Level(there.t, alpha, sigma) if bool((alpha >= 0) & (sigma >= 0)) else None


def gap(here: Level, there: Level) -> float:
    """The step's length in half log-SNR, positive towards the data."""
    return float(there.lam - here.lam)


class X0(Space):
    """Constant x0, with noise of rate eta; eta = 0 is the ODE.

    keep = sigma_s / sigma_t e^(-eta h), gain = alpha_s (1 - e^(-(1 + eta) h)), std = sigma_s sqrt(1 - e^(-2 eta h)).
    At eta = 1 a step is the draw from q(x_s | x_t, x0).

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, eq. 9 and 18; eta as in the extended reverse SDE.

    Args:
        eta: Not negative.
        s_noise: Factor on std.
    """

    rate: float

    def __init__(self, eta: float = 0.0, s_noise: float = 1.0) -> None:
        self.eta, self.s_noise = eta, s_noise
        self.rate = 1.0 + eta

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        return lambda prediction: prediction.x0

    def coefficients(self, schedule: Schedule, level: Level) -> tuple[float, float]:
        return 1.0, 0.0

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        h = gap(here, there)
        keep = float(there.sigma / here.sigma) * math.exp(-self.eta * h)
        return keep, -float(there.alpha) * math.expm1(-self.rate * h)

    def std(self, here: Level, there: Level) -> float:
        own = math.sqrt(-math.expm1(-2 * self.eta * gap(here, there))) if self.eta else 0.0
        return self.s_noise * float(there.sigma) * own


class Eps(Space):
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
        return lambda prediction: prediction.eps

    def coefficients(self, schedule: Schedule, level: Level) -> tuple[float, float]:
        return 0.0, 1.0

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        gain = -(1 + self.eta) * float(there.sigma) * math.expm1(gap(here, there))
        return float(there.alpha / here.alpha), gain

    def std(self, here: Level, there: Level) -> float:
        own = math.sqrt(self.eta * math.expm1(2 * gap(here, there))) if self.eta else 0.0
        return self.s_noise * float(there.sigma) * own


class Velocity(Space):
    """Constant dx/dt = alpha' x0 + sigma' eps: the classical rules, in the schedule's own time.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.
    """

    rate = None

    def reader(self, schedule: Schedule, level: Level) -> Reader:
        coefficients = self.coefficients(schedule, level)
        return lambda prediction: linear(coefficients, (prediction.x0, prediction.eps))

    def coefficients(self, schedule: Schedule, level: Level) -> tuple[float, float]:
        d_alpha, d_sigma = (float(d) for d in schedule.derivatives(level.t))
        return d_alpha, d_sigma

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        return 1.0, float(there.t - here.t)


class Axis(ABC):
    """A coordinate along the noise axis, in which predictions are interpolated or stages placed."""

    @abstractmethod
    def of(self, level: Level) -> float:
        """The coordinate of a level."""

    @abstractmethod
    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        """The coordinates at half log-SNRs."""

    @abstractmethod
    def level(self, schedule: Schedule, value: float) -> Level:
        """The level at a coordinate."""


class Lam(Axis):
    """Half log-SNR."""

    def of(self, level: Level) -> float:
        return float(level.lam)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        return lam

    def level(self, schedule: Schedule, value: float) -> Level:
        return schedule.at(torch.tensor(value, dtype=torch.float64))


class Rho(Axis):
    """rho = sigma / alpha."""

    def of(self, level: Level) -> float:
        return float(level.rho)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        return (-lam).exp()

    def level(self, schedule: Schedule, value: float) -> Level:
        check_positive("rho", value)
        return schedule.at(torch.tensor(-math.log(value), dtype=torch.float64))


@dataclass(eq=False)
class Time(Axis):
    """The schedule's t^(1/rho).

    Args:
        rho: The power; 2 is DPM-Solver's `time_quadratic`.
    """

    rho: float = 1.0

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)

    def of(self, level: Level) -> float:
        return math.pow(float(level.t), 1 / self.rho)

    def along(self, schedule: Schedule, lam: Tensor) -> Tensor:
        return schedule.time_of(lam) ** (1 / self.rho)

    def level(self, schedule: Schedule, value: float) -> Level:
        return schedule.level(torch.tensor(value**self.rho, dtype=torch.float64))


def interpolation(
    schedule: Schedule, space: Space, axis: Axis, nodes: Sequence[Level], here: Level, there: Level
) -> list[float]:
    """Weights of the predictions at `nodes` that integrate their polynomial in `axis` exactly over the step.

    w_j = int l_j e^(rate lam) d lam / int e^(rate lam) d lam from `here` to `there`, by Gauss-Legendre quadrature.
    It serves tAB, rhoAB, DPM-Solver, DPM-Solver++, LMS and UniPC of any order.

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
    # Relative to the maximum, to avoid overflow.
    masses = masses * (exponent * points - max(0.0, exponent)).exp()
    return points, (masses / masses.sum()).tolist()


@functools.cache
def _quadrature(count: int = 32) -> tuple[Tensor, Tensor]:
    """Points and masses of Gauss-Legendre quadrature on [0, 1] (Golub and Welsch)."""
    n = torch.arange(1, count, dtype=torch.float64)
    points, vectors = torch.linalg.eigh(torch.diag(n / (4 * n.square() - 1).sqrt(), 1).T.contiguous(), UPLO="L")
    return (points + 1) / 2, vectors[0].square()


def linear(coefficients: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_j c_j tensor_j, in one new tensor."""
    out = tensors[0] * coefficients[0]
    for c, tensor in zip(coefficients[1:], tensors[1:], strict=True):
        out.add_(tensor, alpha=c)
    return out

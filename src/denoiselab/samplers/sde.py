"""Samplers of the reverse SDE: Euler-Maruyama, reverse diffusion and ER-SDE-Solver."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step, jump
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.spacing import Spacing, UniformTime, VPTime
from denoiselab.samplers.transfer import X0, Space, gap, kernel, linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import posterior_variances


class Diffusion(ABC):
    """The squared diffusion w(t) of a reverse SDE. The marginals are the same for any w >= 0; w = 0 is the ODE.

    Source: Ma et al., SiT, arXiv 2401.08740, section 2.4 and table 2; Albergo et al., arXiv 2303.08797.
    """

    @abstractmethod
    def __call__(self, schedule: Schedule, level: Level) -> float:
        """The value of w at a level."""


@dataclass(eq=False)
class OwnDiffusion(Diffusion):
    """w = eta^2 g2 with the forward SDE's g2 = (sigma^2)' - 2 sigma^2 (log alpha)', infinite at pure noise.

    Args:
        eta: 1 is Anderson's reverse SDE, 0 the ODE.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta)

    def __call__(self, schedule: Schedule, level: Level) -> float:
        return self.eta**2 * float(schedule.drift_diffusion(level.t)[1])


@dataclass(eq=False)
class SigmaDiffusion(Diffusion):
    """w = scale sigma, finite everywhere: the usual choice for flow models.

    Args:
        scale: The factor.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_number("scale", self.scale)

    def __call__(self, schedule: Schedule, level: Level) -> float:
        return self.scale * float(level.sigma)


@dataclass(eq=False)
class ConstantDiffusion(Diffusion):
    """w = value.

    Args:
        value: The constant.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        check_number("value", self.value)

    def __call__(self, schedule: Schedule, level: Level) -> float:
        return self.value


@dataclass(eq=False)
class EulerMaruyama(OneStep):
    """x_s = x + (velocity + w eps / (2 sigma)) dt + sqrt(w |dt|) z, in the schedule's time.

    With `OwnDiffusion` the drift is f x - g2 score.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 6 and appendix E.

    Args:
        diffusion: The function w(t).
    """

    spacing: Spacing = field(default_factory=UniformTime)
    steps: int = 200
    diffusion: Diffusion = field(default_factory=OwnDiffusion)

    convergence_order = 1
    path_dependent = True
    stochastic = True

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        dt = float(there.t - here.t)
        w = self.diffusion(schedule, here)
        d_alpha, d_sigma = (float(d) for d in schedule.derivatives(here.t))
        # dx/dt = velocity - w score / 2 on the way to the data, where dt < 0; score = -eps / sigma.
        coefficients = (1.0, dt * d_alpha, dt * (d_sigma + w / (2 * float(here.sigma))))
        std = math.sqrt(w * abs(dt))

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            prediction = denoise(x, here)
            x = linear(coefficients, (x, prediction.x0, prediction.eps))
            return x.add_(noise.between(x, here, there), alpha=std)

        return step


@dataclass(eq=False)
class ReverseDiffusion(OneStep):
    """The reverse of the forward step x_t = a x_s + sqrt(beta) z: x_s = (2 - a) x_t + beta score + sqrt(beta) z.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, appendix E.

    Args:
        probability_flow: Whether to take the ODE's step, x_s = (2 - a) x_t + beta score / 2.
        own_last: Whether the step to clean data is the rule's as well, without noise, as in the released code;
            otherwise it ends at the predicted x0. On a variance-exploding schedule both are the same, except for the
            ODE, whose rule covers half of the way.
    """

    spacing: Spacing = field(default_factory=UniformTime)
    steps: int = 200
    probability_flow: bool = False
    own_last: bool = False

    convergence_order = 1
    path_dependent = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stochastic = not self.probability_flow

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        return self._step(here, there, noisy=self.stochastic)

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        return Planned(self._step(here, there, noisy=False), there) if self.own_last else jump(here, there)

    def _step(self, here: Level, there: Level, *, noisy: bool) -> Step:
        beta = float(posterior_variances(here, there)[1])
        drift = beta / 2 if self.probability_flow else beta
        coefficients = (2 - float(here.alpha / there.alpha), -drift / float(here.sigma))

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = linear(coefficients, (x, denoise(x, here).eps))
            return x.add_(noise.between(x, here, there), alpha=math.sqrt(beta)) if noisy else x

        return step


class NoiseScale(ABC):
    """The function phi(rho) of an extended reverse SDE; phi / rho must not fall as rho grows. phi = rho is the ODE.

    Source: Cui et al., ER-SDE-Solver, arXiv 2309.06169, appendix A.8, and its code.

    Attributes:
        noisy: Whether steps add noise.
    """

    noisy: bool = True

    @abstractmethod
    def log(self, rho: float) -> float:
        """Log phi at rho = sigma / alpha > 0."""


@dataclass(eq=False)
class PowerScale(NoiseScale):
    """phi = rho^(1 + eta), the noise of `X0(eta)`: 0 is the ODE, 1 the reverse SDE.

    Args:
        eta: Rate of noise, not negative.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        check_number("eta", self.eta)
        self.noisy = self.eta > 0

    def log(self, rho: float) -> float:
        return (1 + self.eta) * math.log(rho)


class SmoothScale(NoiseScale):
    """phi = rho (e^(rho^0.3) + 10): little noise near the data (SDE 5, the released default)."""

    def log(self, rho: float) -> float:
        u = math.pow(rho, 0.3)
        return math.log(rho) + u + math.log1p(10 * math.exp(-u))


class _Extended(X0):
    """Constant x0: keep = alpha_s phi_s / (alpha_t phi_t), gain = alpha_s (1 - phi_s / phi_t)."""

    def __init__(self, scale: NoiseScale) -> None:
        super().__init__()
        self.scale = scale

    def log_ratio(self, here: Level, there: Level) -> float:
        """log(phi_s / phi_t)."""
        return self.scale.log(float(there.rho)) - self.scale.log(float(here.rho))

    def move(self, here: Level, there: Level) -> tuple[float, float]:
        fall = self.log_ratio(here, there)
        return float(there.alpha / here.alpha) * math.exp(fall), -float(there.alpha) * math.expm1(fall)

    def std(self, here: Level, there: Level) -> float:
        if not self.scale.noisy:
            return 0.0
        fall = self.log_ratio(here, there) + gap(here, there)  # of log(phi / rho)
        return float(there.sigma) * math.sqrt(max(0.0, -math.expm1(2 * fall)))


@dataclass(eq=False)
class ERSDE(Multistep):
    """ER-SDE-Solver: x0 is extrapolated in rho along an extended reverse SDE, whose noise a function phi sets.

    y_s = (phi_s / phi_t) y_t + (1 - phi_s / phi_t) guess + sqrt(rho_s^2 - rho_t^2 (phi_s / phi_t)^2) z, y = x / alpha;
    the guess integrates the polynomial against d(1 / phi). As published, order 3 takes the first difference as x0's
    first derivative and so has order 2 with phi = rho; integrals are exact, where the released code sums 100 terms.

    Source: Cui et al., ER-SDE-Solver, arXiv 2309.06169, and its code (`vp_3_order_taylor`).

    Args:
        order: From 1 to 3.
        scale: The function phi.
    """

    spacing: Spacing = field(default_factory=VPTime)
    order: int = 3
    scale: NoiseScale = field(default_factory=SmoothScale)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("order", self.order, 1, 3)
        self.stochastic = self.scale.noisy
        self.convergence_order = 1 if self.stochastic else self.whole(min(self.order, 2))

    @property
    def space(self) -> Space:
        return _Extended(self.scale)

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        rho, h = [float(node.rho) for node in nodes], gap(nodes[0], there)
        points, even = kernel(0.0)
        places = [rho[0] * math.exp(-h * z) for z in points.tolist()]
        # d(1 / phi) = (d log phi / d log rho) / phi d lam; by parts, so that phi needs no derivative:
        # int f d(1 / phi) = f_s / phi_s - f_t / phi_t - int f' / phi d rho, and 1 / phi_s is taken out.
        last = self.scale.log(float(there.rho))
        rest = -math.expm1(last - self.scale.log(rho[0]))
        inverse = [math.exp(last - self.scale.log(place)) * place * h for place in places]  # over d lam, from s to t
        s = float(there.rho) - rho[0]
        first = (s + sum(k * v for k, v in zip(even, inverse, strict=True))) / rest
        if len(nodes) == 1:
            return [1.0]
        slope = first / (rho[0] - rho[1])
        if len(nodes) == 2:
            return [1 + slope, -slope]
        moment = sum(k * v * (place - rho[0]) for k, v, place in zip(even, inverse, places, strict=True))
        bend = 2 * (s * s / 2 + moment) / rest / (rho[0] - rho[2])
        newer, older = slope + bend / (rho[0] - rho[1]), -bend / (rho[1] - rho[2])
        return [1 + newer, older - newer, -older]

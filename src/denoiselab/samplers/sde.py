"""Samplers of the reverse SDE: Euler-Maruyama and reverse diffusion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step, jump
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.spacing import Spacing, UniformTime
from denoiselab.samplers.transfer import linear
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

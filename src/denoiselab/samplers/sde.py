"""Samplers of the reverse SDE: Euler-Maruyama and reverse diffusion."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Step, check_number, jump
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import posterior_variances


class Diffusion(ABC):
    """The squared diffusion w(t) of a reverse SDE: any w >= 0 has the same marginals, and 0 is the ODE.

    Source: Ma et al., SiT, arXiv 2401.08740, section 2.4 and table 2; Albergo et al., arXiv 2303.08797.
    """

    @abstractmethod
    def __call__(self, schedule: Schedule, level: Level) -> float:
        """W at a level."""


class OwnDiffusion(Diffusion):
    """The forward SDE's own g2 = (sigma^2)' - 2 sigma^2 (log alpha)': infinite at pure noise.

    Args:
        eta: Factor on its square root; 1 is Anderson's reverse SDE, 0 the ODE.
    """

    def __init__(self, eta: float = 1.0) -> None:
        check_number("eta", eta)
        self.eta = eta

    def __call__(self, schedule: Schedule, level: Level) -> float:
        """eta^2 g2."""
        return self.eta**2 * float(schedule.drift_diffusion(level.t)[1])


class SigmaDiffusion(Diffusion):
    """w = scale sigma, finite everywhere: the usual choice for flow models.

    Args:
        scale: The factor.
    """

    def __init__(self, scale: float = 1.0) -> None:
        check_number("scale", scale)
        self.scale = scale

    def __call__(self, schedule: Schedule, level: Level) -> float:
        """Scale times sigma."""
        return self.scale * float(level.sigma)


class ConstantDiffusion(Diffusion):
    """w constant.

    Args:
        value: Its value.
    """

    def __init__(self, value: float = 1.0) -> None:
        check_number("value", value)
        self.value = value

    def __call__(self, schedule: Schedule, level: Level) -> float:
        """The value."""
        return self.value


class EulerMaruyama(OneStep):
    """x_s = x + (velocity + w eps / (2 sigma)) dt + sqrt(w |dt|) z, in the schedule's time.

    Weak order 1. With `OwnDiffusion` the drift is f x - g2 score.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 6 and appendix E.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        diffusion: w(t); None for the forward SDE's own.
        threshold: Mends each predicted x0.
    """

    order = 1
    stochastic = True

    def __init__(
        self, spacing: Spacing, steps: int, diffusion: Diffusion | None = None, threshold: Threshold | None = None
    ) -> None:
        super().__init__(spacing, steps, threshold)
        self.diffusion = diffusion or OwnDiffusion()

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One step."""
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


class ReverseDiffusion(OneStep):
    """The reverse of the forward step x_t = a x_s + sqrt(beta) z: x_s = (2 - a) x_t + beta score + sqrt(beta) z.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, appendix E.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        probability_flow: The ODE's step, x_s = (2 - a) x_t + beta score / 2.
        own_last: The step to clean data is the rule's as well, without noise, as in the released code; else it lands
            on the predicted x0. On a variance-exploding schedule the two are one, but for the ODE, which stops half
            way.
        threshold: Mends each predicted x0.
    """

    order = 1

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        probability_flow: bool = False,
        own_last: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold)
        self.probability_flow, self.own_last = probability_flow, own_last
        self.stochastic = not probability_flow

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One step."""
        return self._step(here, there, noisy=self.stochastic)

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        """The rule's step without noise, or the transfer."""
        return Planned(self._step(here, there, noisy=False), there) if self.own_last else jump(here, there)

    def _step(self, here: Level, there: Level, *, noisy: bool) -> Step:
        beta = float(posterior_variances(here, there)[1])
        drift = beta / 2 if self.probability_flow else beta
        coefficients = (2 - float(here.alpha / there.alpha), -drift / float(here.sigma))

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = linear(coefficients, (x, denoise(x, here).eps))
            return x.add_(noise.between(x, here, there), alpha=math.sqrt(beta)) if noisy else x

        return step

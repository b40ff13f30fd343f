"""Samplers of the reverse SDE: Euler-Maruyama, reverse diffusion, and predictor-corrector."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Sampler, Step, check_number
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import linear
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like
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
        threshold: Mends each predicted x0.
    """

    order = 1
    stochastic = True

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One step."""
        beta = float(posterior_variances(here, there)[1])
        coefficients = (2 - float(here.alpha / there.alpha), -beta / float(here.sigma))

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            x = linear(coefficients, (x, denoise(x, here).eps))
            return x.add_(noise.between(x, here, there), alpha=math.sqrt(beta))

        return step


class PredictorCorrector(OneStep):
    """Langevin steps at each level, then a step of a predictor.

    x += 2 r s + ... : step size d = 2 a (snr |z| / |score|)^2, x += d score + sqrt(2 d) z, with a the forward step's
    squared shrinkage of the signal. Norms are each sample's own, not the batch's mean as in the released code, so a
    sample does not depend on its neighbours. The ratio settles with the number of dimensions, and what bias is left is
    of order snr^2. In few dimensions the step depends on x, and the bias is large: on three modes in the plane, of
    deviations 0.90 and 0.78, 500 steps along the linear VP schedule (4,000 samples, seed 0, reverse diffusion as the
    predictor) give 2.49 and 1.24 at snr = 0.16, at 0.01 0.92 and 0.80.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, algorithms 4 and 5.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        predictor: A single-step sampler.
        corrector_steps: Langevin steps a level.
        snr: Their signal-to-noise ratio.

    Raises:
        ValueError: The predictor is multistep, or an option out of range.
    """

    stochastic = True

    def __init__(
        self, spacing: Spacing, steps: int, predictor: Sampler, corrector_steps: int = 1, snr: float = 0.16
    ) -> None:
        super().__init__(spacing, steps, predictor.threshold)
        if not isinstance(predictor, OneStep):
            raise ValueError(f"predictor={type(predictor).__name__}: it must be a single-step sampler.")
        check_number("corrector_steps", corrector_steps)
        check_number("snr", snr)
        self.predictor, self.corrector_steps, self.snr = predictor, corrector_steps, snr
        self.order = 1
        self.calls_per_step = corrector_steps + predictor.calls_per_step

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The corrections, and the prediction."""
        predict: Step = self.predictor.between(schedule, here, there)
        sigma = float(here.sigma)
        shrink = float(here.alpha / there.alpha) ** 2

        def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            for _ in range(self.corrector_steps):
                score = denoise(x, here).eps / -sigma
                z = noise.like(x)
                ratio = z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp_min(1e-12)
                size = like(2 * shrink * (self.snr * ratio).square(), x)
                x = x + size * score + torch.sqrt(2 * size) * z
            return predict(denoise, x, memory, noise)

        return step

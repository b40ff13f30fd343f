"""DDIM: the transfer that every deterministic sampler improves on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Step, check_number
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import Eps, linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import posterior_variances


class DDIM(OneStep):
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, with v = eta^2 times the posterior variance.

    eta = 0 is deterministic and first order; eta = 1 is DDPM's fixed-small ancestral step. Where the prediction has a
    noise of its own to add back (`Prediction.renoise`), it takes the place of eps_hat.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 and 16.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        eta: From 0 to 1.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: `eta` is outside [0, 1].
    """

    order = 1
    renoises = True

    def __init__(self, spacing: Spacing, steps: int, eta: float = 0.0, threshold: Threshold | None = None) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("eta", eta, 0, 1)
        self.eta, self.stochastic = eta, eta > 0

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One transfer."""
        if self.eta == 0:
            return transfer(here, there)
        variance = eta_variance(here, there, self.eta)
        return noisy_transfer(here, there, variance, math.sqrt(variance))


def eta_variance(here: Level, there: Level, eta: float) -> float:
    """eta^2 times the posterior variance: the variance of the step that keeps the marginals."""
    return eta**2 * float(posterior_variances(here, there)[0])


def transfer(here: Level, there: Level) -> Step:
    """x_s = alpha_s x0_hat + sigma_s eps_hat, by x and eps_hat alone where they are of one x."""
    coefficients, ends = Eps().move(here, there), (float(there.alpha), float(there.sigma))

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, here)
        if prediction.renoise is None:
            return linear(coefficients, (x, prediction.eps))
        return linear(ends, (prediction.x0, prediction.renoise))

    return step


def noisy_transfer(here: Level, there: Level, variance: float, std: float) -> Step:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - variance) eps_hat + std z."""
    coefficients = (float(there.alpha), math.sqrt(max(0.0, float(there.sigma) ** 2 - variance)))

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, here)
        x = linear(coefficients, (prediction.x0, prediction.added))
        return x.add_(noise.between(x, here, there), alpha=std)

    return step


def slerp(a: Tensor, b: Tensor, fraction: float | Tensor) -> Tensor:
    """Points `(B, *)` on the great arcs from `a` to `b` `(B, *)`, at a fraction, or one each `(B,)`, of the way.

    They are x_T's between two others, and of their length.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, appendix D.5 (Shoemake, 1985).
    """
    u, v = a.flatten(1).double(), b.flatten(1).double()
    cosine = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()[:, None]
    fraction = torch.as_tensor(fraction, dtype=u.dtype, device=u.device).reshape(-1, 1)
    flat = angle.sin() < 1e-9
    near = torch.where(flat, 1 - fraction, ((1 - fraction) * angle).sin() / angle.sin())
    far = torch.where(flat, fraction, (fraction * angle).sin() / angle.sin())
    return (near * u + far * v).reshape(a.shape).to(a)

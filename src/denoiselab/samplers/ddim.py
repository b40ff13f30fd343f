"""DDIM: one transfer of the prediction a step, to which other deterministic samplers add further terms."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.spacing import Spacing, VPTime
from denoiselab.samplers.transfer import Eps, linear
from denoiselab.schedules import Level, Schedule
from denoiselab.variances import posterior_variances


@dataclass(eq=False)
class DDIM(OneStep):
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, with v = eta^2 times the posterior variance.

    eta = 0 is deterministic and of order 1; eta = 1 is DDPM's fixed-small ancestral step. If the prediction has a
    separate noise to add back (`Prediction.renoise`), it replaces eps_hat.

    Source: Song et al., Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12 and 16.

    Args:
        eta: Amount of noise, from 0 to 1.
    """

    spacing: Spacing = field(default_factory=VPTime)
    steps: int = 50
    eta: float = 0.0

    convergence_order = 1
    renoises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0, 1)
        self.stochastic = self.eta > 0

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        if self.eta == 0:
            return transfer(here, there)
        variance = eta_variance(here, there, self.eta)
        return noisy_transfer(here, there, variance, math.sqrt(variance))


def eta_variance(here: Level, there: Level, eta: float) -> float:
    """eta^2 times the posterior variance: the variance of a step that preserves the marginals."""
    return eta**2 * float(posterior_variances(here, there)[0])


def transfer(here: Level, there: Level) -> Step:
    """x_s = alpha_s x0_hat + sigma_s eps_hat, computed from x and eps_hat if the noise to add back is eps_hat."""
    coefficients, ends = Eps().move(here, there), (float(there.alpha), float(there.sigma))
    asked = here.towards(there)

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, asked)
        if prediction.renoise is None:
            return linear(coefficients, (x, prediction.eps))
        return linear(ends, (prediction.x0, prediction.renoise))

    return step


def noisy_transfer(here: Level, there: Level, variance: float, std: float) -> Step:
    """x_s = alpha_s x0_hat + sqrt(sigma_s^2 - variance) eps_hat + std z."""
    coefficients = (float(there.alpha), math.sqrt(max(0.0, float(there.sigma) ** 2 - variance)))
    asked = here.towards(Level(there.t, there.alpha, torch.full_like(there.sigma, coefficients[1])))

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, asked)
        x = linear(coefficients, (prediction.x0, prediction.added))
        return x.add_(noise.between(x, here, there), alpha=std)

    return step


def slerp(a: Tensor, b: Tensor, fraction: float | Tensor) -> Tensor:
    """Points `(B, *)` on the great arcs from `a` to `b` `(B, *)`: x_T between two others, of their length.

    Args:
        a: Start `(B, *)`.
        b: End `(B, *)`.
        fraction: Share of the way, a number or `(B,)`.

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

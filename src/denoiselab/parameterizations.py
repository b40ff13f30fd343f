"""What a network's output means, as two numbers: out = a x0 + b eps.

With x_t = alpha x0 + sigma eps this is a 2x2 system; `det = alpha b - sigma a` says how well it is conditioned.
A parameterization is a function of the level alone, so all conversions are one solve.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like

Coefficients = tuple[Tensor, Tensor]


class Parameterization(Protocol):
    """What a network's output means at a noise level; a function of the level alone."""

    def __call__(self, level: Level, /) -> Coefficients:
        """The coefficients (a, b) of out = a x0 + b eps, two float64 tensors shaped like the level, `()` or `(B,)`."""
        ...


def eps(level: Level) -> Coefficients:
    """The network predicts the noise (Ho et al., DDPM, arXiv 2006.11239, eq. 11); singular at alpha = 0."""
    return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


def x0(level: Level) -> Coefficients:
    """The network predicts the clean image; singular at sigma = 0."""
    return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


def v(level: Level) -> Coefficients:
    """The network predicts v = alpha eps - sigma x0 (Salimans and Ho, arXiv 2202.00512, section 4); never singular."""
    return -level.sigma, level.alpha


def score(level: Level) -> Coefficients:
    """The network predicts the score, -eps / sigma (Hyvärinen 2005); singular at alpha = 0 and at sigma = 0."""
    return torch.zeros_like(level.alpha), -1 / level.sigma


def ncsn(level: Level) -> Coefficients:
    """The score is the output divided by sigma, so the network predicts -eps.

    Source: Song and Ermon, Improved Techniques for Training Score-Based Generative Models, arXiv 2006.09011,
    technique 3. It is also EDM's VE preconditioning, D(x) = x + sigma F(x) (arXiv 2206.00364, table 1).
    Singular at alpha = 0.
    """
    return torch.zeros_like(level.alpha), -torch.ones_like(level.alpha)


def edm(level: Level, sigma_data: float = 0.5) -> Coefficients:
    """The network predicts EDM's F = (x0 - c_skip x) / c_out, of unit variance at every level; never singular.

    For x = alpha x0 + sigma eps, c_skip and c_out act on x / alpha, so with n = alpha^2 sigma_data^2 + sigma^2 the
    target is (sigma x0 - alpha sigma_data^2 eps) / (sigma_data sqrt(n)).

    Source: Karras et al., EDM, arXiv 2206.00364, eq. 7 and table 1.

    Args:
        level: Where.
        sigma_data: Standard deviation of the data.
    """
    scale = sigma_data * torch.hypot(level.alpha * sigma_data, level.sigma)
    return level.sigma / scale, -level.alpha * sigma_data**2 / scale


def velocity(level: Level) -> Coefficients:
    """The network predicts dx/dt = alpha' x0 + sigma' eps along the level's own schedule.

    Source: Lipman et al., Flow Matching, arXiv 2210.02747, eq. 23; Albergo et al., arXiv 2303.08797, section 2.
    Singular only where the log-SNR is stationary.
    """
    return home(level).derivatives(level.t)


def previous_mean(level: Level, steps: int | None = None) -> Coefficients:
    """The network predicts the mean of q(x_s | x_t, x0), s one step nearer the data: DDPM's ablation of mu.

    Its determinant shrinks with the size of a step, so float32 outputs lose that many digits.

    Source: Ho et al., DDPM, arXiv 2006.11239, eq. 7 and table 2.

    Args:
        level: Where.
        steps: Length of the chain; None for a discrete schedule's own.
    """
    there = home(level).previous(level, steps)
    keep, gain = posterior_mean(level, there)
    return keep * level.alpha + gain, keep * level.sigma


def posterior_mean(here: Level, there: Level) -> tuple[Tensor, Tensor]:
    """(keep, gain) of the mean keep x_here + gain x0 of q(x_there | x_here, x0), shaped like the levels.

    keep = (alpha_t / alpha_s) (sigma_s / sigma_t)^2, gain = alpha_s (1 - (snr_t / snr_s)); at a clean `there`: (0, 1).
    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 25-29.
    """
    ratio = there.sigma / here.sigma
    keep = here.alpha / there.alpha * ratio.square()
    return keep, -there.alpha * torch.expm1(2 * (here.lam - there.lam))


def determinant(level: Level, coefficients: Coefficients) -> Tensor:
    """The determinant of (x0, eps) -> (x_t, out): alpha b - sigma a, shaped like the level."""
    a, b = coefficients
    return level.alpha * b - level.sigma * a


def solve(x: Tensor, out: Tensor, level: Level, coefficients: Coefficients) -> tuple[Tensor, Tensor]:
    """(x0, eps) from x and out, all `(B, *)`: Cramer's rule on alpha x0 + sigma eps = x, a x0 + b eps = out."""
    a, b = coefficients
    det = determinant(level, coefficients)
    x0 = like(b / det, x) * x - like(level.sigma / det, x) * out
    eps = like(level.alpha / det, x) * out - like(a / det, x) * x
    return x0, eps


def home(level: Level) -> Schedule:
    """The schedule that made a level.

    Raises:
        ValueError: If no schedule made it.
    """
    if level.path is None:
        raise ValueError("level: it was made by no schedule, so it has no neighbours and no derivative.")
    return level.path

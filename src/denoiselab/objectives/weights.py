"""Loss weights, written once in x0-space: the weight of |x0_hat - x0|^2 at a level, shaped like the level.

The objective converts them to the space of the network's output, where the published forms reappear: there
|out_hat - out|^2 = (det / sigma)^2 |x0_hat - x0|^2.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.parameterizations import Parameterization, determinant, velocity
from denoiselab.schedules import Level


class Weighting(Protocol):
    """The weight of |x0_hat - x0|^2 at a noise level."""

    def __call__(self, level: Level, /) -> Tensor:
        """Weights of at least 0, a float64 tensor shaped like the level, `(B,)`."""
        ...


def uniform(level: Level) -> Tensor:
    """|x0_hat - x0|^2 itself."""
    return torch.ones_like(level.sigma)


def snr(level: Level) -> Tensor:
    """|eps_hat - eps|^2, the L_simple of Ho et al. (DDPM, arXiv 2006.11239, eq. 14)."""
    return level.snr


def unit(level: Level, space: Parameterization) -> Tensor:
    """|out_hat - out|^2 in a `space`: `v` (arXiv 2202.00512), flow matching's `velocity`, EDM's `edm`."""
    return (determinant(level, space(level)) / level.sigma).square()


def truncated_snr(level: Level, minimum: float = 1.0) -> Tensor:
    """max(snr, minimum): Salimans and Ho, Progressive Distillation, arXiv 2202.00512, section 4.

    Args:
        level: The noise level.
        minimum: Least weight.
    """
    return level.snr.clamp_min(minimum)


def min_snr(level: Level, gamma: float = 5.0) -> Tensor:
    """min(snr, gamma): Hang et al., Min-SNR, arXiv 2303.09556, eq. 6; the same loss for eps, x0 and v.

    Args:
        level: The noise level.
        gamma: Largest weight.
    """
    return level.snr.clamp_max(gamma)


def soft_min_snr(level: Level, gamma: float = 4.0) -> Tensor:
    """Snr gamma / (snr + gamma): Crowson et al., Hourglass Diffusion Transformers, arXiv 2401.11605, section 4.5.

    Args:
        level: The noise level.
        gamma: Weight that is approached at high SNR.
    """
    return gamma * torch.sigmoid(2 * level.lam - torch.tensor(gamma, dtype=level.lam.dtype).log())


def edm(level: Level, sigma_data: float = 0.5) -> Tensor:
    """(rho^2 + sigma_data^2) / (rho sigma_data)^2: Karras et al., EDM, arXiv 2206.00364, table 1.

    Args:
        level: The noise level.
        sigma_data: Standard deviation of the data.
    """
    return level.snr + sigma_data**-2


def likelihood(level: Level) -> Tensor:
    """g^2 |score_hat - score|^2 / 2, a bound on the negative log-likelihood in nats per unit of uniform t.

    Source: Song et al., Maximum Likelihood Training, arXiv 2101.09258, eq. 7; it is also the continuous-time
    diffusion loss of Kingma et al., arXiv 2107.00630, eq. 17.
    """
    # snr g2 / (2 sigma^2), written so that it is finite, 0, at pure noise, where the drift is not.
    return level.alpha * determinant(level, velocity(level)) / level.sigma**3


def sigmoid(level: Level, bias: float = 2.0) -> Tensor:
    """The `likelihood` weight times the logistic function of bias - log snr: VDM++'s, for t uniform.

    Source: Kingma and Gao, arXiv 2303.00848, section 5; Hoogeboom et al., Simpler Diffusion, arXiv 2410.19324.

    Args:
        level: The noise level.
        bias: log-SNR at which the weight is one half.
    """
    return likelihood(level) * torch.sigmoid(bias - 2 * level.lam)


def p2(level: Level, gamma: float = 1.0, k: float = 1.0) -> Tensor:
    """Snr / (k + snr)^gamma: Choi et al., Perception Prioritized Training, arXiv 2204.00227, eq. 8.

    Args:
        level: The noise level.
        gamma: Strength; 0 is L_simple.
        k: Offset of the SNR.
    """
    return level.snr / (k + level.snr) ** gamma


def annealed(level: Level, power: float = 2.0) -> Tensor:
    """sigma^power |score_hat - score|^2 / 2: NCSN's loss (Song and Ermon, arXiv 1907.05600, eq. 6) at power 2.

    Args:
        level: The noise level.
        power: Of sigma.
    """
    return level.sigma ** (power - 2) * level.snr / 2

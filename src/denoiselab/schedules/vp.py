"""Variance-preserving schedules: alpha^2 + sigma^2 = 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.schedules.base import Schedule


class VPLinear(Schedule):
    """The continuous-time limit of DDPM's linear betas: beta(t) = beta_min + t (beta_max - beta_min).

    alpha(t)^2 = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2)), sigma^2 = 1 - alpha^2.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 32-33.

    Args:
        beta_min: Noise rate at t = 0, per unit time.
        beta_max: Noise rate at t = 1, per unit time.
        t_min: Where training and sampling stop short of the clean image; 1e-3 is the source's.

    Raises:
        ValueError: Unless 0 < beta_min < beta_max and 0 < t_min < 1.
    """

    t_max = 1.0

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> None:
        super().__init__()
        if not 0 < beta_min < beta_max:
            raise ValueError(f"beta_min={beta_min} and beta_max={beta_max}: they must satisfy 0 < beta_min < beta_max.")
        if not 0 < t_min < 1:
            raise ValueError(f"t_min={t_min}: it must lie between 0 and 1, both excluded.")
        self.beta_min, self.beta_max, self.t_min = beta_min, beta_max, t_min

    def _minus_log_alpha_squared(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t`."""
        return torch.exp(-self._minus_log_alpha_squared(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t`; expm1 keeps full relative accuracy near t = 0."""
        return torch.sqrt(-torch.expm1(-self._minus_log_alpha_squared(t)))

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam`: the positive root of a quadratic, in its stable form."""
        c = F.softplus(-2 * lam)
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c)
        return 2 * c / (self.beta_min + root)

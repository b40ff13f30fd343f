"""A log-SNR that is learned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.schedules.log_snr import LogSNR


class LearnedLogSNR(LogSNR):
    """The log-SNR is a monotone network between two ends, which are learned as well.

    log snr(t) = high - (high - low) (g(t) - g(0)) / (g(1) - g(0)), g(t) = l1(t) + l3(sigmoid(l2(l1(t)))), the linear
    layers' weights kept positive.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, appendix H; gamma there is minus log snr.

    Args:
        log_snr_max: log-SNR at t = 0 before training; VDM's 13.3.
        log_snr_min: log-SNR at t = 1 before training; VDM's -5.
        width: Hidden units of the network.
        learn_ends: Whether to train the ends, which needs a variational objective.

    Raises:
        ValueError: Unless log_snr_min < log_snr_max and width >= 1.
    """

    t_min, t_max = 0.0, 1.0

    def __init__(
        self,
        log_snr_max: float = 13.3,
        log_snr_min: float = -5.0,
        width: int = 1024,
        learn_ends: bool = True,
    ) -> None:
        super().__init__()
        if not -math.inf < log_snr_min < log_snr_max < math.inf:
            raise ValueError(
                f"log_snr_min={log_snr_min} and log_snr_max={log_snr_max}: they must be finite and satisfy "
                "log_snr_min < log_snr_max."
            )
        if width < 1:
            raise ValueError(f"width={width}: it must be at least 1.")
        # Weights are softplus of these, so that they stay positive. It starts near a straight line.
        self.first = nn.Parameter(torch.zeros(2))
        self.second = nn.Parameter(torch.stack((torch.zeros(width), 4 * torch.randn(width))))
        self.third = nn.Parameter(torch.full((width,), -2.0 - math.log(width)))
        ends = torch.tensor([log_snr_max, log_snr_min])
        if learn_ends:
            self.ends = nn.Parameter(ends)
        else:
            self.register_buffer("ends", ends)

    def lam(self, t: Tensor) -> Tensor:
        here = t.to(self.first.device, torch.float64)
        low, high = self._rise(torch.zeros_like(here)), self._rise(torch.ones_like(here))
        fraction = (self._rise(here) - low) / (high - low)
        top, bottom = self.ends.double().unbind()
        return ((top + fraction * (bottom - top)) / 2).to(t)

    def _rise(self, t: Tensor) -> Tensor:
        weight, bias = self.first.double().unbind()
        line = F.softplus(weight) * t + bias
        weights, biases = self.second.double().unbind()
        hidden = torch.sigmoid(F.softplus(weights) * line[..., None] + biases)
        return line + hidden @ F.softplus(self.third.double())

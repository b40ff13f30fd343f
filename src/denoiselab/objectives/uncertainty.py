"""A learned weight of each noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from denoiselab.schedules import Level


class Uncertainty(nn.Module):
    """u(level), a learned log-variance of the loss, which becomes loss / exp(u) + u; 0 before training.

    One linear layer on random Fourier features of log(sigma / alpha) / 4.

    Source: Karras et al., EDM2, arXiv 2312.02696, eq. 14-15 and appendix B.2; Kendall et al., arXiv 1705.07115.

    Args:
        channels: Number of features.

    Raises:
        ValueError: If `channels` < 1.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int = 128) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels={channels}: it must be at least 1.")
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))
        self.linear = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, level: Level) -> Tensor:
        """U `(B,)` float32 at levels `(B,)`."""
        label = (-level.lam.clamp(-100, 100) / 4).to(self.frequencies)  # finite at pure noise
        features = math.sqrt(2) * torch.cos(label[:, None] * self.frequencies + self.phases)
        u: Tensor = self.linear(features)[:, 0]
        return u.float()

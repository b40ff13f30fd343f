"""Time labels as features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a label at geometric frequencies, the Transformer's position embedding.

    The frequencies are 10000^(-i / (half - shift)) for i < half = features // 2; an odd number of features ends in a
    zero.

    Source: Ho et al., DDPM, arXiv 2006.11239, appendix B: shift 1. ADM (Dhariwal and Nichol, arXiv 2105.05233) and
    diffusers' default have shift 0 and the cosines first.

    Args:
        features: Number of outputs, at least 4.
        shift: 1, so that the last frequency is 1e-4, or 0.
        cosine_first: Cosines, then sines.

    Raises:
        ValueError: If a value is out of range.
    """

    like: Tensor

    def __init__(self, features: int, shift: int = 1, cosine_first: bool = False) -> None:
        super().__init__()
        if features < 4:
            raise ValueError(f"features={features}: an embedding takes at least 4.")
        if shift not in (0, 1):
            raise ValueError(f"shift={shift}: it must be 0 or 1.")
        self.features, self.shift, self.cosine_first = features, shift, cosine_first
        self.register_buffer("like", torch.empty(0), persistent=False)  # of the network's dtype

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels `(B,)` as `(B, features)` in the module's dtype, computed in float32."""
        half = self.features // 2
        # The sources' order of operations: at labels near 1000 rounding of a frequency is visible in the output.
        exponents = -math.log(10000) * torch.arange(half, device=label.device, dtype=torch.float32)
        frequencies = torch.exp(exponents / (half - self.shift))
        angles = label[:, None].float() * frequencies
        parts = [angles.cos(), angles.sin()] if self.cosine_first else [angles.sin(), angles.cos()]
        if self.features % 2:
            parts.append(torch.zeros_like(angles[:, :1]))
        return torch.cat(parts, dim=1).to(self.like.dtype)


def time_embedding(frequencies: int, features: int, shift: int = 0, cosine_first: bool = True) -> nn.Sequential:
    """Sinusoidal features of a label, `frequencies` of them, and two linear layers: `(B,)` to `(B, features)`."""
    return nn.Sequential(
        SinusoidalEmbedding(frequencies, shift, cosine_first),
        nn.Linear(frequencies, features),
        nn.SiLU(),
        nn.Linear(features, features),
    )


def second_embedding(frequencies: int, features: int) -> nn.Sequential:
    """The embedding of a step's time, as `time_embedding`, which is zero before training.

    A network with it starts as the same network without a second time.
    """
    out = time_embedding(frequencies, features)
    for parameter in out[-1].parameters():
        nn.init.zeros_(parameter)
    return out


class FourierEmbedding(nn.Module):
    """Sines and cosines of a label at random frequencies, which are drawn once and not trained.

    Source: Tancik et al., Fourier Features, arXiv 2006.10739; Song et al., arXiv 2011.13456, appendix H.

    Args:
        frequencies: Their number; there are twice as many features, the sines first.
        scale: Standard deviation of the frequencies, in turns per unit of the label.
    """

    frequencies: Tensor

    def __init__(self, frequencies: int, scale: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(frequencies))

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels `(B,)` as `(B, 2 frequencies)` in the module's dtype, computed in float32."""
        angles = label[:, None].float() * self.frequencies.float() * (2 * math.pi)
        return torch.cat((angles.sin(), angles.cos()), dim=1).to(self.frequencies.dtype)

"""Layers that the networks share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_init(module: nn.Module) -> nn.Module:
    """The module with all parameters set to zero, so that a residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class SinusoidalEmbedding(nn.Module):
    """Sines and cosines of a label at geometric frequencies from 1 to 1e-4, with DDPM's divisor (half - 1).

    Source: Ho et al., DDPM, arXiv 2006.11239, appendix B (the Transformer's position embedding).

    Args:
        features: Number of outputs, even and at least 4.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, label: Tensor) -> Tensor:
        """Embed labels `(B,)` as `(B, features)`."""
        half = self.features // 2
        frequencies = torch.exp(torch.arange(half, device=label.device) * (-math.log(10000) / (half - 1)))
        angles = label[:, None].float() * frequencies
        return torch.cat((angles.sin(), angles.cos()), dim=1).to(label.dtype)


class ResidualBlock(nn.Module):
    """Norm, swish, conv; add the embedding; norm, swish, dropout, conv; add the input.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        embedding: Features of the time embedding.
        dropout: Probability.
        groups: Of the group norms.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding: int, dropout: float, groups: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, channels_in)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.embedding = nn.Linear(embedding, channels_out)
        self.norm_out = nn.GroupNorm(groups, channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `x` `(B, channels_in, H, W)` and the activated embedding `(B, E)` to `(B, channels_out, H, W)`."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = h + self.embedding(embedding)[:, :, None, None]
        h = self.conv_out(self.dropout(F.silu(self.norm_out(h))))
        out: Tensor = self.skip(x) + h
        return out


class SelfAttention(nn.Module):
    """Self-attention over positions, one head, with a residual.

    Args:
        channels: Of input and output.
        groups: Of the group norm.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]  # (B, HW, C)
        out: Tensor = x + self.out(h).transpose(1, 2).reshape(x.shape)
        return out


class Downsample(nn.Module):
    """Halve the resolution by a strided 3x3 convolution.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H/2, W/2)`."""
        out: Tensor = self.conv(x)
        return out


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours and a 3x3 convolution.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, 2H, 2W)`."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out

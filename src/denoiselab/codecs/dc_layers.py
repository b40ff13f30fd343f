"""Layers of deep-compression autoencoders.

Source: Chen et al., arXiv 2410.10733, section 3; Cai et al., EfficientViT, arXiv 2205.14756, section 3 (attention).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.resampling import UpConv2d

# Added to the mean square in norms, and to the sum of weights in attention.
_EPS, _EPS_WEIGHTS = 1e-5, 1e-15

# Hidden channels of a feed-forward part, as a multiple.
_EXPANSION = 4


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each position, `(B, C, H, W)`, with weight and bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        h = x * torch.rsqrt(x.square().mean(1, keepdim=True) + _EPS)
        return h * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class FrozenBatchNorm(nn.Module):
    """Batch norm by statistics that are stored and never updated, `(B, C, H, W)`."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=_EPS)


class PlainBlock(nn.Module):
    """Conv, activation, conv, norm; add the input.

    Args:
        batch_norm: Frozen batch norm and ReLU; else RMS norm and SiLU.
    """

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm: nn.Module = FrozenBatchNorm(channels) if batch_norm else ChannelNorm(channels)
        self.activation: nn.Module = nn.ReLU() if batch_norm else nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.norm(self.second(self.activation(self.first(x))))
        return out


class LinearViTBlock(nn.Sequential):
    """Linear attention and a gated feed-forward part with a depthwise convolution, `(B, C, H, W)` to the same.

    Args:
        features: Of a head; they divide `channels`.
        kernels: As in `AutoencoderDC`.
    """

    def __init__(self, channels: int, features: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.attention = _Attention(channels, features, kernels)
        self.mix = _GatedMix(channels)


class _Attention(nn.Module):
    """ReLU linear attention; further heads attend by convolved queries, keys and values."""

    def __init__(self, channels: int, features: int, kernels: Sequence[int]) -> None:
        super().__init__()
        self.features, width = features, 3 * channels
        self.qkv = nn.Linear(channels, width, bias=False)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False),
                nn.Conv2d(width, width, 1, groups=width // features, bias=False),
            )
            for size in kernels
        )
        self.out = nn.Linear(channels * (1 + len(kernels)), channels, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.movedim(1, -1)).movedim(-1, 1)
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], dim=1)
        # A head's queries, keys and values follow each other; positions are last: (B, heads, 3 features, H W).
        q, k, v = qkv.reshape(len(x), -1, 3 * self.features, x.shape[2] * x.shape[3]).chunk(3, dim=2)
        q, k = q.relu(), k.relu()
        sums = k.sum(-1, keepdim=True)
        h = (v @ k.mT) @ q / (sums.mT @ q + _EPS_WEIGHTS)
        h = self.out(h.reshape(len(x), -1, *x.shape[2:]).movedim(1, -1)).movedim(-1, 1)
        out: Tensor = x + self.norm(h)
        return out


class _GatedMix(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _EXPANSION * channels
        self.expand = nn.Conv2d(channels, 2 * hidden, 1)
        self.depth = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.point = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm = ChannelNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        h, gate = self.depth(F.silu(self.expand(x))).chunk(2, dim=1)
        out: Tensor = x + self.norm(self.point(h * F.silu(gate)))
        return out


class Down(nn.Module):
    """Halves the resolution, `(B, channels_in, H, W)` to `(B, channels_out, H/2, W/2)`.

    Args:
        shuffles: By moving each 2x2 pixels of a convolution into channels; else by its stride.
        shortcut: Add means of such channels of the input.
    """

    def __init__(self, channels_in: int, channels_out: int, shuffles: bool, shortcut: bool = True) -> None:
        super().__init__()
        _check_ratio(channels_out, 4 if shuffles else 1, 4 * channels_in if shortcut else channels_out)
        self.shuffles, self.shortcut = shuffles, shortcut
        out, stride = (channels_out // 4, 1) if shuffles else (channels_out, 2)
        self.conv = nn.Conv2d(channels_in, out, 3, stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        if self.shuffles:
            h = F.pixel_unshuffle(h, 2)
        return h + averaged(F.pixel_unshuffle(x, 2), h.shape[1]) if self.shortcut else h


class Up(nn.Module):
    """Doubles the resolution, `(B, channels_in, H, W)` to `(B, channels_out, 2H, 2W)`.

    Args:
        shuffles: By moving channels of a convolution into 2x2 pixels; else by repeating pixels before it.
        shortcut: Add such pixels of repeated channels of the input.
    """

    def __init__(self, channels_in: int, channels_out: int, shuffles: bool, shortcut: bool = True) -> None:
        super().__init__()
        if shortcut:
            _check_ratio(channels_in, 1, 4 * channels_out)
        self.shuffles, self.shortcut, self.channels_out = shuffles, shortcut, channels_out
        conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        self.conv = conv if shuffles else UpConv2d(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        if self.shuffles:
            h = F.pixel_shuffle(h, 2)
        return h + F.pixel_shuffle(repeated(x, 4 * self.channels_out), 2) if self.shortcut else h


def averaged(x: Tensor, channels: int) -> Tensor:
    """Means of neighbouring channels of `(B, C, H, W)`, `(B, channels, H, W)`."""
    out: Tensor = x.unflatten(1, (channels, -1)).mean(2)
    return out


def repeated(x: Tensor, channels: int) -> Tensor:
    """Each channel of `(B, C, H, W)` again and again, `(B, channels, H, W)`."""
    return x.repeat_interleave(channels // x.shape[1], dim=1)


def _check_ratio(channels: int, divisor: int, multiple: int) -> None:
    if channels % divisor or multiple % channels:
        raise ValueError(
            f"channels: a level of {channels} cannot follow its neighbour by a shortcut; it must be a multiple of "
            f"{divisor} and divide {multiple}."
        )

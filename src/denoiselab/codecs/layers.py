"""The encoder and decoder that latent diffusion's autoencoders share.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix G;
Esser et al., Taming Transformers, arXiv 2012.09841, table 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.transformer import attend

# Added to the variance in all group norms of LDM's autoencoders.
_EPS = 1e-6


class Encoder(nn.Module):
    """Images to features of a lower resolution, which halves between levels.

    Args:
        channels_in: Channels of the image.
        channels_out: Channels of the result.
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`.
        blocks: Residual blocks a level.
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        middle_attention: Have self-attention in the middle.
        groups: Of the group norms.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.down, width = nn.ModuleList(), channels
        for level, multiplier in enumerate(multipliers):
            part = nn.Sequential()
            for _ in range(blocks):
                part.append(_Stage(width, channels * multiplier, groups, level in attention_levels))
                width = channels * multiplier
            if level < len(multipliers) - 1:
                part.append(_Downsample(width))
            self.down.append(part)
        self.middle = _middle(width, groups, middle_attention)
        self.norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.head = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, channels_out, H/f, W/f)`, f = 2^(levels - 1)."""
        h = self.stem(x)
        for part in self.down:
            h = part(h)
        out: Tensor = self.head(F.silu(self.norm(self.middle(h))))
        return out


class Decoder(nn.Module):
    """The mirror image of `Encoder`, with one residual block more a level.

    Args:
        channels_in: Channels of the latent.
        channels_out: Channels of the image.
        channels: Channels of the last level.
        multipliers: Channels of each level, as multiples of `channels`, from the image's resolution down.
        blocks: Residual blocks a level, less one.
        attention_levels: Levels, counted from the image's resolution, whose blocks are followed by self-attention.
        middle_attention: Have self-attention in the middle.
        groups: Of the group norms.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ) -> None:
        super().__init__()
        width = channels * multipliers[-1]
        self.stem = nn.Conv2d(channels_in, width, 3, padding=1)
        self.middle = _middle(width, groups, middle_attention)
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            part = nn.Sequential()
            for _ in range(blocks + 1):
                part.append(_Stage(width, channels * multiplier, groups, level in attention_levels))
                width = channels * multiplier
            if level:
                part.append(_Upsample(width))
            self.up.append(part)
        self.norm = nn.GroupNorm(groups, width, eps=_EPS)
        self.head = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, channels_in, h, w)` to `(B, channels_out, f h, f w)`."""
        h = self.middle(self.stem(z))
        for part in self.up:
            h = part(h)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out


class _Stage(nn.Module):
    """Twice norm, swish, conv; add the input; self-attention where there is any.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        groups: Of the group norms.
        attention: Have self-attention.
    """

    def __init__(self, channels_in: int, channels_out: int, groups: int, attention: bool) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(groups, channels_in, eps=_EPS)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm_out = nn.GroupNorm(groups, channels_out, eps=_EPS)
        self.conv_out = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.attention: nn.Module = _Attention(channels_out, groups) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, H, W)`."""
        h = self.conv_in(F.silu(self.norm_in(x)))
        h = self.conv_out(F.silu(self.norm_out(h)))
        out: Tensor = self.attention(self.skip(x) + h)
        return out


class _Attention(nn.Module):
    """Self-attention over positions, one head, with a residual.

    Args:
        channels: Of input and output.
        groups: Of the group norm.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=_EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, dim=-1)  # (B, 1, HW, C) each
        out: Tensor = x + self.out(attend(q, k, v)).transpose(1, 2).reshape(x.shape)
        return out


class _Downsample(nn.Module):
    """Halve the resolution by a strided 3x3 convolution, padded at the right and the bottom alone.

    Args:
        channels: Of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, C, H/2, W/2)`."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class _Upsample(nn.Module):
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


def _middle(width: int, groups: int, attention: bool) -> nn.Sequential:
    return nn.Sequential(_Stage(width, width, groups, attention), _Stage(width, width, groups, attention=False))


def latent_shape(shape: Sequence[int], multipliers: Sequence[int], latent_channels: int) -> tuple[int, ...]:
    """The shape of the latent of an image.

    Raises:
        ValueError: The shape is not an image's, or H or W is not divisible by the stride.
    """
    if len(shape) != 3:
        raise ValueError(f"shape={list(shape)}: it must be an image's, (C, H, W).")
    stride = 2 ** (len(multipliers) - 1)
    if shape[1] % stride or shape[2] % stride:
        raise ValueError(
            f"multipliers={list(multipliers)} make a stride of {stride}, "
            f"which does not divide images of {shape[1]}x{shape[2]}."
        )
    return latent_channels, shape[1] // stride, shape[2] // stride


def check_sizes(
    channels: int, multipliers: Sequence[int], groups: int, attention_levels: Sequence[int], **sizes: int | float
) -> None:
    """Refuse values out of range.

    Raises:
        ValueError: Says which.
    """
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers={list(multipliers)}: one number of at least 1 a level is needed.")
    for name, value in {"channels": channels, "groups": groups, **sizes}.items():
        if value < 1 and name != "scale":
            raise ValueError(f"{name}={value}: it must be at least 1.")
        if value <= 0:
            raise ValueError(f"{name}={value}: it must be positive.")
    if channels % groups:
        raise ValueError(f"groups={groups} must divide channels={channels}.")
    if not set(attention_levels) <= set(range(len(multipliers))):
        raise ValueError(
            f"attention_levels={list(attention_levels)}: multipliers={list(multipliers)} make levels 0 to "
            f"{len(multipliers) - 1}."
        )

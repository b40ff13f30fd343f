"""The encoder and decoder that latent diffusion's autoencoders share.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix G;
Esser et al., Taming Transformers, arXiv 2012.09841, table 7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from denoiselab.networks.attention import SelfAttention
from denoiselab.networks.checks import check_image, check_levels, check_multipliers, check_sizes
from denoiselab.networks.layers import NormSiLU
from denoiselab.networks.resampling import Downsample, Upsample

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
                part.append(Downsample(width))
            self.down.append(part)
        self.middle = _middle(width, groups, middle_attention)
        self.norm = NormSiLU(groups, width, _EPS)
        self.head = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, channels_out, H/f, W/f)`, f = 2^(levels - 1)."""
        h = self.stem(x)
        for part in self.down:
            h = part(h)
        out: Tensor = self.head(self.norm(self.middle(h)))
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
                part.append(Upsample(width))
            self.up.append(part)
        self.norm = NormSiLU(groups, width, _EPS)
        self.head = nn.Conv2d(width, channels_out, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Map `(B, channels_in, h, w)` to `(B, channels_out, f h, f w)`."""
        h = self.middle(self.stem(z))
        for part in self.up:
            h = part(h)
        out: Tensor = self.head(self.norm(h))
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
        self.norm_in = NormSiLU(groups, channels_in, _EPS)
        self.conv_in = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm_out = NormSiLU(groups, channels_out, _EPS)
        self.conv_out = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.attention: nn.Module = _attention(channels_out, groups) if attention else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, channels_in, H, W)` to `(B, channels_out, H, W)`."""
        h = self.conv_in(self.norm_in(x))
        h = self.conv_out(self.norm_out(h))
        out: Tensor = self.attention(self.skip(x) + h)
        return out


def _attention(channels: int, groups: int) -> SelfAttention:
    """Self-attention, which here does not start as zero."""
    attention = SelfAttention(channels, groups, eps=_EPS)
    assert isinstance(attention.out, nn.Linear)
    attention.out.reset_parameters()
    return attention


def _middle(width: int, groups: int, attention: bool) -> nn.Sequential:
    return nn.Sequential(_Stage(width, width, groups, attention), _Stage(width, width, groups, attention=False))


def latent_shape(network: str, shape: Sequence[int], multipliers: Sequence[int], channels: int) -> tuple[int, ...]:
    """The shape of the latent of an image.

    Args:
        network: Name of the class, for messages.
        shape: Shape (C, H, W) of the image.
        multipliers: Of the channels of each level.
        channels: Of the latent.

    Raises:
        ValueError: The shape is not an image's, or H or W is not divisible by the stride.
    """
    stride = 2 ** (len(multipliers) - 1)
    check_image(network, shape, stride, f"multipliers={list(multipliers)}")
    return channels, shape[1] // stride, shape[2] // stride


def check_autoencoder(
    channels: int,
    multipliers: Sequence[int],
    groups: int,
    attention_levels: Sequence[int],
    scale: float,
    **sizes: int,
) -> None:
    """Refuse values out of range.

    Raises:
        ValueError: Says which.
    """
    check_sizes({"channels": channels, "groups": groups, **sizes})
    check_multipliers(multipliers)
    check_levels(len(multipliers), attention_levels=attention_levels)
    if channels % groups:
        raise ValueError(f"groups={groups} must divide channels={channels}.")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale={scale}: it must be positive and finite.")

"""The encoder and decoder that latent diffusion's autoencoders share.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix G;
Esser et al., Taming Transformers, arXiv 2012.09841, table 7.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import Pass
from denoiselab.codecs.images import ImageAutoencoder
from denoiselab.networks.attention import SelfAttention
from denoiselab.networks.checks import check_levels, check_multipliers, check_sizes
from denoiselab.networks.layers import NormSiLU
from denoiselab.networks.resampling import Downsample, Upsample

# Added to the variance in all group norms of LDM's autoencoders.
_EPS = 1e-6


class Sizes(NamedTuple):
    """Options of an encoder and its decoder; see `LatentModel`."""

    channels: int
    multipliers: Sequence[int]
    blocks: int
    attention_levels: Sequence[int]
    middle_attention: bool
    groups: int


class Encoder(nn.Module):
    """Images to features of a lower resolution, which halves between levels.

    Args:
        channels_in: Channels of the image.
        channels_out: Channels of the result.
        sizes: As in `LatentModel`.
    """

    def __init__(self, channels_in: int, channels_out: int, sizes: Sizes) -> None:
        super().__init__()
        channels, multipliers, blocks, attention_levels, middle_attention, groups = sizes
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
    """The mirror image of `Encoder`, with one more residual block a level.

    Args:
        channels_in: Channels of the latent.
        channels_out: Channels of the image.
        sizes: As in `LatentModel`; levels are counted from the image's resolution.
    """

    def __init__(self, channels_in: int, channels_out: int, sizes: Sizes) -> None:
        super().__init__()
        channels, multipliers, blocks, attention_levels, middle_attention, groups = sizes
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
    """Twice norm, swish, conv; add the input; self-attention, if `attention`."""

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
        h = self.conv_in(self.norm_in(x))
        h = self.conv_out(self.norm_out(h))
        out: Tensor = self.attention(self.skip(x) + h)
        return out


def _attention(channels: int, groups: int) -> SelfAttention:
    """Self-attention whose last layer is not initialised with zeros."""
    attention = SelfAttention(channels, groups, eps=_EPS)
    assert isinstance(attention.out, nn.Linear)
    attention.out.reset_parameters()
    return attention


def _middle(width: int, groups: int, attention: bool) -> nn.Sequential:
    return nn.Sequential(_Stage(width, width, groups, attention), _Stage(width, width, groups, attention=False))


class LatentModel(ImageAutoencoder):
    """An autoencoder of images; its options that are documented here are the same in all of them.

    Args:
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more in the decoder).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        middle_attention: Have self-attention at the lowest resolution.
        groups: Groups of the group norms.
        encoded: Channels of the encoder's output.
        decoded: Channels of the decoder's input.
        sizes: Further options that must be at least 1, by name.

    Further options are those of `ImageAutoencoder`.

    Raises:
        ValueError: If `shape` is not an image's, a value is out of range, or one does not divide another.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(
        self,
        shape: Sequence[int],
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
        scale: float | Sequence[float],
        shift: float | Sequence[float],
        *,
        encoded: int,
        decoded: int,
        features: int,
        sizes: Mapping[str, int],
    ) -> None:
        check_sizes({"channels": channels, "groups": groups, "blocks": blocks, **sizes})
        check_multipliers(multipliers)
        check_levels(len(multipliers), attention_levels=attention_levels)
        if channels % groups:
            raise ValueError(f"groups={groups} must divide channels={channels}.")
        stride = 2 ** (len(multipliers) - 1)
        super().__init__(shape, features, stride, f"multipliers={list(multipliers)}", scale, shift)
        layers = Sizes(channels, multipliers, blocks, attention_levels, middle_attention, groups)
        self.encoder, self.decoder = Encoder(shape[0], encoded, layers), Decoder(decoded, shape[0], layers)

    @abstractmethod
    def train_pass(self, x: Tensor, normal: Normal) -> Pass:
        """As of `FirstStageNetwork`."""

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, `(C, channels, 3, 3)`."""
        return self.decoder.head.weight

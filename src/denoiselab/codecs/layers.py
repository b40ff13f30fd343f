"""The encoder and decoder that latent diffusion's autoencoders share.

Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, appendix G;
Esser et al., Taming Transformers, arXiv 2012.09841, table 7.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from denoiselab.codecs.base import Normal
from denoiselab.codecs.first_stage import Pass
from denoiselab.networks.attention import SelfAttention
from denoiselab.networks.checks import check_image, check_levels, check_multipliers, check_sizes
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


class LatentModel(nn.Module, ABC):
    """An autoencoder of images; its options that are documented here are the same in all of them.

    Args:
        shape: Shape (C, H, W) of an image, whose values are in [-1, 1].
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more in the decoder).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        middle_attention: Have self-attention at the lowest resolution.
        groups: Groups of the group norms.
        scale: Factor on latents, one over their standard deviation: one number, or one a channel of the latent.
        shift: Subtracted from latents before they are scaled: one number, or one a channel.
        encoded: Channels of the encoder's output.
        decoded: Channels of the decoder's input.
        features: Channels of the latent.
        sizes: Further options that must be at least 1, by name.

    Raises:
        ValueError: If `shape` is not an image's, a value is out of range, or one does not divide another.
    """

    shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    scale: float | Tensor
    shift: float | Tensor

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
        super().__init__()
        check_sizes({"channels": channels, "groups": groups, "blocks": blocks, **sizes})
        check_multipliers(multipliers)
        check_levels(len(multipliers), attention_levels=attention_levels)
        if channels % groups:
            raise ValueError(f"groups={groups} must divide channels={channels}.")
        stride = 2 ** (len(multipliers) - 1)
        check_image(type(self).__name__, shape, stride, f"multipliers={list(multipliers)}")
        self.shape = tuple(shape)
        self.latent_shape = (features, shape[1] // stride, shape[2] // stride)
        self._number("scale", scale, features)
        self._number("shift", shift, features)
        layers = Sizes(channels, multipliers, blocks, attention_levels, middle_attention, groups)
        self.encoder, self.decoder = Encoder(shape[0], encoded, layers), Decoder(decoded, shape[0], layers)

    @abstractmethod
    def encode_pixels(self, x: Tensor) -> Tensor:
        """What latents of images `(B, C, H, W)` are computed from, `(B, *, h, w)`."""

    @abstractmethod
    def encode_latents(self, kept: Tensor, eps: Tensor | None = None) -> Tensor:
        """Scaled latents `(B, *latent_shape)` of what `encode_pixels` gives: the mode, or a draw with noise `eps`."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, C, H, W)` of scaled latents."""

    @abstractmethod
    def train_pass(self, x: Tensor, normal: Normal) -> Pass:
        """As of `FirstStageNetwork`."""

    @property
    def last_layer(self) -> Tensor:
        """The weight of the decoder's last layer, `(C, channels, 3, 3)`."""
        return self.decoder.head.weight

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of images `(B, C, H, W)`, by the mode of their latents."""
        out: Tensor = self.decode(self.encode_latents(self.encode_pixels(x), None))
        return out

    def scaled(self, z: Tensor) -> Tensor:
        """Latents `(B, Z, h, w)` as a network takes them, of those that the encoder gives."""
        return (z - self.shift) * self.scale

    def unscaled(self, latents: Tensor) -> Tensor:
        """What `scaled` makes `latents` `(B, Z, h, w)` of."""
        return latents / self.scale + self.shift

    def gaussian(self, kept: Tensor) -> tuple[Tensor, Tensor | None]:
        """Mean and standard deviation of unscaled latents, `(B, Z, h, w)`; None if they are not random.

        Args:
            kept: What `encode_pixels` gives.
        """
        return kept, None

    def _number(self, name: str, value: float | Sequence[float], features: int) -> None:
        """Keep a number, or one a channel as a buffer `(Z, 1, 1)` that is no part of the weights."""
        numbers = list(value) if isinstance(value, Sequence) else [value]
        if isinstance(value, Sequence) and len(numbers) != features:
            raise ValueError(f"{name}: has {len(numbers)} numbers; give one, or one for each of {features} channels.")
        low, what = (0.0, "positive") if name == "scale" else (-math.inf, "numbers")
        if not all(isinstance(number, int | float) and low < number < math.inf for number in numbers):
            raise ValueError(f"{name}={value}: it must be {what} and finite.")
        if isinstance(value, Sequence):
            self.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        else:
            setattr(self, name, value)

"""The blocks of NCSN++ and DDPM++."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.networks.attention import attend
from denoiselab.networks.convolution import Conv3x3
from denoiselab.networks.layers import Dropout, NormSiLU
from denoiselab.networks.resampling import FIRDownsampleConv, FIRUpsampleConv, Repeats, UpConv2d

# The source's initial scale of 0: its square root, 1e-5, multiplies the weights.
ALMOST_ZERO = 1e-10

# Added to the variance in the group norms.
EPS = 1e-6


def scaled(layer: nn.Linear | nn.Conv2d, scale: float = 1.0) -> nn.Module:
    """The layer with uniform weights of variance scale / mean(fan in, fan out), and biases of 0."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(max(scale, ALMOST_ZERO)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def group_count(channels: int) -> int:
    """32 groups of at least 4 channels; fewer where they do not divide the channels."""
    most = max(min(channels // 4, 32), 1)
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def norm_silu(channels: int) -> NormSiLU:
    """Group norm and swish."""
    return NormSiLU(group_count(channels), channels, EPS)


def head(channels_in: int, channels_out: int, scale: float = 0.0) -> nn.Sequential:
    """Norm, swish and a 3x3 convolution."""
    return nn.Sequential(norm_silu(channels_in), scaled(nn.Conv2d(channels_in, channels_out, 3, padding=1), scale))


class ResidualBlock(nn.Module):
    """Norm, swish, conv; add the embedding; norm, swish, dropout, conv; add the input; rescale.

    Args:
        resample: Resamples input and branch, after the first activation; None for neither.
        biggan: Initialise the shortcut's 1x1 convolution as BigGAN does, instead of as DDPM does.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        embedding: int,
        dropout: float,
        scale: float,
        resample: nn.Module | None = None,
        biggan: bool = True,
    ) -> None:
        super().__init__()
        self.norm_in = norm_silu(channels_in)
        # Repeating pixels is part of the convolution that follows.
        self.repeats = isinstance(resample, Repeats)
        conv = UpConv2d(channels_in, channels_out) if self.repeats else Conv3x3(channels_in, channels_out)
        self.conv_in = scaled(conv)
        self.embedding = scaled(nn.Linear(embedding, channels_out))
        self.norm_out = norm_silu(channels_out)
        self.dropout = Dropout(dropout)
        self.conv_out = scaled(Conv3x3(channels_out, channels_out), 0.0)
        self.resample, self.scale = resample, scale
        self.skip: nn.Module = nn.Identity()
        if channels_in != channels_out or resample is not None:
            self.skip = scaled(nn.Conv2d(channels_in, channels_out, 1), 1.0 if biggan else 0.1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map `x` `(B, channels_in, H, W)` and the activated embedding `(B, E)` to `(B, channels_out, H', W')`."""
        h = self.norm_in(x)
        if self.resample is not None:
            h, x = h if self.repeats else self.resample(h), self.resample(x)
        # A convolution does not need its output for its gradient: what is added to it may be added in place.
        h = self.norm_out(self.conv_in(h).add_(self.embedding(embedding)[:, :, None, None]))
        out: Tensor = self.conv_out(self.dropout(h)).add_(self.skip(x)).mul_(self.scale)
        return out


class SelfAttention(nn.Module):
    """Self-attention over positions, one head, with a residual and a rescaled sum."""

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, EPS)
        self.qkv = nn.Linear(channels, 3 * channels)
        for part in self.qkv.weight.chunk(3):  # each as a layer of its own, of scale 0.1
            nn.init.xavier_uniform_(part, gain=math.sqrt(0.1))
        nn.init.zeros_(self.qkv.bias)
        self.out = scaled(nn.Linear(channels, channels), 0.0)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, dim=-1)  # (B, 1, HW, C) each
        h: Tensor = self.out(attend(q, k, v))  # (B, HW, C)
        out: Tensor = (x + h.transpose(1, 2).unflatten(2, x.shape[2:])) * self.scale
        return out


class Encoder(nn.Module):
    """A level of the encoder; `NCSNpp` adds its layers.

    Args:
        scale: Factor on the sum of pyramid and features.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.resample: nn.Module | None = None
        self.pyramid: nn.Module | None = None
        self.enter: nn.Module | None = None
        self.blocks, self.attentions = nn.ModuleList(), nn.ModuleList()
        self.scale, self.concatenate = scale, False

    def forward(self, h: Tensor, pyramid: Tensor, embedding: Tensor) -> tuple[list[Tensor], Tensor]:
        """The features for the decoder, of which the last enter the next level, and the pyramid.

        `h` `(B, C, H, W)` and `pyramid` `(B, C', H, W)` have the resolution of the level before.
        """
        if self.resample is not None:
            h = apply_layer(self.resample, h, embedding)
        if self.pyramid is not None:
            pyramid = self.pyramid(pyramid)
            if self.enter is None:
                h = pyramid = (pyramid + h) * self.scale
            else:
                entering = self.enter(pyramid)
                h = torch.cat((entering, h), dim=1) if self.concatenate else entering + h
        skips = [h]
        for block, attention in zip(self.blocks, self.attentions, strict=True):
            skips.append(attention(block(skips[-1], embedding)))
        return skips, pyramid


class Decoder(nn.Module):
    """A level of the decoder; `NCSNpp` adds its layers.

    Args:
        scale: Factor on the sum of pyramid and features.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        self.attention: nn.Module = nn.Identity()
        self.pyramid: nn.Module | None = None
        self.read: nn.Module | None = None
        self.resample: nn.Module | None = None
        self.scale = scale

    def forward(
        self, h: Tensor, skips: list[Tensor], pyramid: Tensor | None, embedding: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The features at the resolution of the next level and the pyramid at that of this one.

        `h` `(B, C, H, W)` has the resolution of this level, `pyramid` `(B, C', H/2, W/2)` that of the one before.
        """
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            h = block(torch.cat((h, skip), dim=1), embedding)
        h = self.attention(h)
        if pyramid is not None and self.pyramid is not None:
            pyramid = self.pyramid(pyramid)
        if self.read is not None:
            read = self.read(h)
            pyramid = read if pyramid is None else pyramid + read
        elif pyramid is not None:
            h = pyramid = (pyramid + h) * self.scale
        if self.resample is not None:
            h = apply_layer(self.resample, h, embedding)
        return h, pyramid


def apply_layer(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Call a layer; residual blocks take the embedding too."""
    out: Tensor = layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
    return out


def down_conv(channels_in: int, channels_out: int, fir: Sequence[float] | None) -> nn.Module:
    """Halves by a 3x3 convolution, after the filter if there is one."""
    if fir is not None:
        layer = FIRDownsampleConv(channels_in, channels_out, fir)
        scaled(layer.conv)
        return layer
    return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), scaled(nn.Conv2d(channels_in, channels_out, 3, stride=2)))


def up_conv(channels_in: int, channels_out: int, fir: Sequence[float] | None) -> nn.Module:
    """Doubles by a 3x3 convolution, after the filter if there is one."""
    if fir is not None:
        layer = FIRUpsampleConv(channels_in, channels_out, fir)
        scaled(layer.conv)
        return layer
    return nn.Sequential(Repeats(), scaled(nn.Conv2d(channels_in, channels_out, 3, padding=1)))


def class_table(num_classes: int, width: int) -> nn.Embedding:
    """A linear layer on sqrt(N) times one-hot labels, as a table of N rows and one of its bias, the null class."""
    table = nn.Embedding(num_classes + 1, width)
    bound = math.sqrt(6 * num_classes / (num_classes + width))
    with torch.no_grad():
        nn.init.uniform_(table.weight, -bound, bound)
        table.weight[-1] = 0
    return table

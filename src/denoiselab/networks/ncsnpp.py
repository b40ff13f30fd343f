"""Score SDE's UNets, NCSN++ and DDPM++, with EDM's labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from denoiselab.networks.base import ConditionalNetwork
from denoiselab.networks.checks import Levels, check_levelled, check_sizes, checkpointed_levels
from denoiselab.networks.conditioning import Conditioning, check_conditioning, taken
from denoiselab.networks.embeddings import FourierEmbedding, SinusoidalEmbedding, second_embedding
from denoiselab.networks.layers import join_image, run
from denoiselab.networks.ncsnpp_layers import (
    Decoder,
    Encoder,
    ResidualBlock,
    SelfAttention,
    apply_layer,
    class_table,
    down_conv,
    head,
    scaled,
    up_conv,
)
from denoiselab.networks.resampling import doubling, halving


class NCSNpp(ConditionalNetwork):
    """NCSN++ and DDPM++: a residual UNet whose input and output may also be fed in and read out at each level.

    NCSN++ resamples through FIR filters and adds a pyramid of the input to the levels of the encoder; DDPM++ does
    neither. The output is not divided by sigma: `parameterization=ncsn` does it for NCSN++'s score. The time label is
    log sigma with Fourier features, 0..999 with sinusoidal ones.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, section 4.4 and appendix H;
    labels of class and augmentation as in Karras et al., EDM, arXiv 2206.00364, appendix F.

    Args:
        blocks: Residual blocks a level (one more on the way up); 8 in the deep networks for CIFAR-10, else 4.
        attention_levels: Levels, counted from 0, with self-attention: after each block on the way down, after the
            last on the way up.
        fourier_scale: Standard deviation of the frequencies of random Fourier features of the label; None for
            sinusoidal features.
        fir: Taps of the filters that resample; None for averages and repeats of 2x2 pixels.
        residual_blocks: `biggan` blocks resample themselves; between `ddpm` blocks a convolution does.
        progressive_input: How the downsampled input enters the levels of the encoder: `skip` by a 1x1 convolution,
            `residual` by a 3x3 one whose result is downsampled in turn; None not at all.
        progressive_output: How the decoder's levels make the output: `skip` as a sum of images, `residual` as a
            pyramid of features that the levels continue from; None for the last level alone.
        combine: For a progressive input by `skip`: its features are added (`sum`) or concatenated (`cat`).
        skip_rescale: Divide the sums of residual blocks, attention and `residual` pyramids by sqrt(2).
        num_classes: Classes of `class_label`; index `num_classes` is the null class. None for none.
        augmentation_features: Features of `augmentation`; None for none.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 4,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.1,
        fourier_scale: float | None = 16.0,
        fir: Sequence[float] | None = (1, 3, 3, 1),
        residual_blocks: Literal["biggan", "ddpm"] = "biggan",
        progressive_input: Literal["skip", "residual"] | None = "residual",
        progressive_output: Literal["skip", "residual"] | None = None,
        combine: Literal["sum", "cat"] = "sum",
        skip_rescale: bool = True,
        image_channels: int | None = None,
        num_classes: int | None = None,
        augmentation_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        second_time: bool = False,
    ) -> None:
        super().__init__()
        check_levelled("NCSNpp", shape, multipliers, attention_levels, dropout)
        sizes = {"blocks": blocks, "outputs": outputs, "image_channels": image_channels, "num_classes": num_classes}
        check_sizes({**sizes, "augmentation_features": augmentation_features})
        if channels < 4 or channels % 2:
            raise ValueError(f"channels={channels}: it must be even and at least 4.")
        if combine == "cat" and progressive_input != "skip":
            raise ValueError(f"combine=cat: it needs progressive_input=skip, not {progressive_input}.")
        self.checkpoint_levels = checkpointed_levels(len(multipliers), checkpoint_levels)
        self.conditioning = taken(image=image_channels, class_label=num_classes, augmentation=augmentation_features)
        scale = math.sqrt(0.5) if skip_rescale else 1.0
        features = 4 * channels
        random = None if fourier_scale is None else FourierEmbedding(channels, fourier_scale)
        self.features, width = random or SinusoidalEmbedding(channels), channels if random is None else 2 * channels
        self.second_time = second_time
        self.between = second_embedding(channels, width) if second_time else None
        self.classes = class_table(num_classes, width) if num_classes is not None else None
        self.augmentation = (
            scaled(nn.Linear(augmentation_features, width, bias=False)) if augmentation_features is not None else None
        )
        self.mapping = nn.Sequential(
            scaled(nn.Linear(width, features)), nn.SiLU(), scaled(nn.Linear(features, features)), nn.SiLU()
        )

        biggan = residual_blocks == "biggan"
        block = partial(ResidualBlock, embedding=features, dropout=dropout, scale=scale, biggan=biggan)
        layers = _Layers(block, fir, biggan, scale, attention_levels)
        widths = [channels * m for m in multipliers]
        channels_in = shape[0] + (image_channels or 0)
        self.stem = scaled(nn.Conv2d(channels_in, channels, 3, padding=1))
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        skips = self._build_encoder(layers, widths, blocks, channels, channels_in, progressive_input, combine == "cat")
        width = widths[-1]
        self.middle = nn.ModuleList([block(width, width), SelfAttention(width, scale), block(width, width)])
        self._build_decoder(layers, widths, skips, outputs * shape[0], progressive_output)
        self.head = None if progressive_output == "skip" else head(widths[0], outputs * shape[0])

    def _build_encoder(
        self,
        layers: _Layers,
        widths: Sequence[int],
        blocks: int,
        width: int,
        pyramid: int,
        progressive: str | None,
        concatenate: bool,
    ) -> list[list[int]]:
        """Make the levels of the encoder; returns the channels of their outputs."""
        skips: list[list[int]] = []
        for level, level_width in enumerate(widths):
            stage = Encoder(layers.scale)
            if level:
                stage.resample = layers.halve(width)
                if progressive == "skip":
                    stage.pyramid = halving(layers.fir)
                    stage.enter = scaled(nn.Conv2d(pyramid, width, 1))
                    stage.concatenate = concatenate
                    width = 2 * width if concatenate else width
                elif progressive == "residual":
                    stage.pyramid = down_conv(pyramid, width, layers.fir)
                    pyramid = width
            skips.append([width])
            for _ in range(blocks):
                stage.blocks.append(layers.block(width, level_width))
                stage.attentions.append(layers.attention(level_width, level))
                width = level_width
                skips[-1].append(width)
            self.encoder.append(stage)
        return skips

    def _build_decoder(
        self,
        layers: _Layers,
        widths: Sequence[int],
        skips: Sequence[Sequence[int]],
        channels_out: int,
        progressive: str | None,
    ) -> None:
        """Make the levels of the decoder."""
        width, pyramid = widths[-1], 0
        for level, level_width in reversed(list(enumerate(widths))):
            stage = Decoder(layers.scale)
            for skip in reversed(skips[level]):
                stage.blocks.append(layers.block(width + skip, level_width))
                width = level_width
            stage.attention = layers.attention(width, level)
            if progressive == "skip":
                stage.read = head(width, channels_out)
                if pyramid:
                    stage.pyramid = doubling(layers.fir)
                pyramid = channels_out
            elif progressive == "residual":
                if pyramid:
                    stage.pyramid = up_conv(pyramid, width, layers.fir)
                else:
                    stage.read = head(width, width, 1.0)
                pyramid = width
            if level:
                stage.resample = layers.double(width)
            self.decoder.append(stage)

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        check_conditioning(cond, self.conditioning)
        embedding = self.features(label)
        if self.between is not None:
            embedding = embedding + self.between(torch.zeros_like(label) if between is None else between)
        if self.classes is not None:
            embedding = embedding + self.classes(cond.class_label)
        if self.augmentation is not None and cond.augmentation is not None:
            embedding = embedding + self.augmentation(cond.augmentation)
        embedding = self.mapping(embedding)  # (B, E), activated
        x = join_image(x, cond.image)
        h: Tensor = self.stem(x)
        pyramid: Tensor | None = x
        skips: list[list[Tensor]] = []
        for level, stage in enumerate(self.encoder):
            checkpointed = level in self.checkpoint_levels
            new, pyramid = run(stage, h, pyramid, embedding, checkpointed=checkpointed)
            skips.append(new)
            h = new[-1]
        h = run(self._middle, h, embedding, checkpointed=len(skips) - 1 in self.checkpoint_levels)
        pyramid = None
        for stage in self.decoder:
            checkpointed = len(skips) - 1 in self.checkpoint_levels
            h, pyramid = run(stage, h, skips.pop(), pyramid, embedding, checkpointed=checkpointed)
        if self.head is None:
            assert pyramid is not None
            return pyramid
        out: Tensor = self.head(h)
        return out

    def _middle(self, h: Tensor, embedding: Tensor) -> Tensor:
        for layer in self.middle:
            h = apply_layer(layer, h, embedding)
        return h


class _Layers(NamedTuple):
    """Makes the layers of a level."""

    block: Callable[..., ResidualBlock]
    fir: Sequence[float] | None
    biggan: bool
    scale: float
    attention_levels: Sequence[int]

    def attention(self, width: int, level: int) -> nn.Module:
        return SelfAttention(width, self.scale) if level in self.attention_levels else nn.Identity()

    def halve(self, width: int) -> nn.Module:
        if self.biggan:
            return self.block(width, width, resample=halving(self.fir))
        return down_conv(width, width, self.fir)

    def double(self, width: int) -> nn.Module:
        if self.biggan:
            return self.block(width, width, resample=doubling(self.fir))
        return up_conv(width, width, self.fir)

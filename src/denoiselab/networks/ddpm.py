"""The UNet of DDPM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.conditioning import Conditioning, check_conditioning
from denoiselab.networks.layers import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    SinusoidalEmbedding,
    Upsample,
    zero_init,
)


class DDPMUNet(nn.Module):
    """Ho et al.'s UNet: residual blocks with group norm and swish, self-attention at chosen levels.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, arXiv 2006.11239, appendix B.

    Args:
        shape: Shape (C, H, W) of an image.
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms.
        num_classes: Classes of `class_label`, with index `num_classes` as the null class; None for none.
        outputs: Channels of the output, in units of those of the image; 2 with a learned variance.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, H or W is not divisible by the stride, or
            `channels` not by `groups`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention_levels: Sequence[int] = (1,),
        dropout: float = 0.1,
        groups: int = 32,
        num_classes: int | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: DDPMUNet takes images (C, H, W); choose network=mlp for points.")
        sizes = {"channels": channels, "blocks": blocks, "groups": groups, "outputs": outputs}
        for name, value in (*sizes.items(), *enumerate(multipliers)):
            if value < 1:
                key = name if isinstance(name, str) else f"multipliers[{name}]"
                raise ValueError(f"{key}={value}: it must be at least 1.")
        if channels < 4 or channels % 2:
            raise ValueError(f"channels={channels}: it must be even and at least 4.")
        if not multipliers or not set(attention_levels) <= set(range(len(multipliers))):
            raise ValueError(
                f"attention_levels={list(attention_levels)}: multipliers={list(multipliers)} make levels 0 to "
                f"{len(multipliers) - 1}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: it must be at least 0 and less than 1.")
        stride = 2 ** (len(multipliers) - 1)
        if shape[1] % stride or shape[2] % stride:
            raise ValueError(
                f"multipliers={list(multipliers)} make a stride of {stride}, "
                f"which does not divide images of {shape[1]}x{shape[2]}."
            )
        if channels % groups:
            raise ValueError(f"groups={groups} must divide channels={channels}.")
        self.conditioning = frozenset({"class_label"} if num_classes else ())
        features = 4 * channels
        self.time = nn.Sequential(
            SinusoidalEmbedding(channels),
            nn.Linear(channels, features),
            nn.SiLU(),
            nn.Linear(features, features),
        )
        self.classes = nn.Embedding(num_classes + 1, features) if num_classes else None

        def block(channels_in: int, channels_out: int, level: int) -> nn.ModuleList:
            layers: list[nn.Module] = [ResidualBlock(channels_in, channels_out, features, dropout, groups)]
            if level in attention_levels:
                layers.append(SelfAttention(channels_out, groups))
            return nn.ModuleList(layers)

        widths = [channels * m for m in multipliers]
        self.stem = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [channels], channels
        for level, level_width in enumerate(widths):
            for _ in range(blocks):
                self.down.append(block(width, level_width, level))
                width = level_width
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(nn.ModuleList([Downsample(width)]))
                skips.append(width)
        self.middle = nn.ModuleList(
            [
                ResidualBlock(width, width, features, dropout, groups),
                SelfAttention(width, groups),
                ResidualBlock(width, width, features, dropout, groups),
            ]
        )
        for level, level_width in reversed(list(enumerate(widths))):
            for number in range(blocks + 1):
                layers = block(width + skips.pop(), level_width, level)
                width = level_width
                if level and number == blocks:
                    layers.append(Upsample(width))
                self.up.append(layers)
        self.norm = nn.GroupNorm(groups, width)
        self.head = zero_init(nn.Conv2d(width, outputs * shape[0], 3, padding=1))

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        """Map `x` `(B, C, H, W)`, time labels `(B,)` and what is taken of `cond` to `(B, outputs C, H, W)`."""
        check_conditioning(cond, self.conditioning)
        embedding = self.time(label)
        if self.classes is not None and cond.class_label is not None:
            embedding = embedding + self.classes(cond.class_label)
        embedding = F.silu(embedding)  # (B, E)
        h = self.stem(x)
        skips = [h]
        for layers in self.down:
            h = _run(layers, h, embedding)
            skips.append(h)
        h = _run(self.middle, h, embedding)
        for layers in self.up:
            h = _run(layers, torch.cat((h, skips.pop()), dim=1), embedding)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out


def _run(layers: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Apply layers in turn; residual blocks take the embedding too."""
    assert isinstance(layers, nn.ModuleList)
    for layer in layers:
        h = layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
    return h

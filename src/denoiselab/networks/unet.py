"""The UNet that DDPM, improved DDPM, ADM and latent diffusion share: their networks are choices of its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import SelfAttention, head_count
from denoiselab.networks.checks import (
    Levels,
    check_dropout,
    check_image,
    check_levels,
    check_positive,
    check_sizes,
    checkpointed_levels,
    level_widths,
)
from denoiselab.networks.conditioning import Conditioning, check_conditioning, taken
from denoiselab.networks.embeddings import time_embedding
from denoiselab.networks.layers import NormSiLU, ResidualBlock, join_image, run, zero_init
from denoiselab.networks.resampling import Downsample, Upsample
from denoiselab.networks.spatial_transformer import SpatialTransformer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a UNet is built of.

    Args:
        shape: Shape (C, H, W) of an image.
        channels: The unit of `multipliers`; the time label has as many sinusoidal features.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by self-attention.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms.
        checkpoint_levels: Levels whose activations are computed again in the backward pass, which saves memory, or
            "all"; the middle goes with the last.
        image_channels: Channels of `image`, which is concatenated to the input; None where it is not taken.
        vector_features: Features of `vector`, which is added to the time embedding; None where it is not taken.
        heads: Heads of each attention; or those of each level, one after another.
        heads_up: Heads of each attention on the way up, where they are others than `heads`.
        head_channels: Channels of each head, in place of their number.
        norm_eps: Of the group norms.
        frequency_shift: As in `SinusoidalEmbedding`.
        cosine_first: As in `SinusoidalEmbedding`.
        scale_shift: As in `ResidualBlock`.
        block_resampling: Residual blocks halve and double the resolution, instead of convolutions.
        symmetric: As in `Downsample`.
        middle_attention: There is attention in the middle.
        token_features: Features of `tokens`, to which transformers attend in place of self-attention alone.
        depths: Blocks of a transformer at each level; of no use without tokens.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, H or W is not divisible by the stride, or
            the channels of a level by `groups` or by the heads.
    """

    shape: Sequence[int]
    channels: int
    multipliers: Sequence[float]
    blocks: int
    attention_levels: Sequence[int]
    dropout: float
    groups: int
    checkpoint_levels: Levels
    image_channels: int | None
    vector_features: int | None = None
    heads: int | Sequence[int] = 1
    heads_up: int | None = None
    head_channels: int | None = None
    norm_eps: float = 1e-5
    frequency_shift: int = 0
    cosine_first: bool = False
    scale_shift: bool = False
    block_resampling: bool = False
    symmetric: bool = True
    middle_attention: bool = True
    token_features: int | None = None
    depths: Sequence[int] = ()

    def __post_init__(self) -> None:
        sizes = {"channels": self.channels, "blocks": self.blocks, "groups": self.groups}
        features = {"token_features": self.token_features, "vector_features": self.vector_features}
        check_sizes({**sizes, "image_channels": self.image_channels, **features})
        check_positive({"norm_eps": self.norm_eps})
        check_sizes({"heads_up": self.heads_up})
        if self.channels < 4:
            raise ValueError(f"channels={self.channels}: it must be at least 4.")
        made = f"multipliers={list(self.multipliers)}"
        check_image("a UNet", self.shape, 2 ** (len(self.widths) - 1), made)
        check_dropout(self.dropout)
        check_levels(len(self.widths), attention_levels=self.attention_levels)
        checkpointed_levels(len(self.widths), self.checkpoint_levels)

    @cached_property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return level_widths(self.channels, self.multipliers, self.groups)

    @property
    def features(self) -> int:
        """Features of the time embedding."""
        return 4 * self.channels

    def checkpointed(self, level: int) -> bool:
        """Whether a level's activations are computed again."""
        return level in checkpointed_levels(len(self.widths), self.checkpoint_levels)

    def block(self, channels_in: int, channels_out: int, *, up: bool = False, down: bool = False) -> ResidualBlock:
        """A residual block."""
        options = (self.features, self.dropout, self.groups, self.norm_eps, self.scale_shift)
        return ResidualBlock(channels_in, channels_out, *options, up=up, down=down)

    def attention(self, level: int, *, up: bool = False) -> SelfAttention | SpatialTransformer:
        """The attention of a level, on the way down or up."""
        width = self.widths[level]
        asked = self.heads if isinstance(self.heads, int) else self.heads[level]
        heads = head_count(width, self.heads_up if up and self.heads_up else asked, self.head_channels)
        if self.token_features is None:
            return SelfAttention(width, self.groups, heads, self.norm_eps)
        return SpatialTransformer(width, heads, self.depths[level], self.token_features, self.groups)

    def stage(self, channels_in: int, level: int, *, up: bool = False) -> Stage:
        """A block of a level with what follows it there, on the way down or up."""
        width = self.widths[level]
        attention = [self.attention(level, up=up)] if level in self.attention_levels else []
        return Stage([self.block(channels_in, width), *attention], self.checkpointed(level))

    def halving(self, level: int) -> Stage:
        """The way from a level to the next."""
        width = self.widths[level]
        layer = self.block(width, width, down=True) if self.block_resampling else Downsample(width, self.symmetric)
        return Stage([layer], self.checkpointed(level))

    def middle(self) -> Stage:
        """The last level's middle."""
        width, last = self.widths[-1], len(self.widths) - 1
        attention = [self.attention(last)] if self.middle_attention else []
        layers = [self.block(width, width), *attention, self.block(width, width)]
        return Stage(layers, self.checkpointed(last))


class Context(NamedTuple):
    """What the layers of a UNet are told beside their input.

    Args:
        embedding: `(B, E)`, of time and class, activated.
        tokens: `(B, L, D)`, of a text.
        mask: `(B, L)` bool, True where a token counts.
    """

    embedding: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None


class Stage(nn.ModuleList):
    """Layers in turn, of which residual blocks are told the embedding, and transformers the tokens.

    Args:
        layers: In order.
        checkpointed: What they store for their gradients is computed again when needed.
    """

    def __init__(self, layers: Sequence[nn.Module], checkpointed: bool) -> None:
        super().__init__(layers)
        self.checkpointed = checkpointed

    def forward(self, context: Context, *parts: Tensor) -> Tensor:
        """Map parts `(B, C_i, H, W)`, joined in their channels, to `(B, C, H', W')`."""
        return run(self._apply_layers, *context, *parts, checkpointed=self.checkpointed)

    def _apply_layers(self, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None, *parts: Tensor) -> Tensor:
        h = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for layer in self:
            told: tuple[Tensor | None, ...] = (embedding,) if isinstance(layer, ResidualBlock) else ()
            h = layer(h, *((tokens, mask) if isinstance(layer, SpatialTransformer) else told))
        return h


class Encoder(nn.Module):
    """The way down and the middle of a UNet: what a classifier has of it.

    The names of its weights: `time` (the features of the label), `stem` (the first convolution), `down` (an entry a
    block, and one between two levels), `middle`.

    Args:
        plan: What it is built of.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.time = time_embedding(plan.channels, plan.features, plan.frequency_shift, plan.cosine_first)
        widths = plan.widths
        self.stem = nn.Conv2d(plan.shape[0] + (plan.image_channels or 0), widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.skips, width = [widths[0]], widths[0]  # channels of the states that `encode` keeps
        for level in range(len(widths)):
            for _ in range(plan.blocks):
                self.down.append(plan.stage(width, level))
                width = widths[level]
                self.skips.append(width)
            if level < len(widths) - 1:
                self.down.append(plan.halving(level))
                self.skips.append(width)
        self.middle = plan.middle()

    def encode(self, x: Tensor, context: Context) -> tuple[Tensor, list[Tensor]]:
        """The middle's output and the states before it, from `x` `(B, C, H, W)`."""
        states = [self.stem(x)]
        for stage in self.down:
            states.append(stage(context, states[-1]))
        return self.middle(context, states[-1]), states


class UNet(Encoder):
    """A UNet, `(B, C, H, W)` to `(B, outputs C, H, W)`.

    The names of its weights beside the encoder's: `classes` (the class embedding), `vector` (its features'), `up` (an
    entry a block), `norm`, `head`.

    Args:
        plan: What it is built of.
        num_classes: Classes of `class_label`; None for none.
        null_class: Index `num_classes` stands for no class.
        outputs: Channels of the output, in units of those of the image; 2 with a learned variance.

    Raises:
        ValueError: A number is below one.
    """

    def __init__(self, plan: Plan, num_classes: int | None, null_class: bool, outputs: int) -> None:
        check_sizes({"num_classes": num_classes, "outputs": outputs})
        super().__init__(plan)
        takes = {"tokens": plan.token_features, "mask": plan.token_features, "vector": plan.vector_features}
        self.conditioning = taken(class_label=num_classes, image=plan.image_channels, **takes)
        self.classes = None if num_classes is None else nn.Embedding(num_classes + null_class, plan.features)
        self.vector = None if plan.vector_features is None else nn.Linear(plan.vector_features, plan.features)
        self.up = nn.ModuleList()
        width, skips = plan.widths[-1], list(self.skips)
        for level in reversed(range(len(plan.widths))):
            for number in range(plan.blocks + 1):
                stage = plan.stage(width + skips.pop(), level, up=True)
                width = plan.widths[level]
                if level and number == plan.blocks:
                    stage.append(plan.block(width, width, up=True) if plan.block_resampling else Upsample(width))
                self.up.append(stage)
        self.norm = NormSiLU(plan.groups, width, plan.norm_eps)
        self.head = zero_init(nn.Conv2d(width, outputs * plan.shape[0], 3, padding=1))

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        """Map `x` `(B, C, H, W)`, time labels `(B,)` and what is taken of `cond` to `(B, outputs C, H, W)`."""
        check_conditioning(cond, self.conditioning)
        embedding = self.time(label)  # (B, E)
        if self.classes is not None:
            embedding = embedding + self.classes(cond.class_label)
        if self.vector is not None:
            embedding = embedding + self.vector(cond.vector)
        context = Context(F.silu(embedding), cond.tokens, cond.mask)
        h, states = self.encode(join_image(x, cond.image), context)
        for stage in self.up:
            h = stage(context, h, states.pop())
        out: Tensor = self.head(self.norm(h))
        return out

"""The UNet that DDPM, improved DDPM, ADM and latent diffusion share; their networks differ in its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import SelfAttention, head_count
from denoiselab.networks.base import EmbeddedNetwork, SharedOptions
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
from denoiselab.networks.conditioning import Conditioning, taken
from denoiselab.networks.embeddings import second_embedding, time_embedding
from denoiselab.networks.layers import NormSiLU, ResidualBlock, join_image, run, zero_init
from denoiselab.networks.resampling import Downsample, Upsample
from denoiselab.networks.spatial_transformer import SpatialTransformer


@dataclass(frozen=True)
class Plan:
    """The options of a UNet; those of one kind of network have defaults, the others are as in `SharedOptions`.

    Args:
        heads: Heads of each attention: one number, or one a level.
        heads_up: Heads of each attention on the way up; None for `heads`.
        head_channels: Channels of each head, in place of their number.
        norm_eps: Added to the variance in the group norms.
        frequency_shift: As in `SinusoidalEmbedding`.
        cosine_first: As in `SinusoidalEmbedding`.
        scale_shift: As in `ResidualBlock`.
        block_resampling: Residual blocks halve and double the resolution, instead of convolutions.
        symmetric: As in `Downsample`.
        middle_attention: Have attention in the middle.
        token_features: Features of `tokens`; with them, transformers take the place of self-attention.
        depths: Blocks of a transformer at each level, with `token_features`.
        second_time: As in `SharedOptions`.
    """

    shape: Sequence[int]
    channels: int
    multipliers: Sequence[float]
    blocks: int
    attention_levels: Sequence[int]
    dropout: float
    groups: int
    checkpoint_levels: Levels
    image_channels: int | None = None
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
    second_time: bool = False

    def __post_init__(self) -> None:
        sizes = ("channels", "blocks", "groups", "image_channels", "token_features", "vector_features", "heads_up")
        check_sizes({name: getattr(self, name) for name in sizes})
        check_positive({"norm_eps": self.norm_eps})
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
        """Features of the embedding."""
        return 4 * self.channels

    def checkpointed(self, level: int) -> bool:
        """Whether a level's activations are computed again."""
        return level in checkpointed_levels(len(self.widths), self.checkpoint_levels)

    def block(self, channels_in: int, channels_out: int, *, up: bool = False, down: bool = False) -> ResidualBlock:
        """A residual block with the options of the plan."""
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
        """A residual block of a level, with its attention if it has any."""
        width = self.widths[level]
        attention = [self.attention(level, up=up)] if level in self.attention_levels else []
        return Stage([self.block(channels_in, width), *attention], self.checkpointed(level))

    def halving(self, level: int) -> Stage:
        """The layer that halves the resolution after a level."""
        width = self.widths[level]
        layer = self.block(width, width, down=True) if self.block_resampling else Downsample(width, self.symmetric)
        return Stage([layer], self.checkpointed(level))

    def middle(self) -> Stage:
        """The blocks at the lowest resolution, with attention between them."""
        width, last = self.widths[-1], len(self.widths) - 1
        attention = [self.attention(last)] if self.middle_attention else []
        layers = [self.block(width, width), *attention, self.block(width, width)]
        return Stage(layers, self.checkpointed(last))


class Context(NamedTuple):
    """Conditioning passed to every UNet block."""

    embedding: Tensor  # (B, E), activated
    tokens: Tensor | None = None  # (B, L, D)
    mask: Tensor | None = None  # (B, L) bool, True where a token counts


class Stage(nn.ModuleList):
    """Layers applied in turn: residual blocks with the embedding, transformers with the tokens.

    Args:
        layers: In order.
        checkpointed: Whether their activations are computed again in the backward pass.
    """

    def __init__(self, layers: Sequence[nn.Module], checkpointed: bool) -> None:
        super().__init__(layers)
        self.checkpointed = checkpointed

    def forward(self, context: Context, *parts: Tensor) -> Tensor:
        """Map `parts` `(B, C_i, H, W)`, concatenated along channels, to `(B, C, H', W')`."""
        return run(self._apply_layers, *context, *parts, checkpointed=self.checkpointed)

    def _apply_layers(self, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None, *parts: Tensor) -> Tensor:
        h = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
        for layer in self:
            if isinstance(layer, ResidualBlock):
                h = layer(h, embedding)
            else:
                h = layer(h, tokens, mask) if isinstance(layer, SpatialTransformer) else layer(h)
        return h


class Encoder(SharedOptions):
    """The downward half and the middle of a UNet.

    Its layers are `time` (the embedding of the label), `stem` (the first convolution), `down` (an entry a block, and
    one between two levels) and `middle`.

    Args:
        plan: Its options.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.time = time_embedding(plan.channels, plan.features, plan.frequency_shift, plan.cosine_first)
        self.second_time = plan.second_time
        self.between = second_embedding(plan.channels, plan.features) if plan.second_time else None
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

    def encode(self, x: Tensor, context: Context, added: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The middle's output for `x` `(B, C, H, W)`, and the states before it; `added` is added to the first."""
        states = [self.stem(x) if added is None else self.stem(x) + added]
        for stage in self.down:
            states.append(stage(context, states[-1]))
        return self.middle(context, states[-1]), states


class UNet(Encoder, EmbeddedNetwork):
    """A UNet, `(B, C, H, W)` to `(B, outputs C, H, W)`.

    Its layers beside the encoder's are `classes` and `vector` (embeddings), `up` (an entry a block), `norm` and `head`.

    Args:
        plan: Its options beside the following.
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

    def context(self, label: Tensor, cond: Conditioning, between: Tensor | None = None) -> Context:
        """What times `(B,)` and conditions pass to every block."""
        return Context(F.silu(self.embed(label, cond, between)), cond.tokens, cond.mask)

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        context = self.context(label, cond, between)
        return self.decode(*self.encode(join_image(x, cond.image), context), context)

    def decode(self, h: Tensor, states: list[Tensor], context: Context) -> Tensor:
        """The output for what `encode` gives, whose list is emptied."""
        for stage in self.up:
            h = stage(context, h, states.pop())
        out: Tensor = self.head(self.norm(h))
        return out

"""The transformer that predicts clean pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.base import EmbeddedNetwork
from denoiselab.networks.checks import Levels, check_dropout, check_sizes, checkpointed_levels, hidden_features
from denoiselab.networks.conditioning import Conditioning, taken
from denoiselab.networks.embeddings import time_embedding
from denoiselab.networks.layers import Dropout, run, zero_init
from denoiselab.networks.transformer import (
    HeadNorm,
    TokenAttention,
    check_transformer,
    rotary,
    sincos_positions,
    unpatchify,
)

# Features of the time label's sines and cosines.
_FREQUENCIES = 256


class JiT(EmbeddedNetwork):
    """Li and He's transformer over large patches of pixels, for `parameterization=x0` on `schedule=flow`.

    A DiT with root-mean-square norms, normalised queries and keys, rotary beside added positions, gated feed-forward
    layers, patches embedded through a bottleneck, and from some block on copies of the class as further tokens.

    Sizes (width, depth, heads, bottleneck, context_from): B (768, 12, 12, 128, 4), L (1024, 24, 16, 128, 8),
    H (1280, 32, 16, 256, 10).

    Source: Li and He, Back to Basics: Let Denoising Generative Models Denoise, arXiv 2511.13720, section 4 and its
    released code, whose rotary positions turn neighbouring features: the same up to the order of features in a head.

    Args:
        width: Features of a token, divisible by 4; `width / heads` is, too.
        depth: Number of blocks.
        mlp_ratio: 3/2 of the hidden features of the gated feed-forward layers, as a multiple of `width`.
        bottleneck: Features of a patch before they are mapped to `width`.
        context_tokens: Tokens of the class, each with a learned position; without classes there are none.
        context_from: The block, counted from 0, before which they join the patches.
        dropout: Probability, in the middle half of the blocks: of features that attention adds, and of hidden ones.

    Further options and errors are those of `SharedOptions`.
    """

    positions: Tensor
    rotation: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        bottleneck: int = 128,
        context_tokens: int = 32,
        context_from: int = 4,
        dropout: float = 0.0,
        num_classes: int | None = None,
        null_class: bool = True,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
    ) -> None:
        super().__init__()
        check_transformer(shape, patch, width, heads, depth, outputs)
        if width % 4 or width // heads % 4:
            raise ValueError(f"width={width}: it and width / heads = {width // heads} must be divisible by 4.")
        check_sizes({"num_classes": num_classes, "bottleneck": bottleneck, "context_tokens": context_tokens})
        check_dropout(dropout)
        if not 0 <= context_from < depth:
            raise ValueError(f"context_from={context_from}: it must be a block, from 0 to depth - 1 = {depth - 1}.")
        self.conditioning = taken(class_label=num_classes)
        self.patch, self.grid = patch, (shape[1] // patch, shape[2] // patch)
        self.checkpoint_levels = checkpointed_levels(depth, checkpoint_levels)
        self.patches = nn.Conv2d(shape[0], bottleneck, patch, stride=patch, bias=False)
        self.widen = nn.Linear(bottleneck, width)
        self.time = time_embedding(_FREQUENCIES, width)
        self.between = self.vector = None
        self.classes = None if num_classes is None else nn.Embedding(num_classes + null_class, width)
        self.extras = 0 if num_classes is None else context_tokens
        self.context_from = context_from
        self.context = nn.Parameter(torch.zeros(self.extras, width)) if self.extras else None
        still = torch.stack(
            (torch.ones(self.extras, width // heads // 2), torch.zeros(self.extras, width // heads // 2))
        )
        self.register_buffer("positions", sincos_positions(width, self.grid), persistent=False)
        self.register_buffer("rotation", torch.cat((still, rotary(width // heads, self.grid)), 1), persistent=False)
        hidden = max(1, hidden_features(width, mlp_ratio) * 2 // 3)
        middle = range(depth // 4, depth // 4 * 3)
        self.blocks = nn.ModuleList(
            _Block(width, heads, hidden, dropout if number in middle else 0.0) for number in range(depth)
        )
        self.norm = HeadNorm(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * outputs * shape[0])
        self._initialize()

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        condition = F.silu(self.embed(label, cond))  # (B, W)
        tokens = self.widen(self.patches(x).flatten(2).transpose(1, 2)) + self.positions  # (B, T, W)
        rotation = self.rotation[:, self.extras :]
        for number, block in enumerate(self.blocks):
            if number == self.context_from and self.classes is not None:
                tokens = torch.cat((self.classes(cond.class_label)[:, None] + self.context, tokens), 1)
                rotation = self.rotation
            tokens = run(block, tokens, condition, rotation, checkpointed=number in self.checkpoint_levels)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)
        pixels = self.head(self.norm(tokens[:, self.extras :]) * (1 + scale) + shift)
        return unpatchify(pixels, self.patch, self.grid)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.weight.view(self.patches.out_channels, -1))
        drawn = [self.classes, self.time[1], self.time[3]]
        for weight in (self.context, *(part.weight for part in drawn if part is not None)):
            if isinstance(weight, Tensor):
                nn.init.normal_(weight, std=0.02)
        for part in (*self.blocks, self):
            zero_init(part.modulation)
        zero_init(self.head)


class _Block(nn.Module):
    """Self-attention and a gated feed-forward layer, each with a residual."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = HeadNorm(width), HeadNorm(width)
        self.attention = TokenAttention(width, heads, qk_norm=True)
        self.hidden, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.drop_attention, self.drop_hidden = Dropout(dropout), Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, condition: Tensor, rotation: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=2)
        h = self.attention(self.norm_attention(tokens) * (1 + scale_a) + shift_a, rotation)
        tokens = tokens + gate_a * self.drop_attention(h)
        gate, values = self.hidden(self.norm_mlp(tokens) * (1 + scale_m) + shift_m).chunk(2, dim=2)
        out: Tensor = tokens + gate_m * self.out(self.drop_hidden(F.silu(gate) * values))
        return out

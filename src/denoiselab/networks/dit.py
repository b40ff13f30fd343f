"""The diffusion transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.base import EmbeddedNetwork
from denoiselab.networks.checks import Levels, check_positive, check_sizes, checkpointed_levels, hidden_features
from denoiselab.networks.conditioning import Conditioning, taken
from denoiselab.networks.embeddings import second_embedding, time_embedding
from denoiselab.networks.layers import run, zero_init
from denoiselab.networks.transformer import (
    CrossAttention,
    FeedForward,
    PatchEmbedding,
    TokenAttention,
    check_transformer,
    rotary,
    sincos_positions,
    unpatchify,
)

# Features of the time label's sines and cosines.
_FREQUENCIES = 256


class DiT(EmbeddedNetwork):
    """Peebles and Xie's transformer over patches; time and class shift, scale and gate its layers (adaLN-Zero).

    Sizes (width, depth, heads): S (384, 12, 6), B (768, 12, 12), L (1024, 24, 16), XL (1152, 28, 16).

    Source: Peebles and Xie, Scalable Diffusion Models with Transformers, arXiv 2212.09748, section 3 and table 1.
    Tokens of a text enter as in PixArt-alpha (arXiv 2310.00426, section 2.3): two linear layers, then cross-attention
    between self-attention and feed-forward layer, which starts as zero.

    Args:
        width: Features of a token, divisible by 4 and by `heads`.
        depth: Number of blocks.
        rotary_positions: Rotate queries and keys by their row and column, instead of adding sines and cosines to the
            patches; `width / heads` must be divisible by 4.
        qk_norm: Normalise queries and keys, for training at scale.
        frequency_shift: As in `SinusoidalEmbedding`: 0 in the paper's code, 1 in diffusers' port.
        mlp_norm_eps: Added to the variance in the norm before the feed-forward layer: 1e-6 in the paper's code, 1e-5 in
            diffusers' port.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        rotary_positions: bool = False,
        qk_norm: bool = False,
        num_classes: int | None = None,
        null_class: bool = True,
        token_features: int | None = None,
        vector_features: int | None = None,
        frequency_shift: int = 0,
        mlp_norm_eps: float = 1e-6,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        second_time: bool = False,
    ) -> None:
        super().__init__()
        check_transformer(shape, patch, width, heads, depth, outputs)
        if width % 4:
            raise ValueError(f"width={width}: it must be divisible by 4.")
        if rotary_positions and width // heads % 4:
            raise ValueError(f"heads={heads}: rotary positions need width / heads = {width // heads} divisible by 4.")
        check_sizes({"num_classes": num_classes, "token_features": token_features, "vector_features": vector_features})
        check_positive({"mlp_norm_eps": mlp_norm_eps})
        text = token_features
        self.conditioning = taken(class_label=num_classes, tokens=text, mask=text, vector=vector_features)
        self.patch, self.grid = patch, (shape[1] // patch, shape[2] // patch)
        self.checkpoint_levels = checkpointed_levels(depth, checkpoint_levels)
        self.patches = PatchEmbedding(shape[0], patch, width)
        positions = None if rotary_positions else sincos_positions(width, self.grid)
        rotation = rotary(width // heads, self.grid) if rotary_positions else None
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("rotation", rotation, persistent=False)
        self.time = time_embedding(_FREQUENCIES, width, frequency_shift)
        self.second_time = second_time
        self.between = second_embedding(_FREQUENCIES, width) if second_time else None
        self.classes = None if num_classes is None else nn.Embedding(num_classes + null_class, width)
        self.vector = None if vector_features is None else nn.Linear(vector_features, width)
        self.text = (
            None
            if token_features is None
            else nn.Sequential(nn.Linear(token_features, width), nn.GELU("tanh"), nn.Linear(width, width))
        )
        hidden = hidden_features(width, mlp_ratio)
        self.blocks = nn.ModuleList(
            _Block(width, heads, hidden, qk_norm, mlp_norm_eps, text=token_features is not None) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, patch * patch * outputs * shape[0])
        self._initialize()

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        condition = F.silu(self.embed(label, cond, between))  # (B, W)
        context = None if self.text is None else self.text(cond.tokens)  # (B, L, W)
        tokens = self.patches(x)  # (B, T, W)
        if self.positions is not None:
            tokens = tokens + self.positions
        for number, block in enumerate(self.blocks):
            inputs = (tokens, condition, self.rotation, context, cond.mask)
            tokens = run(block, *inputs, checkpointed=number in self.checkpoint_levels)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)
        return unpatchify(self.head(_modulate(self.norm(tokens), shift, scale)), self.patch, self.grid)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patches.proj.weight.view(self.patches.proj.out_channels, -1))
        assert self.patches.proj.bias is not None
        nn.init.zeros_(self.patches.proj.bias)
        for embedding in (self.classes, self.time[1], self.time[3]):
            if isinstance(embedding, nn.Embedding | nn.Linear):
                nn.init.normal_(embedding.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, _Block)
            zero_init(block.modulation)
            if block.cross is not None:
                zero_init(block.cross.out)
        zero_init(self.modulation)
        zero_init(self.head)
        if self.between is not None:
            zero_init(self.between[-1])


class _Block(nn.Module):
    """Self-attention, cross-attention where there is text, and a feed-forward layer, each with a residual."""

    def __init__(self, width: int, heads: int, hidden: int, qk_norm: bool, mlp_norm_eps: float, text: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attention = TokenAttention(width, heads, qk_norm=qk_norm)
        self.cross = CrossAttention(width, heads, width, qk_norm=qk_norm) if text else None
        self.norm_mlp = nn.LayerNorm(width, eps=mlp_norm_eps, elementwise_affine=False)
        self.mlp = FeedForward(width, hidden, approximate="tanh")
        self.modulation = nn.Linear(width, 6 * width)

    def forward(
        self, tokens: Tensor, condition: Tensor, rotation: Tensor | None, context: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=2)
        h = self.attention(_modulate(self.norm_attention(tokens), shift_a, scale_a), rotation)
        tokens = tokens + gate_a * h
        if self.cross is not None:
            tokens = tokens + self.cross(tokens, context, mask)
        h = self.mlp(_modulate(self.norm_mlp(tokens), shift_m, scale_m))
        out: Tensor = tokens + gate_m * h
        return out


def _modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens `(B, T, W)` times 1 + scale plus shift, `(B, 1, W)` each."""
    return tokens * (1 + scale) + shift

"""Transformers over the positions of an image that attend to a text."""

from __future__ import annotations

from torch import Tensor, nn

from denoiselab.networks.layers import zero_init
from denoiselab.networks.transformer import CrossAttention, GatedFeedForward, TokenAttention


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of an image, between a group norm, two linear layers and a residual.

    Args:
        depth: Number of blocks.
        context: Features of the text's tokens.
    """

    def __init__(self, channels: int, heads: int, depth: int, context: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.before = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(_TextBlock(channels, heads, context) for _ in range(depth))
        self.after = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x` `(B, C, H, W)` and the context `(B, L, D)`, which counts where `mask` `(B, L)`, to `(B, C, H, W)`."""
        tokens = self.before(self.norm(x).flatten(2).transpose(1, 2))  # (B, HW, C)
        for block in self.blocks:
            tokens = block(tokens, context, mask)
        out: Tensor = x + self.after(tokens).transpose(1, 2).reshape(x.shape)
        return out


class _TextBlock(nn.Module):
    """Self-attention, attention to the text and a gated feed-forward layer, each after a norm and with a residual."""

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads, bias=False)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, context, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = GatedFeedForward(width, 4 * width)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        tokens = tokens + self.attention(self.norm_attention(tokens))
        tokens = tokens + self.cross(self.norm_cross(tokens), context, mask)
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out

"""Multi-head attention and self-attention over the positions of an image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.layers import zero_init


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of heads `(B, N, T, D)` over `(B, N, L, D)`, with the heads joined: `(B, T, N D)`.

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: `(B, L)` bool, True where a key counts, at least one a sample; None if all do.
    """
    keys = None if mask is None else mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=keys).transpose(1, 2).flatten(2)


def head_count(channels: int, heads: int = 1, head_channels: int | None = None) -> int:
    """The number of heads: `heads`, or with `head_channels` as many as have so many of the `channels`.

    Raises:
        ValueError: If it does not divide `channels`.
    """
    if head_channels is not None:
        if head_channels < 1 or channels % head_channels:
            raise ValueError(f"head_channels={head_channels}: it must divide the {channels} channels of attention.")
        return channels // head_channels
    if heads < 1 or channels % heads:
        raise ValueError(f"heads={heads}: it must divide the {channels} channels of attention.")
    return heads


class SelfAttention(nn.Module):
    """Self-attention over positions, with a residual: x + out(attend(qkv(norm(x)))).

    Source: Ho et al., DDPM, arXiv 2006.11239, appendix B (one head).
    """

    def __init__(self, channels: int, groups: int, heads: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C), a view where channels come last
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, N, HW, D) each
        h: Tensor = self.out(attend(q, k, v))  # (B, HW, C)
        out: Tensor = x + h.transpose(1, 2).unflatten(2, x.shape[2:])
        return out

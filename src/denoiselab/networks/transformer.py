"""Layers that the transformers share: attention over tokens, positions, patches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.attention import attend
from denoiselab.networks.checks import check_image, check_sizes


class HeadNorm(nn.Module):
    """Divide the features of a head by their root mean square and scale them by learned factors.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4.

    Args:
        features: Of a head.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, heads: Tensor) -> Tensor:
        """Map `(B, N, T, D)` to the same shape."""
        return F.rms_norm(heads, self.weight.shape, self.weight.to(heads.dtype), eps=1e-6)


class TokenAttention(nn.Module):
    """Multi-head self-attention of tokens.

    Args:
        width: Features of a token, divisible by `heads`, unless `inner` is given.
        bias: Of queries, keys and values.
        qk_norm: Divide queries and keys of each head by their root mean square, with a learned scale, to bound the
            attention's logits (Esser et al., Scaling Rectified Flow Transformers, arXiv 2403.03206, section 5.3.2).
        inner: Features of all heads together; None for `width`.
    """

    def __init__(
        self, width: int, heads: int, bias: bool = True, qk_norm: bool = False, inner: int | None = None
    ) -> None:
        super().__init__()
        inner = width if inner is None else inner
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * inner, bias=bias)
        self.q_norm = HeadNorm(inner // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(inner // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(inner, width)

    def forward(self, tokens: Tensor, rotation: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Map `(B, T, W)` to the same shape.

        Args:
            tokens: The features.
            rotation: `(2, T, D/2)`, of `rotary`, with D features a head.
            mask: `(B, T)` bool, True where a token is attended to, at least one a sample; None if all are.
        """
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, N, T, D) each
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out: Tensor = self.out(attend(q.to(v.dtype), k.to(v.dtype), v, mask))
        return out


class CrossAttention(nn.Module):
    """Multi-head attention of tokens over a context.

    Args:
        width: Features of a token, divisible by `heads`.
        context: Features of the context.
        bias: Of queries, keys and values.
        qk_norm: As in `TokenAttention`.
    """

    def __init__(self, width: int, heads: int, context: int, bias: bool = True, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context, 2 * width, bias=bias)
        self.q_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map `(B, T, W)` and the context `(B, L, C)`, whose tokens count where `mask` `(B, L)`, to `(B, T, W)`."""
        q = self.q(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, N, T, D)
        k, v = self.kv(context).unflatten(2, (2, self.heads, -1)).transpose(1, 3).unbind(2)  # (B, N, L, D) each
        out: Tensor = self.out(attend(self.q_norm(q), self.k_norm(k), v, mask))
        return out


class FeedForward(nn.Module):
    """Linear, GELU, linear.

    Args:
        width: Features of input and output.
        hidden: Features between.
        approximate: Of the GELU: "tanh" or "none".
    """

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.approximate = approximate
        self.out = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(B, T, W)` to the same shape."""
        out: Tensor = self.out(F.gelu(self.hidden(tokens), approximate=self.approximate))
        return out


class GatedFeedForward(nn.Module):
    """Linear, times the GELU of a gate, linear (Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202).

    Args:
        width: Features of input and output.
        hidden: Features between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map `(B, T, W)` to the same shape."""
        values, gate = self.hidden(tokens).chunk(2, dim=-1)
        out: Tensor = self.out(values * F.gelu(gate))
        return out


class PatchEmbedding(nn.Module):
    """Linear features of patches that do not overlap, row by row.

    Args:
        channels: Of the image.
        patch: Side of a patch.
        width: Features.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(B, C, H, W)` to `(B, H/p W/p, width)`."""
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


def unpatchify(tokens: Tensor, patch: int, grid: Sequence[int]) -> Tensor:
    """Patches `(B, h w, p p C)`, whose features are ordered (row, column, channel), as an image `(B, C, h p, w p)`."""
    h, w = grid
    pixels: Tensor = tokens.unflatten(2, (patch, patch, -1)).unflatten(1, (h, w))  # (B, h, w, p, p, C)
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos_positions(width: int, grid: Sequence[int]) -> Tensor:
    """Sines and cosines of the columns and rows of a grid, `(h w, width)` float32.

    Feature i of D/4 has frequency 10000^(-i / (D/4)); in turn the columns' sines and cosines, the rows' sines and
    cosines. Source: Vaswani et al., arXiv 1706.03762, section 3.5; in two dimensions as in DiT's released code.

    Args:
        width: D, divisible by 4.
        grid: Rows and columns.
    """
    row, column = _angles(width // 4, grid)
    return torch.cat((column.sin(), column.cos(), row.sin(), row.cos()), dim=1).float()


def rotary(width: int, grid: Sequence[int]) -> Tensor:
    """Cosines and sines for `rotate`, `(2, h w, width / 2)` float32: half the pairs turn by row, half by column.

    Source: Su et al., RoFormer, arXiv 2104.09864, equation 15; by axes as in Heo et al., Rotary Position Embedding
    for Vision Transformer, arXiv 2403.13298, section 3.2, with RoFormer's base of 10000.

    Args:
        width: Features of a head, divisible by 4.
        grid: Rows and columns.
    """
    angles = torch.cat(_angles(width // 4, grid), dim=1)
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turn features j and j + D/2 of `(B, N, T, D)` by the angle of pair j at each position."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _angles(features: int, grid: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Row and column times each frequency, `(h w, features)` float64."""
    frequencies = torch.exp(torch.arange(features, dtype=torch.float64) * (-math.log(10000) / features))
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    return row.flatten()[:, None] * frequencies, column.flatten()[:, None] * frequencies


def check_transformer(shape: Sequence[int], patch: int, width: int, heads: int, depth: int, outputs: int) -> None:
    """Check the options that the transformers of patches share."""
    check_sizes({"patch": patch, "width": width, "heads": heads, "depth": depth, "outputs": outputs})
    check_image("a transformer of patches", shape, patch, f"patch={patch}: patches")
    if width % heads:
        raise ValueError(f"heads={heads} must divide width={width}.")

"""The UNet of latent diffusion and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.conditioning import Conditioning, check_conditioning
from denoiselab.networks.layers import Downsample, ResidualBlock, Upsample, zero_init
from denoiselab.networks.transformer import (
    CrossAttention,
    FrequencyEmbedding,
    GatedFeedForward,
    TokenAttention,
    recomputed,
)


class TextUNet(nn.Module):
    """Rombach et al.'s UNet: residual blocks, and transformers over positions that attend to the tokens of a text.

    The defaults are Stable Diffusion 1's. Its second version has heads (5, 10, 20, 20) and 1024 token features.

    Source: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752, section 3.3
    and appendix E.2.1.

    Args:
        shape: Shape (C, H, W) of an image or latent.
        channels: Channels of the first level.
        multipliers: Channels of each level, as multiples of `channels`; the resolution halves between levels.
        blocks: Residual blocks a level (one more on the way up).
        attention_levels: Levels, counted from 0, whose blocks are followed by a transformer.
        depth: Blocks of a transformer: one number, or one a level.
        heads: Heads of the attention: one number, or one a level; they divide the level's channels.
        dropout: Probability, in the residual blocks.
        groups: Groups of the group norms.
        token_features: Features of `tokens`.
        num_classes: Classes of `class_label`, with index `num_classes` as the null class; None for none.
        image_channels: Channels of `image`, concatenated to the input: an inpainting model's mask and known part;
            None for none.
        outputs: Channels of the output, in units of those of the image; 2 with a learned variance.
        checkpoint_levels: Levels whose activations are computed again in the backward pass, which saves memory; the
            middle belongs to the last one.

    Raises:
        ValueError: The shape is not an image's, a value is out of range, or one does not divide another.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 320,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (0, 1, 2),
        depth: int | Sequence[int] = 1,
        heads: int | Sequence[int] = 8,
        dropout: float = 0.0,
        groups: int = 32,
        token_features: int = 768,
        num_classes: int | None = None,
        image_channels: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"shape={list(shape)}: TextUNet takes images (C, H, W); choose network=mlp for points.")
        levels = len(multipliers)
        depths, all_heads = _per_level("depth", depth, levels), _per_level("heads", heads, levels)
        sizes = {"channels": channels, "blocks": blocks, "groups": groups, "outputs": outputs}
        sizes |= {"token_features": token_features, **{f"multipliers[{i}]": m for i, m in enumerate(multipliers)}}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}={value}: it must be at least 1.")
        for name, chosen in (("attention_levels", attention_levels), ("checkpoint_levels", checkpoint_levels)):
            if not multipliers or not set(chosen) <= set(range(levels)):
                raise ValueError(
                    f"{name}={list(chosen)}: multipliers={list(multipliers)} make levels 0 to {levels - 1}."
                )
        if channels % groups or channels % 2:
            raise ValueError(f"channels={channels}: it must be even and divisible by groups={groups}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: it must be at least 0 and less than 1.")
        stride = 2 ** (levels - 1)
        if shape[1] % stride or shape[2] % stride:
            raise ValueError(
                f"multipliers={list(multipliers)} make a stride of {stride}, "
                f"which does not divide images of {shape[1]}x{shape[2]}."
            )
        widths = [channels * m for m in multipliers]
        for level in (*attention_levels, levels - 1):  # the middle has a transformer in any case
            if widths[level] % all_heads[level]:
                raise ValueError(f"heads={all_heads[level]} must divide the {widths[level]} channels of level {level}.")
        takes = {"class_label": num_classes, "tokens": token_features, "mask": token_features, "image": image_channels}
        self.conditioning = frozenset(name for name, features in takes.items() if features)
        self.checkpoint_levels = frozenset(checkpoint_levels)
        features = 4 * channels
        self.time = nn.Sequential(
            FrequencyEmbedding(channels), nn.Linear(channels, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.classes = nn.Embedding(num_classes + 1, features) if num_classes else None

        def residual(channels_in: int, channels_out: int) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, features, dropout, groups)

        def transformer(level: int) -> SpatialTransformer:
            return SpatialTransformer(widths[level], all_heads[level], depths[level], token_features, groups)

        def stage(channels_in: int, level: int) -> _Stage:
            attention = transformer(level) if level in attention_levels else None
            return _Stage(residual(channels_in, widths[level]), attention)

        self.stem = nn.Conv2d(shape[0] + (image_channels or 0), channels, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, width = [channels], channels
        for level, level_width in enumerate(widths):
            part = nn.ModuleList()
            for _ in range(blocks):
                part.append(stage(width, level))
                width = level_width
                skips.append(width)
            if level < levels - 1:
                part.append(Downsample(width))
                skips.append(width)
            self.down.append(part)
        self.middle = nn.ModuleList([_Stage(residual(width, width), transformer(levels - 1)), residual(width, width)])
        for level, level_width in reversed(list(enumerate(widths))):
            part = nn.ModuleList()
            for _ in range(blocks + 1):
                part.append(stage(width + skips.pop(), level))
                width = level_width
            if level:
                part.append(Upsample(width))
            self.up.append(part)
        self.norm = nn.GroupNorm(groups, width)
        self.head = zero_init(nn.Conv2d(width, outputs * shape[0], 3, padding=1))

    def forward(self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning()) -> Tensor:
        """Map `x` `(B, C, H, W)`, time labels `(B,)` and what is taken of `cond` to `(B, outputs C, H, W)`."""
        check_conditioning(cond, self.conditioning)
        embedding = self.time(label)
        if self.classes is not None:
            embedding = embedding + self.classes(cond.class_label)
        embedding = F.silu(embedding)  # (B, E)
        if cond.image is not None:
            x = torch.cat((x, _resized(cond.image, x)), dim=1)
        text = (cond.tokens, cond.mask)
        h = self.stem(x)
        skips = [h]
        for level, part in enumerate(self.down):
            assert isinstance(part, nn.ModuleList)
            for layer in part:
                h = self._run(layer, level, h, embedding, *text)
                skips.append(h)
        level = len(self.down) - 1
        for layer in self.middle:
            h = self._run(layer, level, h, embedding, *text)
        for number, part in enumerate(self.up):
            assert isinstance(part, nn.ModuleList)
            for layer in part:
                if not isinstance(layer, Upsample):
                    h = torch.cat((h, skips.pop()), dim=1)
                h = self._run(layer, level - number, h, embedding, *text)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out

    def _run(
        self, layer: nn.Module, level: int, h: Tensor, embedding: Tensor, tokens: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Apply a layer; stages take the embedding and the text too, residual blocks the embedding."""
        inputs: tuple[Tensor | None, ...] = (h, embedding, tokens, mask)
        if not isinstance(layer, _Stage):
            inputs = (h, embedding) if isinstance(layer, ResidualBlock) else (h,)
        return recomputed(layer, level in self.checkpoint_levels, *inputs)


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of an image, between a group norm, two linear layers and a residual.

    Args:
        channels: Of input and output.
        heads: Of the attention.
        depth: Number of blocks.
        context: Features of the text's tokens.
        groups: Of the group norm.
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
    """Self-attention, attention to the text and a gated feed-forward layer, each after a norm and with a residual.

    Args:
        width: Features of a token.
        heads: Of the attention.
        context: Features of the text's tokens.
    """

    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads, bias=False)
        self.norm_cross = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, context, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = GatedFeedForward(width, 4 * width)

    def forward(self, tokens: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Map tokens `(B, T, W)` and the context `(B, L, D)`, which counts where `mask` `(B, L)`, to `(B, T, W)`."""
        tokens = tokens + self.attention(self.norm_attention(tokens))
        tokens = tokens + self.cross(self.norm_cross(tokens), context, mask)
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out


class _Stage(nn.Module):
    """A residual block, and a transformer after it where there is attention.

    Args:
        block: The residual block.
        transformer: The transformer.
    """

    def __init__(self, block: ResidualBlock, transformer: SpatialTransformer | None) -> None:
        super().__init__()
        self.block = block
        self.transformer = transformer

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Map `x` `(B, C, H, W)` to `(B, C', H, W)`."""
        h: Tensor = self.block(x, embedding)
        return h if self.transformer is None else self.transformer(h, tokens, mask)


def _per_level(name: str, value: int | Sequence[int], levels: int) -> list[int]:
    """One number a level."""
    values = [value] * levels if isinstance(value, int) else list(value)
    if len(values) != levels or min(values, default=1) < 1:
        raise ValueError(f"{name}={value}: it must be a number of at least 1, or {levels} of them, one a level.")
    return values


def _resized(image: Tensor, x: Tensor) -> Tensor:
    """The image `(B, C', H', W')` at the resolution of `x`."""
    if image.shape[2:] == x.shape[2:]:
        return image
    return F.interpolate(image, x.shape[2:], mode="bilinear")

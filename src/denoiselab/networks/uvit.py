"""The U-shaped vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.networks.base import ConditionalNetwork
from denoiselab.networks.checks import Levels, check_sizes, checkpointed_levels, hidden_features
from denoiselab.networks.conditioning import Conditioning, check_conditioning, taken
from denoiselab.networks.embeddings import SinusoidalEmbedding, second_embedding
from denoiselab.networks.layers import run, zero_init
from denoiselab.networks.transformer import (
    FeedForward,
    PatchEmbedding,
    TokenAttention,
    check_transformer,
    unpatchify,
)


class UViT(ConditionalNetwork):
    """Bao et al.'s transformer: time, class and text are tokens beside the patches; long skips as in a UNet.

    Sizes (width, depth, heads): S (512, 13, 8), S deep (512, 17, 8), M (768, 17, 12), L (1024, 21, 16),
    H (1152, 29, 16). The output layer is not initialised with zeros, as in the source.

    Source: Bao et al., All are Worth Words: A ViT Backbone for Diffusion Models, arXiv 2209.12152, section 3, table 1.

    Args:
        depth: Number of blocks, odd: as many before the middle one as after.
        qkv_bias: Give queries, keys and values a bias.
        time_mlp: Pass the embedded time through two linear layers.
        final_conv: End with a 3x3 convolution over the image.
        num_tokens: Length of `tokens`, each of which has a learned position; None for no text. There is no mask.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        patch: int = 2,
        width: int = 512,
        depth: int = 13,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        time_mlp: bool = False,
        final_conv: bool = True,
        num_classes: int | None = None,
        null_class: bool = True,
        token_features: int | None = None,
        num_tokens: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        second_time: bool = False,
    ) -> None:
        super().__init__()
        check_transformer(shape, patch, width, heads, depth, outputs)
        if not depth % 2:
            raise ValueError(f"depth={depth}: it must be odd, a middle block and as many before it as after.")
        if (token_features is None) != (num_tokens is None):
            raise ValueError(f"num_tokens={num_tokens}: it goes with token_features={token_features}; give both.")
        check_sizes({"num_classes": num_classes, "token_features": token_features, "num_tokens": num_tokens})
        self.conditioning = taken(class_label=num_classes, tokens=token_features)
        self.patch, self.grid = patch, (shape[1] // patch, shape[2] // patch)
        self.num_tokens = num_tokens
        self.checkpoint_levels = checkpointed_levels(depth, checkpoint_levels)
        self.patches = PatchEmbedding(shape[0], patch, width)
        layers: list[nn.Module] = [SinusoidalEmbedding(width, shift=0, cosine_first=True)]
        if time_mlp:
            layers += [nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)]
        self.time = nn.Sequential(*layers)
        self.second_time = second_time
        self.between = second_embedding(width, width) if second_time else None
        self.classes = None if num_classes is None else nn.Embedding(num_classes + null_class, width)
        self.text = None if token_features is None else nn.Linear(token_features, width)
        extras = 1 + (num_classes is not None) + (num_tokens or 0)
        self.positions = nn.Parameter(torch.zeros(1, extras + self.grid[0] * self.grid[1], width))
        hidden = hidden_features(width, mlp_ratio)
        self.down = nn.ModuleList(_Block(width, heads, hidden, qkv_bias) for _ in range(depth // 2))
        self.middle = _Block(width, heads, hidden, qkv_bias)
        self.up = nn.ModuleList(_SkipBlock(width, heads, hidden, qkv_bias) for _ in range(depth // 2))
        self.norm = nn.LayerNorm(width)
        channels = outputs * shape[0]
        self.head = nn.Linear(width, patch * patch * channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if final_conv else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if self.between is not None:
            zero_init(self.between[-1])

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        check_conditioning(cond, self.conditioning)
        parts = []
        if self.classes is not None:
            parts.append(self.classes(cond.class_label)[:, None])
        time = self.time(label)
        if self.between is not None:
            time = time + self.between(torch.zeros_like(label) if between is None else between)
        parts.append(time[:, None])
        if self.text is not None:
            assert cond.tokens is not None
            if cond.tokens.shape[1] != self.num_tokens:
                raise ValueError(
                    f"num_tokens={self.num_tokens}: texts have {cond.tokens.shape[1]} tokens; each has a learned "
                    "position, so set network.num_tokens to their number."
                )
            parts.append(self.text(cond.tokens))
        parts.append(self.patches(x))
        tokens = torch.cat(parts, dim=1) + self.positions  # (B, E + T, W)
        skips = []
        for number, block in enumerate(self.down):
            tokens = run(block, tokens, checkpointed=number in self.checkpoint_levels)
            skips.append(tokens)
        middle = len(self.down)
        tokens = run(self.middle, tokens, checkpointed=middle in self.checkpoint_levels)
        for number, block in enumerate(self.up, middle + 1):
            tokens = run(block, tokens, skips.pop(), checkpointed=number in self.checkpoint_levels)
        patches = self.head(self.norm(tokens))[:, -self.grid[0] * self.grid[1] :]
        out: Tensor = self.conv(unpatchify(patches, self.patch, self.grid))
        return out


class _Block(nn.Module):
    """Self-attention and a feed-forward layer, each after a layer norm and with a residual."""

    def __init__(self, width: int, heads: int, hidden: int, qkv_bias: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads, qkv_bias)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.norm_attention(tokens))
        out: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return out


class _SkipBlock(_Block):
    """A block whose input is a linear function of tokens and the skip, concatenated."""

    def __init__(self, width: int, heads: int, hidden: int, qkv_bias: bool) -> None:
        super().__init__(width, heads, hidden, qkv_bias)
        self.join = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(self.join(torch.cat((tokens, skip), dim=2)))

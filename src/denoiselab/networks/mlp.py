"""A network for points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.networks.base import EmbeddedNetwork
from denoiselab.networks.checks import Levels, check_sizes, checkpointed_levels
from denoiselab.networks.conditioning import Conditioning, taken
from denoiselab.networks.embeddings import SinusoidalEmbedding, second_embedding
from denoiselab.networks.layers import run, zero_init


class MLP(EmbeddedNetwork):
    """Residual blocks of two linear layers with SiLU between, scaled and shifted by the time embedding.

    It is smooth in its input, as score matching needs, which differentiates it twice.

    Args:
        shape: Shape of a sample, (D,) for points; longer ones are flattened.
        width: Features of the hidden layers, divisible by 4 and at least 8; the embedding has half as many.
        depth: Number of blocks.
        num_classes: Classes of `class_label`; index `num_classes` is the null class. None for none.

    Further options and errors are those of `SharedOptions`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int = 128,
        depth: int = 3,
        num_classes: int | None = None,
        vector_features: int | None = None,
        outputs: int = 1,
        checkpoint_levels: Levels = (),
        second_time: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(
            {"depth": depth, "outputs": outputs, "num_classes": num_classes, "vector_features": vector_features}
        )
        if width < 8 or width % 4:
            raise ValueError(f"width={width}: it must be divisible by 4 and at least 8.")
        self.checkpoint_levels = checkpointed_levels(depth, checkpoint_levels)
        self.conditioning = taken(class_label=num_classes, vector=vector_features)
        features = width // 2
        self.time = nn.Sequential(SinusoidalEmbedding(features), nn.Linear(features, features))
        self.second_time = second_time
        self.between = second_embedding(features, features) if second_time else None
        self.classes = None if num_classes is None else nn.Embedding(num_classes + 1, features)
        self.vector = None if vector_features is None else nn.Linear(vector_features, features)
        self.stem = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(_Block(width, features) for _ in range(depth))
        self.head = zero_init(nn.Linear(width, outputs * math.prod(shape)))

    def forward(
        self, x: Tensor, label: Tensor, cond: Conditioning = Conditioning(), between: Tensor | None = None
    ) -> Tensor:
        embedding = F.silu(self.embed(label, cond, between))  # (B, E)
        h = self.stem(x.flatten(1))
        for number, block in enumerate(self.blocks):
            h = run(block, h, embedding, checkpointed=number in self.checkpoint_levels)
        out: Tensor = self.head(F.silu(h)).unflatten(1, (-1, *x.shape[2:]))
        return out


class _Block(nn.Module):
    """h + W2 silu((1 + scale) W1 h + shift), with scale and shift linear in the embedding."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.modulation = nn.Linear(features, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        out: Tensor = h + self.out(F.silu(self.hidden(h) * (1 + scale) + shift))
        return out

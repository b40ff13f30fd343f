"""The endless order of training images: a pure function of (seed, images seen)."""

from __future__ import annotations

import torch
from torch import Tensor


class IndexStream:
    """The image at each position of training: a new permutation per epoch.

    It has no state except a cache, so a resumed run continues the order, on any number of ranks.

    Args:
        size: Number of images.
        seed: Any non-negative integer.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._cache: dict[int, Tensor] = {}

    def __getitem__(self, positions: Tensor) -> Tensor:
        """Image indices `(B,)` at increasing positions `(B,)` int64."""
        epochs = torch.div(positions, self.size, rounding_mode="floor")
        indices = torch.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            indices[here] = self._permutation(epoch)[positions[here] - epoch * self.size]
        return indices

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._cache:
            self._cache = {k: v for k, v in self._cache.items() if k == epoch - 1}
            self._cache[epoch] = torch.randperm(self.size, generator=generator(self.seed, epoch))
        return self._cache[epoch]


def generator(seed: int, number: int) -> torch.Generator:
    """A generator for draw `number` (0, 1, ...) of a seed."""
    # Both numbers in one word: the odd multiplier (2^64 over the golden ratio) keeps the pairs distinct.
    return torch.Generator().manual_seed((seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**63)

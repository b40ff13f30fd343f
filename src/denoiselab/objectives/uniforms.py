"""Sources of uniform numbers, one a sample, that level distributions map to levels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.noise import Noise


class Uniforms(Protocol):
    """A source of numbers in (0, 1), each uniformly distributed; several of one batch may depend on each other."""

    def __call__(self, noise: Noise, /) -> Tensor:
        """One number a sample of `noise`, `(B,)` float64, a function of its seed and the sample's index."""
        ...


class Independent:
    """One number a sample, independent of all others."""

    def __call__(self, noise: Noise) -> Tensor:
        return noise.uniform()


class Antithetic:
    """Pairs u, 1 - u for samples 2k and 2k + 1 of training."""

    def __call__(self, noise: Noise) -> Tensor:
        u = noise.shared(2).uniform()
        return torch.where(noise.index % 2 == 0, u, 1 - u)


class Stratified:
    """One number in each of N equal parts of (0, 1).

    Args:
        batch_size: N, the samples of an optimizer step, over all ranks and accumulated batches.

    Raises:
        ValueError: If `batch_size` < 1.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
        self.batch_size = batch_size

    def __call__(self, noise: Noise) -> Tensor:
        return (noise.index % self.batch_size + self._offset(noise)) / self.batch_size

    def _offset(self, noise: Noise) -> Tensor:
        return noise.uniform()


class LowDiscrepancy(Stratified):
    """N equally spaced numbers with one random offset.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, appendix I.1.
    """

    def _offset(self, noise: Noise) -> Tensor:
        return noise.shared(self.batch_size).uniform()

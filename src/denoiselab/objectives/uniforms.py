"""Sources of uniform numbers, one a sample, that level distributions map to levels."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.noise import Noise


class Uniforms(Protocol):
    """A source of numbers in (0, 1), each uniform by itself."""

    def __call__(self, noise: Noise) -> Tensor:
        """`(B,)` float64."""
        ...


class Independent:
    """One number a sample, independent of all others."""

    def __call__(self, noise: Noise) -> Tensor:
        """`(B,)` float64."""
        return noise.uniform()


class Antithetic:
    """Pairs u, 1 - u at positions 2k and 2k + 1 of training."""

    def __call__(self, noise: Noise) -> Tensor:
        """`(B,)` float64."""
        u = noise.shared(2).uniform()
        return torch.where(noise.index % 2 == 0, u, 1 - u)


class Stratified:
    """One number in each of N equal parts of (0, 1), N the batch over all ranks and accumulated batches.

    Args:
        batch_size: N.

    Raises:
        ValueError: It is less than 1.
    """

    def __init__(self, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
        self.batch_size = batch_size

    def __call__(self, noise: Noise) -> Tensor:
        """`(B,)` float64."""
        return (noise.index % self.batch_size + self._offset(noise)) / self.batch_size

    def _offset(self, noise: Noise) -> Tensor:
        return noise.uniform()


class LowDiscrepancy(Stratified):
    """N equally spaced numbers with one random offset, N as in `Stratified`.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, appendix I.1.
    """

    def _offset(self, noise: Noise) -> Tensor:
        return noise.shared(self.batch_size).uniform()

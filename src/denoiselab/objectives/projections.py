"""Directions `(B, *)` with E v v^T = I, for sliced score matching (Song et al., arXiv 1905.07088, section 3.1)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.noise import Noise
from denoiselab.schedules.base import like


class Projection(Protocol):
    """Draws a direction for each sample."""

    def __call__(self, x: Tensor, noise: Noise, /) -> Tensor:
        """Directions v with E v v^T = I, in the shape and dtype of `x` `(B, *)`; random numbers come from `noise`."""
        ...


def gaussian(x: Tensor, noise: Noise) -> Tensor:
    """Standard normal, shaped like `x`."""
    return noise.like(x)


def rademacher(x: Tensor, noise: Noise) -> Tensor:
    """Each element 1 or -1, shaped like `x`; the least variance of the three."""
    return torch.where(noise.uniform(x.shape[1:]) < 0.5, -1.0, 1.0).to(x)


def sphere(x: Tensor, noise: Noise) -> Tensor:
    """Uniform on the sphere of radius sqrt(D), shaped like `x`."""
    v = noise.like(x)
    return v * like(v[0].numel() ** 0.5 / v.flatten(1).norm(dim=1), v)

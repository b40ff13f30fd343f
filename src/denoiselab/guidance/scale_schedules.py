"""Scales of guidance that depend on the noise level: guidance acts with neutral + f (scale - neutral).

The factor f is a function of u = 2 / pi atan(sigma / alpha), from 0 at the data to 1 at pure noise: the time of the
cosine schedule, where the sources have theirs. It is evaluated at the level of each call, so that the order of samplers
is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from denoiselab.samplers.checks import check_positive
from denoiselab.schedules import Level


class ScaleSchedule(Protocol):
    """A factor on the distance of the scale from neutral."""

    def __call__(self, level: Level, /) -> Tensor:
        """The factor f at a level, shaped like it."""
        ...


@dataclass(frozen=True)
class LinearScale:
    """f = 2 (1 - u): rises towards the data, with mean 1.

    Source: Wang et al., Analysis of Classifier-Free Guidance Weight Schedulers, arXiv 2404.13040, table 1.
    """

    def __call__(self, level: Level, /) -> Tensor:
        """The factor f at a level, shaped like it."""
        return 2 * (1 - _share(level))


@dataclass(frozen=True)
class CosineScale:
    """f = 1 + cos(pi u): rises towards the data, with mean 1.

    Source: Wang et al., Analysis of Classifier-Free Guidance Weight Schedulers, arXiv 2404.13040, table 1.
    """

    def __call__(self, level: Level, /) -> Tensor:
        """The factor f at a level, shaped like it."""
        return 1 + torch.cos(math.pi * _share(level))


@dataclass(frozen=True)
class PowerCosineScale:
    """f = (1 - cos(pi (1 - u)^power)) / 2: from 0 at pure noise to 1 at the data.

    Source: Gao et al., Masked Diffusion Transformer, arXiv 2303.14389, appendix.

    Args:
        power: The larger, the later it rises.

    Raises:
        ValueError: If power <= 0.
    """

    power: float = 4.0

    def __post_init__(self) -> None:
        check_positive("power", self.power)

    def __call__(self, level: Level, /) -> Tensor:
        """The factor f at a level, shaped like it."""
        return (1 - torch.cos(math.pi * (1 - _share(level)) ** self.power)) / 2


def _share(level: Level) -> Tensor:
    return torch.atan2(level.sigma, level.alpha) * (2 / math.pi)

"""What a condition is made of, and what makes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class Clean(NamedTuple):
    """A batch as the data set has it: all that its condition may be made of.

    Args:
        images: `(B, *)`, samples in the network's range, before any codec.
        labels: `(B,)` int64, classes.
        captions: A text each; None where the data have none.
        augmentation: `(B, A)`, how the images were augmented; None where they were not.
    """

    images: Tensor
    labels: Tensor
    captions: Sequence[str] | None = None
    augmentation: Tensor | None = None

    @classmethod
    def blank(cls, count: int, shape: Sequence[int], device: torch.device | None = None) -> Clean:
        """`count` samples of this shape that say nothing: zeros, class 0, empty captions."""
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        return cls(torch.zeros(count, *shape, device=device), labels, [""] * count)


# Takes indices `(B,)` int64 of any size, and gives held-out samples, in turn.
HeldOut = Callable[[Tensor], Clean]


class Conditioner(ABC):
    """Makes the network's conditioning.

    Attributes:
        names: The fields it gives.
        strata: Sample i is conditioned as sample i mod strata is; 1 where samples are drawn independently.
        guided_channels: Classifier-free guidance acts on the first of these many channels; None for all.
    """

    names: frozenset[str] = frozenset()
    strata: int = 1
    guided_channels: int | None = None

    @abstractmethod
    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        """The condition of a training batch, at times dropped."""

    @abstractmethod
    def given(self, clean: Clean) -> Conditioning:
        """The condition of known samples, never dropped."""

    @abstractmethod
    def sample(self, index: Tensor) -> Conditioning:
        """The condition of samples `index` `(B,)` int64 to be drawn: a function of the index alone."""

    def described(self, index: Tensor) -> list[str] | None:
        """The condition of samples `index` in words, for pictures; None where it has none."""
        return None

    def null(self, index: Tensor) -> Conditioning:
        """What stands for no condition of samples `index` to classifier-free guidance; no fields: nothing does."""
        return Conditioning()

    def meet(self, held_out: HeldOut) -> None:  # noqa: B027
        """Be told of the held-out data, for conditions of samples that come from them."""


class Unconditional(Conditioner):
    """No conditioning."""

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        """No fields."""
        return Conditioning()

    def given(self, clean: Clean) -> Conditioning:
        """No fields."""
        return Conditioning()

    def sample(self, index: Tensor) -> Conditioning:
        """No fields."""
        return Conditioning()

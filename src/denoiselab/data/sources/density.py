"""The base class of data drawn from a density."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from denoiselab.data.loading.stream import generator
from denoiselab.data.points import PointSet

_TRAIN, _HELD_OUT, _FRESH = 0, 1, 2  # numbers of the draws; from 2 on they are new samples


@dataclass
class Density(ABC):
    """A density that can be sampled. A subclass is a dataclass, which adds its own options to these.

    Args:
        name: Of the data set in scores and folders.
        shape: Of a sample; configured so that a network can be built without the data.
        num_classes: The density's number of classes.
        size: Training samples.
        held_out: Samples of a second draw, the reference of scores.
        seed: Of all draws.

    Raises:
        ValueError: If a value is out of range.
    """

    classes: ClassVar[int]

    name: str
    shape: Sequence[int]
    num_classes: int
    size: int
    held_out: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if self.num_classes != self.classes:
            raise ValueError(f"data.num_classes={self.num_classes}: {type(self).__name__} has {self.classes}.")
        for option, value in (("size", self.size), ("held_out", self.held_out)):
            if value < 1:
                raise ValueError(f"data.{option}={value}: it must be at least 1.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"data.seed={self.seed}: it must be at least 0 and less than 2^63.")

    def load(self) -> tuple[PointSet, PointSet]:
        """(train, held-out): two independent draws."""
        return self._draw(self.size, _TRAIN), self._draw(self.held_out, _HELD_OUT)

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> PointSet:
        """`n` independent samples from `generator`."""

    def _draw(self, n: int, number: int) -> PointSet:
        return self.draw(n, generator(self.seed, number))

    def _fresh(self, n: int, number: int) -> PointSet:
        return self._draw(n, _FRESH + number)

"""Sets of points, or of other samples that are real numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from denoiselab.data.base import digest
from denoiselab.noise import Noise


@dataclass(frozen=True, eq=False)
class PointSet:
    """Labelled points in memory; the network sees them as they are.

    Args:
        points: `(N, D)` float32, or `(N, *)`.
        labels: `(N,)` int64.
        source: Fresh draws `(n, number)` of the same density; None where there is none.
        captions: One a sample; None where there are none.
    """

    workers: ClassVar[int] = 0

    points: Tensor
    labels: Tensor
    source: Callable[[int, int], PointSet] | None = None
    captions: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of shape, points and labels."""
        return digest(self.points, self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,)."""
        return tuple(self.points.shape[1:])

    def stored(self, index: Tensor) -> Tensor:
        """The points at `index` `(B,)`, `(B, D)`."""
        return self.points[index]

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        """As `stored`."""
        return self.points[index]

    def inputs(self, index: Tensor) -> Tensor:
        """As `stored`."""
        return self.points[index]

    def fresh(self, n: int, number: int) -> PointSet | None:
        """Fresh draw `number` of `n` points, if the set has a source."""
        return None if self.source is None else self.source(n, number)

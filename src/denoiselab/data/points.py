"""Sets of points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from denoiselab.data.base import digest


@dataclass(frozen=True, eq=False)
class PointSet:
    """Labelled points in memory; the network sees them as they are.

    Args:
        points: `(N, D)` float32.
        labels: `(N,)` int64.
        source: Fresh draws `(n, number)` of the same density; None where there is none.
    """

    points: Tensor
    labels: Tensor
    source: Callable[[int, int], PointSet] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of shape, points and labels."""
        return digest(self.points, self.labels)

    @property
    def stored(self) -> Tensor:
        """The points."""
        return self.points

    def inputs(self, index: Tensor) -> Tensor:
        """The points at `index` `(B,)`, `(B, D)`."""
        return self.points[index]

    def fresh(self, n: int, number: int) -> PointSet | None:
        """Fresh draw `number` of `n` points, if the set has a source."""
        return None if self.source is None else self.source(n, number)

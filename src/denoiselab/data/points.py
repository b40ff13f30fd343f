"""Points in memory, or other samples of real numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from denoiselab.data.base import InMemory


@dataclass(frozen=True, eq=False)
class PointSet(InMemory):
    """Labelled points in memory; the network takes them unchanged.

    Args:
        points: `(N, D)` float32, or `(N, *)`.
        source: Called as `source(n, number)` for new draws from the same density; None if it is unknown.
        covers: Says which points `(B, D)` the density covers, `(B,)` bool; None if that is unknown, or all.
    """

    points: Tensor
    labels: Tensor
    source: Callable[[int, int], PointSet] | None = None
    captions: Sequence[str] | None = None
    covers: Callable[[Tensor], Tensor] | None = None

    @property
    def samples(self) -> Tensor:
        return self.points

    def inputs(self, index: Tensor) -> Tensor:
        return self.points[index]

    def fresh(self, n: int, number: int) -> PointSet | None:
        """Draw `number` of `n` new points; None without a source."""
        return None if self.source is None else self.source(n, number)

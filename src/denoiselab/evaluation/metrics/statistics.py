"""Mean and covariance of features, from float64 sums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.evaluation.ranks import gathered, is_distributed

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as int64, whose sign is the half of the circle


class Moments(NamedTuple):
    """Mean and covariance of a set of features.

    Attributes:
        n: Number of features.
        mean: `(D,)` float64.
        covariance: `(D, D)` float64, with the unbiased divisor n - 1.
        first: Some of the features, `(m, D)` float64, 0 <= m <= n.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    first: Tensor = torch.empty(0, 0)


class GaussianStatistics:
    """Running sums n, sum x, sum x x^T in float64, the same for any split into batches and ranks but for rounding.

    They are of x less the mean of the first batch, as the covariance of features far from the origin is lost otherwise.
    The sums of two halves of the features are kept apart, so that a metric can be evaluated at half the number of
    samples; the first features are kept, so that a metric has a standard error without a second pass.

    Args:
        dimension: Of the features.
        features: Maps what is added to features; None if features are added.
        kept: Number of first features that are kept.
        start: Index, among the samples of all ranks, of the first that is added.
        strata: Sample i is drawn from stratum i mod strata, of which at least 2 features are kept; 1: independently.
    """

    def __init__(
        self,
        dimension: int,
        features: Callable[[Tensor], Tensor] | None = None,
        kept: int = 2048,
        start: int = 0,
        strata: int = 1,
    ) -> None:
        self._features, self._kept, self._start, self._seen = features, max(kept, 2 * strata), start, 0
        self.strata = strata
        self.origin = torch.zeros(dimension, dtype=torch.float64)
        self.counts = torch.zeros(2, dtype=torch.float64)
        self.sums = torch.zeros(2, dimension, dtype=torch.float64)
        self.outers = torch.zeros(2, dimension, dimension, dtype=torch.float64)
        self.rows = [torch.empty(0, dimension, dtype=torch.float64)]

    def update(self, samples: Tensor) -> None:
        """Add features `(B, D)`, or samples `(B, *)` if there is a map to features.

        Raises:
            ValueError: If a feature is not finite.
        """
        x = samples if self._features is None else self._features(samples)
        check_finite(x, self._seen)
        if x.is_cuda and not self.outers.is_cuda:
            self._to(x.device)  # double precision is fast there, and the features need not travel
        x = x.to(self.outers.device, torch.float64)
        if not self._seen and len(x):
            self.origin = x.mean(0)
        second = in_second_half(torch.arange(len(x), device=x.device) + self._start + self._seen)
        centred = x - self.origin
        for half, part in enumerate((centred[~second], centred[second])):
            self.counts[half] += len(part)
            self.sums[half] += part.sum(0)
            self.outers[half] += part.T @ part
        if self._seen < self._kept:
            self.rows.append(x[: self._kept - self._seen])
        self._seen += len(x)

    def state(self) -> dict[str, Tensor]:
        """The sums and the first features, by which more samples are added later; see `load`."""
        return {
            "origin": self.origin,
            "counts": self.counts,
            "sums": self.sums,
            "outers": self.outers,
            "rows": torch.cat(self.rows),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Begin with the samples of a `state`, which come before all others."""
        self.origin, self.counts, self.sums, self.outers = (
            state[name].clone() for name in ("origin", "counts", "sums", "outers")
        )
        self.rows, self._seen = [state["rows"].clone()], self.n

    def compute(self) -> Moments:
        """Mean and covariance of all features."""
        return Moments(self.n, self.mean, self.covariance)

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks, by collectives on `device`."""
        if is_distributed():
            self._to(device)
            origin = self.origin.clone()
            dist.broadcast(origin, 0)
            self._move(origin)
            self.counts, self.sums, self.outers = (
                torch.stack(gathered(sums, device)).sum(0) for sums in (self.counts, self.sums, self.outers)
            )
            self.rows = [torch.cat(gathered(torch.cat(self.rows), device))[: self._kept]]
        self._to(torch.device("cpu"))

    def _to(self, device: torch.device) -> None:
        self.origin, self.counts = self.origin.to(device), self.counts.to(device)
        self.sums, self.outers = self.sums.to(device), self.outers.to(device)
        self.rows = [rows.to(device) for rows in self.rows]

    def _move(self, origin: Tensor) -> None:
        """Make the sums those about another origin `(D,)`."""
        by, self.origin = self.origin - origin, origin
        for half, n in enumerate(self.counts):
            cross = torch.outer(self.sums[half], by)
            self.outers[half] += cross + cross.T + n * torch.outer(by, by)
            self.sums[half] += n * by

    @property
    def n(self) -> int:
        """Number of features."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Tensor:
        """`(D,)` float64."""
        return (self.origin + self.sums.sum(0) / self.n).cpu()

    @property
    def covariance(self) -> Tensor:
        """`(D, D)` float64, with the unbiased divisor n - 1."""
        return _covariance(self.n, self.sums.sum(0), self.outers.sum(0))

    @property
    def halves(self) -> list[Moments]:
        """Those of the features of each half."""
        first = self.first
        second, out = in_second_half(torch.arange(len(first))), []
        for which, n, x, xx in zip((~second, second), self.counts, self.sums, self.outers, strict=True):
            out.append(Moments(int(n), (self.origin + x / n).cpu(), _covariance(n, x, xx), first[which]))
        return out

    @property
    def first(self) -> Tensor:
        """The first features `(m, D)` float64: `kept` of them, or all n."""
        return torch.cat(self.rows).cpu()

    @property
    def fingerprint(self) -> str:
        """sha256 of the sums."""
        digest = hashlib.sha256(self.origin.cpu().numpy().tobytes())
        for tensor in (self.counts, self.sums, self.outers):
            digest.update(tensor.sum(0).cpu().numpy().tobytes())
        return digest.hexdigest()


def in_second_half(index: Tensor) -> Tensor:
    """Which samples of an index `(B,)` int64 belong to the second half, `(B,)` bool.

    By the golden ratio's multiples, which fall evenly into both halves of the circle along any progression: samples of
    a class-conditional model are of class i mod K, and each class is halved.
    """
    return index * _GOLDEN < 0


def check_finite(features: Tensor, before: int) -> None:
    """Check that features `(B, D)` are finite; `before` samples came before them.

    Raises:
        ValueError: If one is not; the message says which sample's.
    """
    if not bool(features.isfinite().all()):
        bad = before + int((~features.isfinite().all(1)).nonzero()[0])
        rank = f" of rank {dist.get_rank()}" if is_distributed() else ""
        raise ValueError(f"the features of sample {bad}{rank} are not finite.")


def _covariance(n: Tensor | int, x: Tensor, xx: Tensor) -> Tensor:
    return ((xx - torch.outer(x, x) / n) / (n - 1)).cpu()

"""What scores keep of features: float64 sums, and whole features on disk for the metrics that need them."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

_CHUNK = 4096  # rows of features sent from rank to rank at once
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio, as int64, whose sign is the half of the circle


class Moments(NamedTuple):
    """Mean and covariance of a set of features.

    Args:
        n: Number of features.
        mean: `(D,)` float64.
        covariance: `(D, D)` float64, with the unbiased divisor n - 1.
        first: Features at hand `(m, D)` float64, of which there may be none.
    """

    n: int
    mean: Tensor
    covariance: Tensor
    first: Tensor = torch.empty(0, 0)


class GaussianStatistics(Metric):
    """Running sums n, sum x, sum x x^T in float64, the same for any split into batches and ranks but for rounding.

    They are of x less the mean of the first batch, as the covariance of features far from the origin is lost otherwise.
    The sums of two halves of the features are kept apart, so that a metric can be seen at half the number of samples;
    the first features are kept as they are, so that a metric has a standard error without a second pass.

    Args:
        dimension: Of the features.
        features: Maps what is added to features; None where features are added.
        kept: Number of first features that are kept.
        start: Index, among the samples of all ranks, of the first that is added.
        strata: Sample i is drawn from stratum i mod strata, of which at least 2 features are kept; 1: independently.
    """

    is_differentiable = False
    full_state_update = False
    origin: Tensor
    counts: Tensor
    sums: Tensor
    outers: Tensor
    rows: list[Tensor]

    def __init__(
        self,
        dimension: int,
        features: Callable[[Tensor], Tensor] | None = None,
        kept: int = 2048,
        start: int = 0,
        strata: int = 1,
    ) -> None:
        super().__init__(sync_on_compute=False)
        self._features, self._kept, self._start, self._seen = features, max(kept, 2 * strata), start, 0
        self.strata = strata
        self.register_buffer("origin", torch.zeros(dimension, dtype=torch.float64), persistent=False)
        self.add_state("counts", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sums", torch.zeros(2, dimension, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outers", torch.zeros(2, dimension, dimension, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.rows.append(torch.empty(0, dimension, dtype=torch.float64))

    def update(self, samples: Tensor) -> None:
        """Add features `(B, D)`, or samples `(B, *)` that have features.

        Raises:
            ValueError: A feature is not finite.
        """
        x = samples if self._features is None else self._features(samples)
        check_finite(x, self._seen)
        if x.is_cuda and not self.outers.is_cuda:
            self.to(x.device)  # double precision is fast there, and the features need not travel
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

    def compute(self) -> Moments:
        """Mean and covariance of all features."""
        return Moments(self.n, self.mean, self.covariance)

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks; the copies go by way of `device`."""
        if dist.is_available() and dist.is_initialized():
            self.to(device)
            origin = self.origin.clone()
            dist.broadcast(origin, 0)
            self._move(origin)
            self.sync()
            joined = self.counts, self.sums, self.outers, self.rows
            self.unsync()  # else the next compute() would
            self.counts, self.sums, self.outers, rows = joined
            self.rows = [rows[: self._kept]]  # type: ignore[list-item]  # torchmetrics made one tensor of the list
        self.to("cpu")

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
        """The first features `(m, D)` float64, of which there are `kept` or n."""
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


class FeatureFile:
    """Features in the order of samples, whatever the split into batches and ranks, in an unnamed temporary file.

    Args:
        dimension: Of the features.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension, self.n = dimension, 0
        self._file = tempfile.TemporaryFile(prefix="denoiselab-features-")  # noqa: SIM115  closed with the object

    def update(self, features: Tensor) -> None:
        """Add features `(B, D)`.

        Raises:
            ValueError: A feature is not finite.
            OSError: The disk is full.
        """
        check_finite(features, self.n)
        self._file.write(features.to("cpu", torch.float32).contiguous().numpy().tobytes())
        self._file.flush()  # a full disk is told here, where it can be answered
        self.n += len(features)

    def reduce(self, device: torch.device) -> None:
        """Append those of the other ranks to the first rank's, in the order of ranks; the rest keep their own.

        Raises:
            OSError: The first rank's disk is full; on all ranks.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return
        counts = [int(count) for count in gather_all_tensors(torch.tensor(self.n, device=device))]
        own = self.features
        full: list[OSError | None] = [None]
        for source, count in enumerate(counts[1:], start=1):
            for start in range(0, count, _CHUNK):
                rows = min(_CHUNK, count - start)
                if dist.get_rank() == source:
                    dist.send(own[start : start + rows].to(device), 0)
                elif dist.get_rank() == 0:
                    buffer = torch.empty(rows, self._dimension, device=device)
                    dist.recv(buffer, source)
                    try:
                        if full[0] is None:
                            self.update(buffer)
                    except OSError as error:  # the others go on sending
                        full[0] = error
        dist.broadcast_object_list(full, 0)
        if full[0] is not None:
            raise full[0]

    @property
    def features(self) -> Tensor:
        """`(n, D)` float32, mapped from the file."""
        if not self.n:
            return torch.empty(0, self._dimension)
        mapped = np.memmap(self._file, np.float32, "c", shape=(self.n, self._dimension))
        return torch.from_numpy(mapped)


def standard_error(influence: Tensor, n: int, strata: int = 1) -> float | None:
    """That of the mean of n influences; None where a stratum has less than 2 of those at hand.

    Source: Cochran, Sampling Techniques, 3rd ed., eq. 5.8: strata are drawn in proportion, so that what differs between
    them adds no variance.

    Args:
        influence: Those at hand `(m,)`, the first of the n.
        n: Number of samples.
        strata: Sample i is drawn from stratum i mod strata.
    """
    if len(influence) < 2 * strata:
        return None
    stratum = torch.arange(len(influence)) % strata
    counts = stratum.bincount().double()
    means = torch.zeros(strata, dtype=torch.float64).index_add_(0, stratum, influence.double()) / counts
    squares = (influence - means[stratum]).square() * (counts / (counts - 1))[stratum]
    return float((squares.mean() / n).sqrt())


def second_order(differences: Tensor, n: int) -> float:
    """The variance that the second order adds to a statistic of n samples.

    A quadratic form <d, H d> / 2 of the mean d of n draws of covariance S has the variance tr (H S)^2 / 2 n^2 about its
    stationary point, and twice that in its infinitesimal jackknife. With the second influence phi of two samples, this
    is E phi^2 / 2 n^2 but for terms of one of them alone. Those terms, and what strata differ in, cancel in the double
    difference phi(a, b) - phi(a, b') - phi(a', b) + phi(a', b'), with a, a' of one stratum and b, b' of one, whose
    mean square is four times that of phi. Source: Efron and Stein, The jackknife estimate of variance, 1981.

    Args:
        differences: Double differences of independent samples `(k,)`; without any, 0.
        n: Number of samples.
    """
    return float(differences.square().mean()) / 8 / n**2 if len(differences) else 0.0


def without_second_order(jackknife: float, second: float) -> float:
    """The standard error, from the jackknife's, which holds the second order's variance twice, and that variance."""
    first = jackknife**2
    # An estimate near zero has an error of its own; half of the second order is left in any case.
    return math.sqrt(min(first, max(first - second, second / 2)))


def check_finite(features: Tensor, before: int) -> None:
    """Refuse features `(B, D)` that are not finite; `before` samples came before them.

    Raises:
        ValueError: Says which sample's.
    """
    if not bool(features.isfinite().all()):
        bad = before + int((~features.isfinite().all(1)).nonzero()[0])
        rank = f" of rank {dist.get_rank()}" if dist.is_available() and dist.is_initialized() else ""
        raise ValueError(f"the features of sample {bad}{rank} are not finite.")


def _covariance(n: Tensor | int, x: Tensor, xx: Tensor) -> Tensor:
    return ((xx - torch.outer(x, x) / n) / (n - 1)).cpu()

"""The interface of a data set, and what sets in memory share."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Protocol

from torch import Tensor

from denoiselab.noise import Noise


class DataSet(Protocol):
    """Labelled samples, in memory or in files: as they are stored and as the network takes them.

    One with a class for each pixel has an attribute `maps`, a function of indices `(B,)` to classes `(B, H, W)` int64.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (C, H, W) of images, (D,) of points."""

    @property
    def labels(self) -> Tensor:
        """Classes `(N,)` int64."""

    @property
    def captions(self) -> Sequence[str] | None:
        """One per sample, or None."""

    @property
    def fingerprint(self) -> str:
        """sha256 of samples and labels."""

    @property
    def workers(self) -> int:
        """Number of processes that load batches in advance during training; 0 if loading is fast."""

    def __len__(self) -> int:
        """Number of samples."""

    def stored(self, index: Tensor) -> Tensor:
        """The samples at `index` `(B,)` as stored and scored, `(B, *)`: bytes for images, float32 otherwise."""

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        """As `stored`, for a training batch: random crops are drawn from `noise`."""

    def inputs(self, index: Tensor) -> Tensor:
        """The samples at `index` `(B,)` in the network's range, float32 `(B, *)`."""

    def fresh(self, n: int, number: int) -> DataSet | None:
        """Draw `number` (0, 1, ...) of `n` new samples from the same density; None if the density is unknown."""


class InMemory(ABC):
    """A `DataSet` whose samples are one tensor."""

    workers: ClassVar[int] = 0
    labels: Tensor

    @property
    @abstractmethod
    def samples(self) -> Tensor:
        """All samples as stored, `(N, *)`."""

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the shape and the bytes of the samples, and of the labels."""
        out = hashlib.sha256(repr(tuple(self.samples.shape)).encode())
        out.update(self.samples.contiguous().numpy().tobytes())
        out.update(self.labels.contiguous().numpy().tobytes())
        return out.hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.samples.shape[1:])

    def stored(self, index: Tensor) -> Tensor:
        return self.samples[index]

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        return self.samples[index]

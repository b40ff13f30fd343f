"""What a data set is to the rest of the program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from denoiselab.noise import Noise


class DataSet(Protocol):
    """Labelled samples, in memory or in files, as they are stored and as the network sees them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a sample: (C, H, W) of images, (D,) of points."""
        ...

    @property
    def labels(self) -> Tensor:
        """Classes `(N,)` int64."""
        ...

    @property
    def captions(self) -> Sequence[str] | None:
        """One a sample; None where there are none."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of samples and labels."""
        ...

    @property
    def workers(self) -> int:
        """Processes that read batches ahead in training; 0 where reading one costs next to nothing."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def stored(self, index: Tensor) -> Tensor:
        """The samples at `index` `(B,)` as they are kept and scored, `(B, *)`: bytes of images, float32 of the rest."""
        ...

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        """As `stored`, for a training batch: where images are cropped at random, `noise` says where."""
        ...

    def inputs(self, index: Tensor) -> Tensor:
        """The samples at `index` `(B,)` in the network's range, float32 `(B, *)`."""
        ...

    def fresh(self, n: int, number: int) -> DataSet | None:
        """Fresh draw `number` (0, 1, ...) of `n` samples of the same density; None where the density is not known."""
        ...


def digest(samples: Tensor, labels: Tensor) -> str:
    """sha256 of the shape and the bytes of `samples` `(N, *)`, and of `labels` `(N,)`."""
    out = hashlib.sha256(repr(tuple(samples.shape)).encode())
    out.update(samples.contiguous().numpy().tobytes())
    out.update(labels.contiguous().numpy().tobytes())
    return out.hexdigest()

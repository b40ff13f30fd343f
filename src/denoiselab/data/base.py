"""What a data set is to the rest of the program."""

from __future__ import annotations

import hashlib
from typing import Protocol

from torch import Tensor


class DataSet(Protocol):
    """Labelled samples in memory, as they are stored and as the network sees them."""

    @property
    def stored(self) -> Tensor:
        """The samples as they are kept and scored, `(N, *)`: bytes of images, float32 points."""
        ...

    @property
    def labels(self) -> Tensor:
        """Classes `(N,)` int64."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of samples and labels."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
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

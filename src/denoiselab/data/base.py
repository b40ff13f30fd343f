"""What a data set is to the rest of the program."""

from __future__ import annotations

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

"""What the frontier asks of a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from denoiselab.data import DataSet


class Statistics(Protocol):
    """What a score keeps of a set of samples."""

    @property
    def n(self) -> Any:
        """Samples so far."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of what was kept."""
        ...

    def update(self, samples: Tensor) -> None:
        """Add stored samples `(B, *)`."""
        ...

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks; the copies go by way of `device`."""
        ...


S = TypeVar("S", bound=Statistics)


class Score(NamedTuple):
    """The value of a metric, and the standard error of its sampling; None where it has no estimate."""

    value: float
    standard_error: float | None = None


class Scorer(Protocol[S]):
    """Metrics of a set of samples against another, with the identity that a score's protocol names."""

    name: str
    fingerprint: str
    metric: str  # the primary one
    lower_is_better: Mapping[str, bool]  # by name of the metric
    split: str  # what scores are taken against: "train" or "held_out"
    facts: Mapping[str, Any]  # for the record
    told: str  # for the user

    def statistics(self) -> S:
        """Statistics of no sample."""
        ...

    def scores(self, statistics: S, reference: S) -> dict[str, Score]:
        """Name of each metric to the score of samples against a reference; `metric` comes first."""
        ...


class Extractor(Protocol):
    """Makes the scorer of a data set."""

    def check(self, shape: Sequence[int]) -> None:
        """Refuse samples that it cannot score.

        Raises:
            ValueError: Samples of this shape.
        """
        ...

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        cache: Path,
        check: Callable[[int], None] = ...,
        *,
        shown: bool = True,
    ) -> Scorer[Any]:
        """The scorer, from `cache` if it is there; what `check` raises between steps stops it."""
        ...

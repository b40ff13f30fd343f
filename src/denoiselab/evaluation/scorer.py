"""What the frontier asks of a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from denoiselab.data import DataSet


class Reference(Protocol):
    """What a score keeps of the data."""

    @property
    def n(self) -> int:
        """Number of samples."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of what was kept."""
        ...


class Statistics(Reference, Protocol):
    """What a score keeps of a set of samples."""

    def update(self, samples: Tensor) -> None:
        """Add stored samples `(B, *)`."""
        ...

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks; the copies go by way of `device`."""
        ...


S = TypeVar("S", bound=Statistics)
R = TypeVar("R", bound=Reference)


@dataclass(frozen=True)
class Given:
    """A reference that the user names.

    Args:
        path: Of the file.
        n: Number of its images, where the user gives it.
        any_data: It may be of other data than the run's.
    """

    path: Path
    n: int | None
    any_data: bool = False


class Score(NamedTuple):
    """The value of a metric.

    Args:
        value: NaN where there is none.
        standard_error: Of its sampling; None where it has no estimate.
        reason: Why there is no value.
    """

    value: float
    standard_error: float | None = None
    reason: str | None = None


class Scorer(Protocol[S, R]):
    """Metrics of a set of samples against another, with the identity that a score's protocol names."""

    name: str
    fingerprint: str
    metric: str  # the primary one
    lower_is_better: Mapping[str, bool]  # by name of the metric
    split: str  # what scores are taken against: "train" or "held_out"
    facts: Mapping[str, Any]  # for the record
    told: str  # for the user

    def statistics(self, start: int = 0, strata: int = 1) -> S:
        """Statistics of no sample; the first to come has index `start` among those of all ranks.

        Sample i is drawn from stratum i mod `strata`; 1 where samples are drawn independently.
        """
        ...

    def reference(
        self,
        data: DataSet,
        identity: Mapping[str, Any],
        cache: Path,
        device: torch.device,
        given: Given | None = ...,
        *,
        shown: bool = ...,
    ) -> R:
        """What scores are taken against: of `data`, named by `identity`, or what was given.

        Raises:
            ValueError: It does not fit the scorer.
        """
        ...

    def scores(self, statistics: S, reference: R) -> dict[str, Score]:
        """Name of each metric to the score of samples against a reference; `metric` comes first."""
        ...


class Measure(NamedTuple):
    """What scores samples.

    Args:
        scorer: Measures them.
        reference: That scorer's statistics of the data.
    """

    scorer: Scorer[Any, Any]
    reference: Reference


class Extractor(Protocol):
    """Makes the scorer of a data set.

    `metrics` are objects of denoiselab.evaluation.metrics.of_features by name, and `settings` their configuration.
    """

    def check(
        self, shape: Sequence[int], metrics: Mapping[str, Any], num_samples: int | None, given: Given | None = ...
    ) -> None:
        """Refuse what it cannot score, before anything is trained.

        Raises:
            ValueError: Samples of this shape, these metrics of so many samples, or this reference.
        """
        ...

    def check_data(self, train: DataSet) -> None:
        """Refuse training data that it cannot learn from, before anything is trained.

        Raises:
            ValueError: It cannot.
        """
        ...

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Any],
        settings: Mapping[str, Any],
        cache: Path,
        check: Callable[[int], None] = ...,
        *,
        shown: bool = True,
    ) -> Scorer[Any, Any]:
        """The scorer, from `cache` if it is there; what `check` raises between steps stops it."""
        ...

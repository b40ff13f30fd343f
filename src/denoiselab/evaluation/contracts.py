"""What scores samples: the contracts of extractors, scorers and references.

A choice of `conf/evaluation/extractor` is an `Extractor`: it makes the `Scorer` of a data set. `feature_contracts` has
those of metrics of features. A part that breaks its contract is refused with the expected call and what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from denoiselab.data import DataSet

# How the name of a metric ends that is extrapolated to infinitely many samples.
INFINITY = "_infinity"


class ContractError(TypeError):
    """A part does not return what its contract asks for; the message names the part, the call and what was found."""


@dataclass(frozen=True, eq=False)
class Influences:
    """Derivatives of a score by the weights of its samples, from which two scores on the same noise are compared.

    Args:
        first: Of samples 0 to m - 1, `(m,)`, m <= n, with any mean.
        second: Double differences of the second influence, `(P,)`, as of `standard_errors.second_order`, of
            `verdicts.paired.pairs` of samples; empty if the second order has no estimate.
        n: Number of samples.
        strata: Sample i is drawn from stratum i mod strata.
        blocks: Values of the metric on subsets of the samples, `(B,)`, of which the score is the mean; the subsets are
            the same for all scores of n samples. Empty if the score is that of all samples.
    """

    first: Tensor
    second: Tensor
    n: int
    strata: int = 1
    blocks: Tensor = field(default_factory=lambda: torch.empty(0))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Influences) or (self.n, self.strata) != (other.n, other.strata):
            return False
        return all(torch.equal(getattr(self, name), getattr(other, name)) for name in ("first", "second", "blocks"))

    __hash__ = object.__hash__


class Score(NamedTuple):
    """The value of a metric.

    Attributes:
        value: NaN if there is none.
        standard_error: Of drawing the samples; None if it has no estimate.
        reason: Why there is no value.
        influences: Of the samples on the value; None if the metric does not compute them.
    """

    value: float
    standard_error: float | None = None
    reason: str | None = None
    influences: Influences | None = None


@dataclass(frozen=True)
class Given:
    """A reference file that the user names.

    Args:
        path: Of the file.
        n: Number of its images, if the user gives it.
        any_data: Accept a file of other data than the run's.
    """

    path: Path
    n: int | None
    any_data: bool = False


@dataclass(frozen=True)
class Workspace:
    """Where files that are made once are kept, and how making them is observed.

    Args:
        cache: Folder of the files.
        check: Called between steps; an exception that it raises stops the work.
        shown: Whether to show progress bars.
    """

    cache: Path
    check: Callable[[int], None] = lambda step: None
    shown: bool = True


class Reference(Protocol):
    """Statistics of a set of data."""

    @property
    def n(self) -> int:
        """Number of samples."""
        ...

    @property
    def fingerprint(self) -> str:
        """sha256 of the statistics."""
        ...


class Statistics(Reference, Protocol):
    """Statistics of a set of samples that are added batch by batch."""

    def update(self, samples: Tensor) -> None:
        """Add stored samples `(B, *)`: uint8 for images, else float32.

        Raises:
            ValueError: If a sample has no finite statistics.
            OSError: If the disk is full.
        """
        ...

    def reduce(self, device: torch.device) -> None:
        """Join the statistics of all ranks, in the order of ranks, by collectives on `device`."""
        ...


@runtime_checkable
class Growing(Statistics, Protocol):
    """Statistics to which samples can be added after they have been scored, by another process too."""

    @property
    def dimension(self) -> int:
        """Of what is scored."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that `load` needs, after `reduce`; on the first rank, of all samples."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Begin empty statistics with the samples of a state; samples that are added later follow them."""
        ...


S = TypeVar("S", bound=Statistics)
R = TypeVar("R", bound=Reference)


class Scorer(Protocol[S, R]):
    """Metrics of samples against a reference.

    Attributes:
        name: Of the extractor, in scores.
        fingerprint: sha256 of its weights and options.
        metric: Name of the primary metric.
        lower_is_better: By name of the metric.
        split: What scores are taken against: "train" or "held_out".
        facts: For the record: what else scores depend on.
        description: For the user; may be empty.
    """

    name: str
    fingerprint: str
    metric: str
    lower_is_better: Mapping[str, bool]
    split: str
    facts: Mapping[str, Any]
    description: str

    def statistics(self, start: int = 0, strata: int = 1) -> S:
        """Empty statistics.

        Args:
            start: Index, among the samples of all ranks, of the first one that is added.
            strata: Sample i is drawn from stratum i mod strata; 1 if samples are drawn independently.
        """
        ...

    def reference(
        self, data: DataSet, identity: Mapping[str, Any], work: Workspace, device: torch.device, given: Given | None
    ) -> R:
        """The statistics of data.

        Args:
            data: What scores are taken against.
            identity: Names data set and split.
            work: Where the statistics are kept.
            device: Of the extractor.
            given: A file to read instead.

        Raises:
            ValueError: If the data or the file do not fit the scorer.
        """
        ...

    def scores(self, statistics: S, reference: R) -> dict[str, Score]:
        """Name of each metric to its score; `metric` comes first."""
        ...


class Measure(NamedTuple):
    """A scorer, and what it scores against.

    Attributes:
        scorer: Measures samples.
        reference: That scorer's statistics of the data.
        beside: The same with further scores, which are no part of a cell's identity; None for none.
    """

    scorer: Scorer[Any, Any]
    reference: Reference
    beside: Measure | None = None


class Extractor(Protocol):
    """Makes the scorer of a data set.

    `metrics` are `Metric`s by name, and `settings` their configuration.
    """

    def check(
        self, shape: Sequence[int], metrics: Mapping[str, Any], num_samples: int | None, given: Given | None = None
    ) -> None:
        """Check, before anything is trained, that samples can be scored.

        Args:
            shape: Of a sample.
            metrics: By name.
            num_samples: Samples a cell, if known.
            given: A reference file.

        Raises:
            ValueError: If they cannot.
        """
        ...

    def check_data(self, train: DataSet) -> None:
        """Check, before anything is trained, that the extractor can be made from training data.

        Raises:
            ValueError: If it cannot.
        """

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Any],
        settings: Mapping[str, Any],
        work: Workspace,
    ) -> Scorer[Any, Any]:
        """The scorer; what is trained for it comes from `work.cache` if it is there.

        Args:
            train: Training data.
            held_out: Held-out data.
            metrics: By name.
            settings: Configuration of each metric, by name.
            work: Cache, and whether progress is shown.
        """
        ...

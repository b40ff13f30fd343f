"""Scores by several extractors on the same samples, and means of ratios over them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Extractor, Given, Influences, Score, Workspace
from denoiselab.evaluation.features.extractors import FeatureScorer, ImageExtractor
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.metrics.standard_errors import second_order, standard_error, without_second_order
from denoiselab.evaluation.references.files import FileReference


class SeveralExtractors(Extractor):
    """Scores by every metric with every extractor, of the same samples, and the mean of each ratio.

    A ratio is a score of a metric that is `averaged`, such as `frechet_ratio`: its mean over k extractors is FDr-k.
    Where the first metric is one, its mean is the primary score.

    Source: Representation Fréchet Loss for Visual Generation, arXiv 2604.28190.

    Args:
        extractors: Of images, by any names.

    Raises:
        ValueError: If there are fewer than two.
    """

    def __init__(self, extractors: Mapping[str, ImageExtractor]) -> None:
        if len(extractors) < 2:
            raise ValueError(f"extractors={[*extractors]}: there must be at least two.")
        self.extractors = extractors

    def check(
        self, shape: Sequence[int], metrics: Mapping[str, Any], num_samples: int | None, given: Given | None = None
    ) -> None:
        """Check that each extractor can score samples, and that their scores have names of their own."""
        for key, one in self.extractors.items():
            if not isinstance(one, ImageExtractor):
                raise ValueError(
                    f"evaluation.extractor.extractors.{key}: it must be an extractor of features of images."
                )
        names = [one.name for one in self.extractors.values()]
        if len({*names}) < len(names):
            raise ValueError(f"evaluation.extractor.extractors: they are {names}; each must be another network.")
        if given is not None:
            raise ValueError(
                f"evaluation.reference={given.path}: it is of one extractor, and there are several; leave it out."
            )
        for one in self.extractors.values():
            one.check(shape, metrics, num_samples)

    def check_data(self, train: DataSet) -> None:
        for one in self.extractors.values():
            one.check_data(train)

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Any],
        settings: Mapping[str, Any],
        work: Workspace,
    ) -> SeveralScorer:
        self.check(train.shape, metrics, None)
        each = self.extractors.values()  # a metric keeps what it computed of the last reference, so each has its own
        return SeveralScorer([one.fit(train, held_out, copy.deepcopy(dict(metrics)), settings, work) for one in each])


class SeveralStatistics:
    """The statistics of several extractors of the same samples. See `Growing`.

    Args:
        parts: Of each.
    """

    def __init__(self, parts: Sequence[Collected]) -> None:
        self.parts = parts

    @property
    def n(self) -> int:
        """Number of samples."""
        return self.parts[0].n

    @property
    def fingerprint(self) -> str:
        """sha256 of those of the parts."""
        return _joined(self.parts)

    @property
    def dimension(self) -> int:
        """The largest."""
        return max(part.dimension for part in self.parts)

    def update(self, samples: Tensor) -> None:
        """Add uint8 images `(B, C, H, W)`; errors are those of `Collected`."""
        for part in self.parts:
            part.update(samples)

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks."""
        for part in self.parts:
            part.reduce(device)

    def state(self) -> dict[str, Tensor]:
        """See `Growing`."""
        return {f"{i}.{key}": value for i, part in enumerate(self.parts) for key, value in part.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Growing`."""
        for i, part in enumerate(self.parts):
            own = {key.partition(".")[2]: value for key, value in state.items() if key.partition(".")[0] == str(i)}
            part.load(own)


@dataclass(frozen=True)
class SeveralReferences:
    """The statistics of the data by several extractors.

    Args:
        parts: Of each.
    """

    parts: Sequence[FileReference]

    @property
    def n(self) -> int:
        """Number of images."""
        return self.parts[0].n

    @property
    def fingerprint(self) -> str:
        """sha256 of those of the parts."""
        return _joined(self.parts)

    @property
    def of(self) -> Mapping[str, Any]:
        """Data set, split and fingerprint of the data."""
        return self.parts[0].of


class SeveralScorer:
    """Joins the scores of several scorers by the same metrics. See `Scorer`.

    Args:
        scorers: Of extractors with different names.
    """

    def __init__(self, scorers: Sequence[FeatureScorer]) -> None:
        self.scorers, first = scorers, scorers[0]
        self.name, self.split = "+".join(one.name for one in scorers), first.split
        self.fingerprint = _joined(scorers)
        self.description = "; ".join(one.description for one in scorers if one.description)
        own = {one.name: {"sha256": one.fingerprint, **one.extractor.facts} for one in scorers}
        self.facts: Mapping[str, Any] = {"metrics": first.facts["metrics"], "extractors": own}
        self.reads_classes = any(one.reads_classes for one in self.scorers)
        self.reads_pictures = any(one.reads_pictures for one in self.scorers)
        self.reads_texts = any(one.reads_texts for one in self.scorers)
        ratios = [metric for metric in first.metrics if getattr(metric, "averaged", False)]
        self._means = {f"{name}_mean": name for metric in ratios for name in metric.lower_is_better}
        means = {f"{name}_mean": lower for metric in ratios for name, lower in metric.lower_is_better.items()}
        each = {name: lower for one in scorers for name, lower in one.lower_is_better.items()}
        self.lower_is_better: Mapping[str, bool] = means | each if first.metrics[0] in ratios else each | means
        self.metric = next(iter(self.lower_is_better))

    def statistics(self, start: int = 0, strata: int = 1, **of: Any) -> SeveralStatistics:
        """Empty statistics; further arguments are those of `FeatureScorer`."""
        return SeveralStatistics([one.statistics(start, strata, **of) for one in self.scorers])

    def reference(
        self,
        data: DataSet,
        identity: Mapping[str, Any],
        work: Workspace,
        device: torch.device,
        given: Given | None = None,
    ) -> SeveralReferences:
        """The statistics of the data, each as `FeatureScorer` has it; no file can be given."""
        assert given is None
        return SeveralReferences([one.reference(data, identity, work, device) for one in self.scorers])

    def features(self, samples: Tensor) -> Tensor:
        """Those of the first extractor."""
        return self.scorers[0].features(samples)

    def scores(self, statistics: SeveralStatistics, reference: SeveralReferences) -> dict[str, Score]:
        """Title of each metric to its score, and the means; errors are those of `FeatureScorer`."""
        parts = zip(self.scorers, statistics.parts, reference.parts, strict=True)
        found = {name: score for one, own, other in parts for name, score in one.scores(own, other).items()}
        for mean, name in self._means.items():
            found[mean] = mean_of([found[one.extractor.title(name)] for one in self.scorers])
        return {name: found[name] for name in self.lower_is_better}


def mean_of(scores: Sequence[Score]) -> Score:
    """The mean of some scores of the same samples, whose influence on it is the mean of their influences.

    The second order, of the same pairs of samples, is in it where all scores have it.
    """
    value = sum(score.value for score in scores) / len(scores)
    kept = [score.influences for score in scores if score.influences is not None]
    if len(kept) < len(scores):
        return Score(value)
    shortest = min(len(one.first) for one in kept)
    first = torch.stack([one.first[:shortest].double() for one in kept]).mean(0)
    same = len({len(one.second) for one in kept}) == 1
    second = torch.stack([one.second.double() for one in kept]).mean(0) if same else torch.empty(0)
    n, strata = kept[0].n, kept[0].strata
    error = standard_error(first, n, strata)
    if error is not None:
        error = without_second_order(error, second_order(second, n))
    return Score(value, error, influences=Influences(first.float(), second.float(), n, strata))


def _joined(parts: Sequence[Any]) -> str:
    return hashlib.sha256(" ".join(part.fingerprint for part in parts).encode()).hexdigest()

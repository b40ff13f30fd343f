"""Precision, recall and a distance by another extractor, beside the metrics of guided cells.

Guidance trades diversity for fidelity, which one distance hides. These scores are no part of a cell's identity, and
are computed of the same samples.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Measure, Score, Workspace
from denoiselab.evaluation.feature_contracts import FEATURES, FeatureExtractor, Layer, Metric
from denoiselab.evaluation.features.extractors import FeatureScorer
from denoiselab.evaluation.features.several import SeveralReferences, SeveralScorer, SeveralStatistics
from denoiselab.evaluation.metrics.kernel import KernelDistance
from denoiselab.evaluation.metrics.neighbours import PrecisionRecall
from denoiselab.evaluation.metrics.wasserstein import sliced_score
from denoiselab.evaluation.references.files import FileReference

# Samples of the data that these scores compare with at most, evenly spaced: the cost of recall grows with their square.
MOST = 10_000
_DIRECTIONS = 64


class Projections(FeatureExtractor):
    """Samples without a network: of images, pixels in [-1, 1] along random unit vectors; of points, coordinates.

    Args:
        shape: Of a sample.
    """

    facts: Mapping[str, Any] = {}
    description = ""

    def __init__(self, shape: Sequence[int]) -> None:
        self.name, size = ("pixels", math.prod(shape)) if len(shape) == 3 else ("points", math.prod(shape))
        self._directions = torch.eye(size)
        if self.name == "pixels":
            drawn = torch.randn(_DIRECTIONS, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            self._directions = (drawn / drawn.norm(dim=1, keepdim=True)).float()
        self.dimensions: Mapping[str, int] = {FEATURES: len(self._directions)}
        self.fingerprint = hashlib.sha256(self._directions.numpy().tobytes()).hexdigest()

    def title(self, metric: str) -> str:
        return f"{metric}_{self.name}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        self._directions = self._directions.to(images.device)
        values = images.float() / 127.5 - 1 if self.name == "pixels" else images
        return {FEATURES: values.flatten(1) @ self._directions.T}


class SlicedDistance(Metric):
    """The mean over coordinates of features of W1: with `Projections`, the sliced Wasserstein distance of samples."""

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True
    lower_is_better: Mapping[str, bool] = {"sliced_w1": True}

    def check(self, n: int, what: str) -> None:
        pass

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        along = torch.eye(samples.outputs.shape[1], dtype=torch.float64)
        return {"sliced_w1": sliced_score(samples.outputs, reference.outputs, along, samples.strata)}


def with_diversity(
    measure: Measure, data: DataSet, name: str, num_samples: int, work: Workspace, device: torch.device
) -> Measure:
    """A measure with precision and recall by its extractor and a distance by another, where these can be computed.

    Not those that it has: of several extractors there are distances already. Of points, the distance is the kernel
    distance.

    Args:
        measure: Without them.
        data: That samples are compared with.
        name: Of the data set.
        num_samples: Of a cell; metrics that need more are left out.
        work: Where features of the data are kept.
        device: Of the extractors.
    """
    scorer, own = measure.scorer, Projections(data.shape)
    several = isinstance(scorer, SeveralScorer)
    first = scorer.scorers[0] if isinstance(scorer, SeveralScorer) else scorer
    extractor: FeatureExtractor | None = getattr(first, "extractor", None)
    wanted: list[tuple[FeatureExtractor, Metric]] = []
    if len(data.shape) == 1:
        wanted = [(own, PrecisionRecall()), (own, KernelDistance())]
    elif extractor is not None and len(data.shape) == 3:
        if FEATURES in extractor.dimensions:
            wanted = [(_Once(extractor), PrecisionRecall())]
        wanted += [] if several else [(own, SlicedDistance())]
    some = cast(DataSet, _Some(data))
    identity = {"data": name, "split": scorer.split}
    found: list[tuple[FeatureScorer, FileReference]] = []
    for by, metric in wanted:
        one = FeatureScorer(by, [metric], {})
        if _enough(metric, min(num_samples, len(some))) and not {*one.lower_is_better} & {*scorer.lower_is_better}:
            found.append((one, one.reference(some, identity, work, device)))
    return measure._replace(beside=_joined(measure, found) if found else None)


def _joined(measure: Measure, others: Sequence[tuple[FeatureScorer, FileReference]]) -> Measure:
    scorer: Any = measure.scorer
    for one, _ in others:
        if isinstance(one.extractor, _Once) and isinstance(scorer, FeatureScorer):  # features of the same samples
            scorer = copy.copy(scorer)
            scorer.extractor = one.extractor
    beside = {
        name: {
            "lower_is_better": lower,
            "extractor": one.name,
            "extractor_sha256": one.fingerprint,
            "reference_n": reference.n,
            "reference_sha256": reference.fingerprint,
        }
        for one, reference in others
        for name, lower in one.lower_is_better.items()
    }
    parts: list[Any] = [measure.reference, *(reference for _, reference in others)]
    joined: Any = _Joined(scorer, [one for one, _ in others], beside)
    return Measure(joined, SeveralReferences(parts))


class _Joined:
    """The scores of a scorer, and those of others of the same samples. See `Scorer`; its facts name the others'."""

    def __init__(self, scorer: Any, others: Sequence[FeatureScorer], beside: Mapping[str, Any]) -> None:
        self.scorer, self.others = scorer, others
        self.name, self.fingerprint, self.metric, self.split = (
            scorer.name, scorer.fingerprint, scorer.metric, scorer.split
        )  # fmt: skip
        self.facts: Mapping[str, Any] = {**scorer.facts, "beside": beside}
        self.description = scorer.description
        self.reads_classes = getattr(scorer, "reads_classes", False)
        self.reads_pictures = getattr(scorer, "reads_pictures", False)
        self.reads_texts = getattr(scorer, "reads_texts", False)
        each = [scorer, *others]
        self.lower_is_better = {name: lower for one in each for name, lower in one.lower_is_better.items()}

    def statistics(self, start: int = 0, strata: int = 1, **of: Any) -> SeveralStatistics:
        own = self.scorer.statistics(start, strata, **of)
        return SeveralStatistics([own, *(one.statistics(start, strata) for one in self.others)])

    def scores(self, statistics: SeveralStatistics, reference: SeveralReferences) -> dict[str, Score]:
        parts = zip([self.scorer, *self.others], statistics.parts, reference.parts, strict=True)
        return {name: score for one, own, other in parts for name, score in one.scores(own, other).items()}


class _Once(FeatureExtractor):
    """An extractor that computes features of the same images once."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self._extractor, self._last = extractor, (torch.empty(0), dict[str, Tensor]())
        self.name, self.fingerprint, self.dimensions = extractor.name, extractor.fingerprint, extractor.dimensions
        self.facts, self.description = extractor.facts, extractor.description
        self.classifies_data = getattr(extractor, "classifies_data", False)

    def title(self, metric: str) -> str:
        return self._extractor.title(metric)

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Those of the extractor, if it has any."""
        extractor: Any = self._extractor
        out: Tensor = extractor.texts(texts)
        return out

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        if self._last[0] is not images:
            self._last = images, self._extractor(images)
        return self._last[1]


class _Some:
    """At most `MOST` samples of a data set, evenly spaced: as much of a `DataSet` as statistics read."""

    def __init__(self, data: DataSet) -> None:
        self._data, self._count, self.shape = data, min(len(data), MOST), data.shape
        self.fingerprint = data.fingerprint

    def __len__(self) -> int:
        return self._count

    def stored(self, index: Tensor) -> Tensor:
        return self._data.stored(index * len(self._data) // self._count)


def _enough(metric: Metric, n: int) -> bool:
    try:
        metric.check(n, "n")
    except ValueError:
        return False
    return True

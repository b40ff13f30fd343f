"""Extractors of features, and the scorer that gives their features to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from denoiselab.data import DataSet
from denoiselab.evaluation.features.weights import WeightsFile
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.metrics.of_features import INFINITY, Metric
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.evaluation.references import files
from denoiselab.evaluation.references.files import Reference
from denoiselab.evaluation.scorer import Given, Score


class FeatureExtractor(Protocol):
    """Maps images to the outputs of some of its layers."""

    name: str
    fingerprint: str
    dimensions: Mapping[str, int]  # by layer
    facts: Mapping[str, Any]  # for the record: what else the features depend on
    told: str  # for the user

    def title(self, metric: str) -> str:
        """The name of a metric under this extractor, as the literature has it."""
        ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Layer to its outputs `(B, D)` float32 on `images` `(B, C, H, W)` uint8."""
        ...


class NetworkFeatures:
    """A network's features in float32, with autocast and TF32 off and gradients unrecorded.

    Args:
        name: Of the extractor.
        fingerprint: sha256 of its weights.
        network: Maps uint8 images `(B, C, H, W)` to layer: outputs `(B, D)`. It follows the images' device.
        channels: It takes; grey images are repeated to them.
        facts: For the record: what else the features depend on.
        titles: Names of metrics that the literature has for it; others are called metric_extractor.
        told: For the user.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        network: nn.Module,
        channels: int,
        facts: Mapping[str, Any],
        titles: Mapping[str, str],
        told: str,
    ) -> None:
        self._network = network.eval().requires_grad_(requires_grad=False)
        self._channels, self._titles, self._device = channels, titles, torch.device("cpu")
        self.name, self.fingerprint, self.facts, self.told = name, fingerprint, facts, told
        blank = torch.zeros(1, channels, 8, 8, dtype=torch.uint8)
        self.dimensions: Mapping[str, int] = {layer: out.shape[1] for layer, out in self(blank).items()}

    def title(self, metric: str) -> str:
        """The literature's name of `metric`, or metric_extractor."""
        kind, at_infinity, _ = metric.partition(INFINITY)
        return self._titles.get(kind, f"{kind}_{self.name}") + at_infinity

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Layer to its outputs `(B, D)` float32 on `images` `(B, C, H, W)` uint8."""
        if images.device != self._device:
            self._network.to(images.device)
            self._device = images.device
        if images.shape[1] == 1:
            images = images.expand(-1, self._channels, -1, -1)
        with _exact_float32(images.device):
            out: dict[str, Tensor] = self._network(images)
        return out


class FeatureScorer:
    """Scores images by metrics of their features; the first metric is the primary one.

    Args:
        extractor: Has the layers that the metrics read.
        metrics: Metrics, at least one.
        settings: The configuration of each metric, for the record.
    """

    split = "train"

    def __init__(self, extractor: FeatureExtractor, metrics: Sequence[Metric], settings: Mapping[str, Any]) -> None:
        self.extractor, self.metrics = extractor, metrics
        self.name, self.fingerprint, self.told = extractor.name, extractor.fingerprint, extractor.told
        self.facts: Mapping[str, Any] = {**extractor.facts, "metrics": dict(settings)}
        self.lower_is_better: Mapping[str, bool] = {
            extractor.title(name): lower for metric in metrics for name, lower in metric.lower_is_better.items()
        }
        self.metric = next(iter(self.lower_is_better))

    def statistics(self, start: int = 0, strata: int = 1) -> Collected:
        """What the metrics read of samples, of none yet; the arguments are those of `Collected`."""
        return Collected(self.extractor, self.metrics, self.extractor.dimensions, start=start, strata=strata)

    def reference(
        self,
        data: DataSet,
        identity: Mapping[str, Any],
        cache: Path,
        device: torch.device,
        given: Given | None = None,
        *,
        shown: bool = True,
    ) -> Reference:
        """What the metrics read of the data: the file that was given, or one in `cache`, computed if it is not there.

        Raises:
            ValueError: Too few images for a metric, or a file of another protocol.
        """
        if given is not None:
            return files.read(given, self, data, device)
        return files.cached(self, data, identity, cache, device, shown=shown)

    def scores(self, statistics: Collected, reference: Reference) -> dict[str, Score]:
        """Title of each metric to score; computed on the first rank, and known to all.

        Raises:
            ValueError: Too few samples for a metric.
        """

        def compute() -> dict[str, Score]:
            out: dict[str, Score] = {}
            for metric in self.metrics:
                metric.check(statistics.n, "n")
                scores = metric.scores(statistics.layer(metric.layer), reference.layer(metric.layer))
                out |= {self.extractor.title(name): score for name, score in scores.items()}
            return out

        return on_first_rank(compute)


class ImageExtractor(ABC):
    """What makers of scorers by features have in common.

    Attributes:
        name: Of the extractor, in scores.
        layers: That it can give to metrics.
        weights: The file it needs, or None.
        channels: Of images that it takes; None for any.
    """

    name: str
    layers: frozenset[str]
    weights: WeightsFile | None = None
    channels: tuple[int, ...] | None = (1, 3)

    def check(
        self,
        shape: Sequence[int],
        metrics: Mapping[str, Metric],
        num_samples: int | None,
        given: Given | None = None,
    ) -> None:
        """Refuse what cannot be scored, before anything is trained.

        Raises:
            ValueError: Samples of this shape, no metric, metrics that need other layers or more samples, weights that
                are not there, or a reference of another protocol.
        """
        name = type(self).__name__
        if len(shape) != 3:
            raise ValueError(
                f"evaluation.extractor: {name} scores images, and samples have shape {list(shape)}; "
                "choose evaluation=points for points and waveforms."
            )
        if self.channels is not None and shape[0] not in self.channels:
            raise ValueError(
                f"evaluation.extractor: {name} takes grey or RGB images, and samples have {shape[0]} channels."
            )
        if not metrics:
            raise ValueError(f"evaluation.metrics=[]: name at least one metric for {name}.")
        for key, metric in metrics.items():
            if metric.layer not in self.layers:
                raise ValueError(f"evaluation.metrics: {key} reads {metric.layer}, which {name} does not have.")
            if num_samples is not None:
                metric.check(num_samples, f"evaluation.metrics: {key}: num_samples")
        sha256 = None if self.weights is None else self.weights.verify()
        if given is not None:
            files.check(given, self.name, sha256, shape)

    def check_data(self, train: DataSet) -> None:  # noqa: B027
        """Refuse data that it cannot learn from; one that learns nothing takes all."""

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Metric],
        settings: Mapping[str, Any],
        cache: Path,
        check: Callable[[int], None] = lambda step: None,
        *,
        shown: bool = True,
    ) -> FeatureScorer:
        """The scorer by `metrics`, whose configurations are `settings`; what `check` raises between steps stops it."""
        self.check(train.shape, metrics, None)
        self.check_data(train)
        layers = frozenset(metric.layer for metric in metrics.values())
        extractor = self.extractor(layers, train, held_out, cache, check, shown=shown)
        return FeatureScorer(extractor, [*metrics.values()], settings)

    @abstractmethod
    def extractor(
        self,
        layers: frozenset[str],
        train: DataSet,
        held_out: DataSet,
        cache: Path,
        check: Callable[[int], None],
        *,
        shown: bool,
    ) -> FeatureExtractor:
        """The extractor of `layers`."""


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Neither autocast nor TF32, which move Inception's features by up to a percent."""
    backends: Any = torch.backends
    off: str | bool
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # since torch 2.9, which refuses to read a mix of old and new
        name, off = "fp32_precision", "ieee"
        owners = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    else:
        name, off = "allow_tf32", False
        owners = [backends.cuda.matmul, backends.cudnn]
    before = [getattr(owner, name) for owner in owners]
    try:
        for owner in owners:
            setattr(owner, name, off)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            setattr(owner, name, value)

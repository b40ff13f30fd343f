"""Features of images by a network, and the scorer that gives them to metrics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import (
    INFINITY,
    ContractError,
    Extractor,
    Given,
    Influences,
    Score,
    Workspace,
)
from denoiselab.evaluation.feature_contracts import LOGITS, FeatureExtractor, Metric
from denoiselab.evaluation.features.weights import WeightsFile
from denoiselab.evaluation.metrics.collected import Collected
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.evaluation.references import files
from denoiselab.evaluation.references import given as given_files
from denoiselab.evaluation.references.files import FileReference


class NetworkFeatures(FeatureExtractor):
    """A network's features in float32, with autocast and TF32 off and without gradients.

    Args:
        name: Of the extractor.
        fingerprint: sha256 of its weights.
        network: Maps uint8 images `(B, C, H, W)` to a dict of layer to outputs `(B, D)`. It is moved to their device.
        channels: Channels that the network takes; grey images are repeated to as many.
        facts: For the record: what else the features depend on.
        titles: Names in the literature of metrics with these features; any other is called metric_extractor.
        description: For the user.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        network: nn.Module,
        channels: int,
        facts: Mapping[str, Any],
        titles: Mapping[str, str],
        description: str,
    ) -> None:
        self.classifies_data = False
        self._network = network.eval().requires_grad_(requires_grad=False)
        self._channels, self._titles, self._device = channels, titles, torch.device("cpu")
        self.name, self.fingerprint, self.facts, self.description = name, fingerprint, facts, description
        out: object = self(torch.zeros(1, channels, 8, 8, dtype=torch.uint8))
        if not (isinstance(out, Mapping) and all(isinstance(x, Tensor) and x.ndim == 2 for x in out.values())):
            shapes = {layer: getattr(x, "shape", x) for layer, x in out.items()} if isinstance(out, Mapping) else None
            raise ContractError(
                f"evaluation.extractor={name}: {type(network).__name__}(images) returned "
                f"{shapes or f'a {type(out).__name__}'}; expected is a dict of layer to a float32 tensor (B, D)."
            )
        self.dimensions: Mapping[str, int] = {layer: x.shape[1] for layer, x in out.items()}

    def title(self, metric: str) -> str:
        kind, at_infinity, _ = metric.partition(INFINITY)
        return self._titles.get(kind, f"{kind}_{self.name}") + at_infinity

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        if images.device != self._device:
            self._network.to(images.device)
            self._device = images.device
        if images.shape[1] == 1:
            images = images.expand(-1, self._channels, -1, -1)
        with _exact_float32(images.device):
            out: dict[str, Tensor] = self._network(images)
        return out


class FeatureScorer:
    """Scores images by metrics of their features; the first metric is the primary one. See `Scorer`.

    Args:
        extractor: Has the layers that the metrics read.
        metrics: At least one.
        settings: The configuration of each metric, for the record.
        held_out: For metrics that read them; None if there are none.
    """

    split = "train"

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: Sequence[Metric],
        settings: Mapping[str, Any],
        held_out: DataSet | None = None,
    ) -> None:
        self.extractor, self.metrics, self._held_out = extractor, metrics, held_out
        self.name, self.fingerprint, self.description = extractor.name, extractor.fingerprint, extractor.description
        self.facts: Mapping[str, Any] = {**extractor.facts, "metrics": dict(settings)}
        self.lower_is_better: Mapping[str, bool] = {
            extractor.title(name): lower for metric in metrics for name, lower in metric.lower_is_better.items()
        }
        self.metric = next(iter(self.lower_is_better))
        of_data = getattr(extractor, "classifies_data", False)
        self.reads_classes = of_data and any(getattr(metric, "reads_classes", False) for metric in metrics)
        self.reads_pictures = any(getattr(metric, "reads_pictures", False) for metric in metrics)
        self.reads_texts = any(getattr(metric, "reads_texts", False) for metric in metrics)

    def statistics(self, start: int = 0, strata: int = 1, **of: Any) -> Collected:
        """Empty statistics of samples, whose `classes`, `pictures` and `texts`, as of `Collected`, may be given."""
        read = {name: value for name, value in of.items() if getattr(self, f"reads_{name}")}
        return Collected(self.extractor, self.metrics, start=start, strata=strata, **read)

    def reference(
        self,
        data: DataSet,
        identity: Mapping[str, Any],
        work: Workspace,
        device: torch.device,
        given: Given | None = None,
    ) -> FileReference:
        """The statistics of the data, from the given file or from one in `work.cache`, which is made if need be.

        Raises:
            ValueError: If there are too few images for a metric, or the file is of another protocol.
        """
        if given is not None:
            found = given_files.read(given, self.extractor, self.metrics, data, device)
        else:
            found = files.cached(self.extractor, self.metrics, data, identity, work, device)
        readers = [metric for metric in self.metrics if getattr(metric, "reads_held_out", False)]
        if not readers:
            return found
        if self._held_out is None or not len(self._held_out):
            raise ValueError(
                f"evaluation.metrics: {type(readers[0]).__name__} compares with held-out data, and the data set has "
                "none; choose another metric."
            )
        of = {**identity, "split": "held_out"}
        return found.beside(files.cached(self.extractor, readers, self._held_out, of, work, device))

    def features(self, samples: Tensor) -> Tensor:
        """Features `(B, D)` float32 of stored images: the layer of the first metric that compares with the data.

        Raises:
            ValueError: If every metric reads logits.
        """
        layer = next((metric.layer for metric in self.metrics if metric.layer != LOGITS), None)
        if layer is None:
            raise ValueError("error_split: no metric reads features; add one that does, such as frechet.")
        return self.extractor(samples)[layer]

    def scores(self, statistics: Collected, reference: FileReference) -> dict[str, Score]:
        """Title of each metric to its score; computed on the first rank, returned on all.

        Raises:
            ValueError: If there are too few samples for a metric.
            ContractError: If a metric returns anything but what `Metric` says.
        """

        def compute() -> dict[str, Score]:
            out: dict[str, Score] = {}
            for metric in self.metrics:
                metric.check(statistics.n, "n")
                scores = metric.scores(statistics.layer(metric.layer), reference.layer(metric.layer))
                check_scores(metric, scores)
                out |= {self.extractor.title(name): score for name, score in scores.items()}
            return out

        return on_first_rank(compute)


def check_scores(metric: Metric, scores: object) -> None:
    """Check that a metric returned one `Score` of numbers for each name in its `lower_is_better`.

    Raises:
        ContractError: If it did not.
    """
    names = [*metric.lower_is_better]
    wrong = f"a {type(scores).__name__}"
    if isinstance(scores, Mapping):
        wrong = "" if [*scores] == names else f"a dict of {[*scores]}"
        for name, score in () if wrong else scores.items():
            numbers = [score.value, score.standard_error] if isinstance(score, Score) else [None]
            kept = getattr(score, "influences", None)
            typed = isinstance(numbers[0], float | int) and isinstance(numbers[-1], float | int | None)
            if not typed or not isinstance(kept, Influences | None):
                wrong = f"{score!r} for {name!r}"
    if wrong:
        raise ContractError(
            f"evaluation.metrics: {type(metric).__name__}.scores(samples, reference) returned {wrong}; expected is a "
            f"dict of {names}, each to a Score(value: float, standard_error: float | None, influences: "
            "Influences | None) (see denoiselab.evaluation.Metric)."
        )


class ImageExtractor(Extractor):
    """Base of the `Extractor`s of images.

    Attributes:
        name: Of the extractor, in scores.
        layers: Layers that metrics can read.
        weights: The file of its weights; None if it has none.
        channels: Allowed numbers of channels; None for any.
        reads_texts: Whether its features have a method `texts`, of texts to features of the same space.
    """

    name: str
    layers: frozenset[str]
    weights: WeightsFile | None = None
    channels: tuple[int, ...] | None = (1, 3)
    reads_texts: bool = False

    def check(
        self, shape: Sequence[int], metrics: Mapping[str, Metric], num_samples: int | None, given: Given | None = None
    ) -> None:
        """Check that samples are images, and metrics, weights and reference fit them and this extractor."""
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
            if getattr(metric, "reads_texts", False) and not self.reads_texts:
                raise ValueError(
                    f"evaluation.metrics: {key} reads texts, which {name} does not; choose "
                    "evaluation/extractor=clip_folder."
                )
            if num_samples is not None:
                metric.check(num_samples, f"evaluation.metrics: {key}: num_samples")
        sha256 = self.check_weights(layers_of(metrics))
        if given is not None:
            given_files.check(given, self.name, sha256, shape)

    def check_weights(self, layers: frozenset[str]) -> str | None:
        """The sha256 of the weights; None if they are trained later.

        Raises:
            ValueError: If they are missing, or of another network.
        """
        return None

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Metric],
        settings: Mapping[str, Any],
        work: Workspace,
    ) -> FeatureScorer:
        self.check(train.shape, metrics, None)
        self.check_data(train)
        extractor = self.extractor(layers_of(metrics), train, held_out, work)
        return FeatureScorer(extractor, [*metrics.values()], settings, held_out)

    @abstractmethod
    def extractor(self, layers: frozenset[str], train: DataSet, held_out: DataSet, work: Workspace) -> FeatureExtractor:
        """The extractor of `layers`."""


def layers_of(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """The layers that metrics read."""
    return frozenset(metric.layer for metric in metrics.values())


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

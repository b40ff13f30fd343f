"""What metrics read of a set of samples, collected in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from denoiselab.evaluation.metrics.of_features import Layer, Metric
from denoiselab.evaluation.metrics.statistics import FeatureFile, GaussianStatistics


class Collected:
    """Moments, and features where a metric needs them, of the layers that metrics read.

    Args:
        extract: Maps uint8 images to layer: outputs.
        metrics: That will read them.
        dimensions: Of the outputs, by layer.
        reference: Collect what is read of a reference, not of samples.
        start: Index, among the samples of all ranks, of the first that is added.
        strata: Sample i is drawn from stratum i mod strata.
    """

    def __init__(
        self,
        extract: Callable[[Tensor], Mapping[str, Tensor]],
        metrics: Sequence[Metric],
        dimensions: Mapping[str, int],
        *,
        reference: bool = False,
        start: int = 0,
        strata: int = 1,
    ) -> None:
        self._extract, self._strata, self.n = extract, strata, 0
        read = [metric for metric in metrics if metric.reads_reference or not reference]
        moments = {metric.layer for metric in read if metric.reads_moments}
        features = {metric.layer for metric in read if metric.reads_features}
        self.moments = {
            layer: GaussianStatistics(dimensions[layer], start=start, strata=strata) for layer in sorted(moments)
        }
        self.features = {layer: FeatureFile(dimensions[layer]) for layer in sorted(features)}

    def update(self, samples: Tensor) -> None:
        """Add uint8 images `(B, C, H, W)`.

        Raises:
            ValueError: A feature is not finite.
            OSError: The disk is full.
        """
        out = self._extract(samples)
        for collected in (self.moments, self.features):
            for layer, statistics in collected.items():
                statistics.update(out[layer])
        self.n += len(samples)

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks; features on the first rank alone."""
        for collected in (self.moments, self.features):
            for statistics in collected.values():
                statistics.reduce(device)
        total = torch.tensor(self.n, device=device)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(total)
        self.n = int(total)

    def layer(self, name: str) -> Layer:
        """What is known of a layer."""
        features = self.features[name].features if name in self.features else None
        return Layer(self.moments.get(name), features, self._strata)

    @property
    def fingerprint(self) -> str:
        """sha256 of what was collected."""
        digest = hashlib.sha256()
        for layer, statistics in self.moments.items():
            digest.update(f"{layer} {statistics.fingerprint}".encode())
        for layer, file in self.features.items():
            digest.update(layer.encode() + file.features.numpy().tobytes())
        return digest.hexdigest()

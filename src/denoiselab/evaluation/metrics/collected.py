"""Statistics of a set of samples for all metrics, collected in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import ContractError
from denoiselab.evaluation.feature_contracts import FeatureExtractor, Layer, Metric
from denoiselab.evaluation.metrics.feature_file import FeatureFile
from denoiselab.evaluation.metrics.statistics import GaussianStatistics
from denoiselab.evaluation.ranks import gathered

_Collector = GaussianStatistics | FeatureFile

# The classes `(B,)` int64 of samples of indices `(B,)`; None for samples of no class.
Classes = Callable[[Tensor], Tensor | None]

# The texts of samples of indices `(B,)`; None for samples of no text.
Texts = Callable[[Tensor], Sequence[str] | None]


class Collected:
    """Moments, and features if a metric needs them, of the layers that metrics read.

    Args:
        extractor: Of the features.
        metrics: The metrics that will read them.
        reference: Collect for a reference instead of samples.
        start: Index, among the samples of all ranks, of the first that is added.
        strata: Sample i is drawn from stratum i mod strata.
        classes: The classes of samples; None where they have none.
        pictures: As of `Conditioner`.
        texts: Those of samples; None where they have none.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: Sequence[Metric],
        *,
        reference: bool = False,
        start: int = 0,
        strata: int = 1,
        classes: Classes | None = None,
        pictures: str | None = None,
        texts: Texts | None = None,
    ) -> None:
        self._extractor, self._start, self._strata, self.n = extractor, start, strata, 0
        self._classes, self._pictures, self._texts = classes, pictures, texts
        dimensions = extractor.dimensions
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
            ValueError: If a feature is not finite.
            ContractError: If the extractor returns anything but what `FeatureExtractor` says.
            OSError: If the disk is full.
        """
        out = self._extractor(samples)
        collected: list[tuple[str, _Collector]] = [*self.moments.items(), *self.features.items()]
        check_outputs(self._extractor, out, len(samples), [layer for layer, _ in collected])
        for layer, statistics in collected:
            statistics.update(out[layer])
        self.n += len(samples)

    def reduce(self, device: torch.device) -> None:
        """Join those of all ranks, in the order of ranks; features on the first rank alone."""
        collected: list[_Collector] = [*self.moments.values(), *self.features.values()]
        for statistics in collected:
            statistics.reduce(device)
        self.n = int(sum(gathered(torch.tensor([self.n]), device)))

    @property
    def dimension(self) -> int:
        """The largest dimension of the layers."""
        return max(self._extractor.dimensions[layer] for layer in {*self.moments, *self.features})

    def state(self) -> dict[str, Tensor]:
        """See `Growing`."""
        return {
            f"{kind}.{name}.{key}": value for kind, name, part in self._parts() for key, value in part.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Growing`."""
        for kind, name, part in self._parts():
            prefix = f"{kind}.{name}."
            part.load({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
            self.n = part.n

    def _parts(self) -> Iterator[tuple[str, str, _Collector]]:
        for kind, parts in (("moments", self.moments), ("features", self.features)):
            for name, part in parts.items():
                yield kind, name, part

    def layer(self, name: str) -> Layer:
        """Statistics of a layer."""
        features = self.features[name].features if name in self.features else None
        index = self._start + torch.arange(self.n)
        classes = None if self._classes is None else self._classes(index)
        pictures = None if self._pictures is None else (self._pictures, index)
        own = None if self._texts is None else self._texts(index)
        extractor: Any = self._extractor
        texts = None if own is None else lambda before: extractor.texts([before + text for text in own])
        moments = self.moments.get(name)
        return Layer(moments, features, self._strata, classes=classes, pictures=pictures, texts=texts)

    @property
    def fingerprint(self) -> str:
        """sha256 of moments and features."""
        digest = hashlib.sha256()
        for layer, statistics in self.moments.items():
            digest.update(f"{layer} {statistics.fingerprint}".encode())
        for layer, file in self.features.items():
            digest.update(layer.encode() + file.features.numpy().tobytes())
        return digest.hexdigest()


def check_outputs(extractor: FeatureExtractor, out: Mapping[str, Tensor], n: int, layers: Sequence[str]) -> None:
    """Check that an extractor returned outputs `(n, D)` float32 of each layer, D those of its `dimensions`.

    Raises:
        ContractError: If it did not.
    """
    call = f"{type(extractor).__name__}(images)"
    for layer in layers:
        value = out.get(layer) if isinstance(out, Mapping) else None
        wanted = (n, extractor.dimensions[layer])
        if not (isinstance(value, Tensor) and value.shape == wanted and value.dtype == torch.float32):
            kind = f"{str(value.dtype)[6:]} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            found = f"[{layer!r}] is {kind}" if isinstance(out, Mapping) and layer in out else _lacking(out)
            raise ContractError(
                f"evaluation.extractor={extractor.name}: {call}{found}; expected is a float32 tensor {list(wanted)} "
                f"for {n} images (see denoiselab.evaluation.FeatureExtractor)."
            )


def _lacking(out: object) -> str:
    return f" has only the keys {[*out]}" if isinstance(out, Mapping) else f" is a {type(out).__name__}, not a dict"

"""What scores samples by features: the contracts of metrics and of feature extractors.

A choice of `conf/metric` is a `Metric`. It reads statistics of a layer of a `FeatureExtractor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from denoiselab.evaluation.contracts import Score

# Layers of an extractor: its feature vector, the logits of its classes, and features with a place in the image.
FEATURES, LOGITS, SPATIAL = "features", "logits", "spatial"


class Gaussian(Protocol):
    """Number, mean and covariance of a set of features, in float64, and some of the features."""

    @property
    def n(self) -> int:
        """Number of features."""
        ...

    @property
    def mean(self) -> Tensor:
        """`(D,)`."""
        ...

    @property
    def covariance(self) -> Tensor:
        """`(D, D)`, with the unbiased divisor n - 1."""
        ...

    @property
    def first(self) -> Tensor:
        """`(m, D)`, 0 <= m <= n."""
        ...


class Sample(Gaussian, Protocol):
    """A set of features that can be halved."""

    @property
    def strata(self) -> int:
        """Sample i is drawn from stratum i mod strata."""
        ...

    @property
    def halves(self) -> Sequence[Gaussian]:
        """Those of two halves of the features."""
        ...


@dataclass(frozen=True)
class Layer:
    """Statistics of the outputs of one layer of an extractor on a set of images.

    Args:
        moments: Of the outputs; a `Sample` for samples, a `Gaussian` for a reference; None if no metric reads them.
        features: The outputs themselves, `(n, D)` float32; None if no metric reads them.
        strata: Image i is drawn from stratum i mod strata.
        held_out: Of a reference, that of held-out data; None if no metric reads it, or there are none.
        classes: The class that each sample was drawn for, `(n,)` int64; None for samples of no class, for data, and
            if no metric reads it.
        pictures: "held_out" or "train", for whose captions the samples were drawn, and the samples' indices `(n,)`
            int64, of which `denoiselab.data.rows_of` makes rows; None for samples of no such caption, and if no metric
            reads it.
        texts: A beginning to the extractor's features `(n, D)` float32 of the samples' texts after it; None for samples
            of no text, and if no metric reads it.
    """

    moments: Any
    features: Tensor | None
    strata: int = 1
    held_out: Layer | None = None
    classes: Tensor | None = None
    pictures: tuple[str, Tensor] | None = None
    texts: Callable[[str], Tensor] | None = None

    @property
    def outputs(self) -> Tensor:
        """`features`, for a metric that reads them."""
        assert self.features is not None
        return self.features


class Metric(Protocol):
    """Scores of samples against a reference by the outputs of one layer of an extractor.

    Attributes:
        layer: FEATURES, LOGITS or SPATIAL.
        reads_moments: Whether it needs `Layer.moments`.
        reads_features: Whether it needs `Layer.features`.
        reads_reference: Whether it compares with a reference.
        reads_held_out: Whether it reads `Layer.held_out` of the reference; False if absent.
        reads_classes: Whether it reads `Layer.classes`; False if absent.
        reads_pictures: Whether it reads `Layer.pictures`; False if absent.
        reads_texts: Whether it reads `Layer.texts`, which needs an extractor with a method `texts`; False if absent.
        averaged: Whether values by different extractors have one scale, so that their mean is a score; False if absent.
        favours_data: Whether draws of the data score better than those of other distributions; True if absent.
        lower_is_better: By name of each score, without the extractor's name.
    """

    layer: str
    reads_moments: bool
    reads_features: bool
    reads_reference: bool
    lower_is_better: Mapping[str, bool]

    def check(self, n: int, what: str) -> None:
        """Check that a set has enough images.

        Args:
            n: Number of images.
            what: Name of n, for the message.

        Raises:
            ValueError: If n is too small.
        """
        ...

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """One `Score` for each name in `lower_is_better`, in that order.

        Scores with a standard error are compared with those of other samplers as if on noise of their own; with
        `influences`, on the noise that they share, which takes several times fewer samples.

        Args:
            samples: Features of the samples, of the layer that the metric reads.
            reference: The same of what they are compared with.
        """
        ...


class FeatureExtractor(Protocol):
    """Maps images to the outputs of some layers of a network.

    Attributes:
        name: Of the extractor, in scores.
        fingerprint: sha256 of the weights.
        dimensions: D of each layer.
        facts: For the record: what else the features depend on.
        description: For the user; may be empty.
        classifies_data: Whether its logits are of the classes of the data; False if absent.
    """

    name: str
    fingerprint: str
    dimensions: Mapping[str, int]
    facts: Mapping[str, Any]
    description: str

    def title(self, metric: str) -> str:
        """The name of a metric with these features, as used in the literature, e.g. fid."""
        ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Layer to outputs `(B, D)` float32 of images `(B, C, H, W)` uint8, on their device."""
        ...

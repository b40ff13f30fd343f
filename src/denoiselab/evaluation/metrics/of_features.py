"""Metrics of features: what each reads, and its scores.

The estimators are torch-fidelity's where they fit. The Fréchet distance is ours, as its product of covariances is not
symmetric and its means are float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from denoiselab.evaluation.metrics import frechet
from denoiselab.evaluation.metrics.statistics import (
    GaussianStatistics,
    Moments,
    second_order,
    standard_error,
    without_second_order,
)
from denoiselab.evaluation.scorer import Score

# The layers of an extractor: its feature vector, the logits of its classes, and features with a place in the image.
FEATURES, LOGITS, SPATIAL = "features", "logits", "spatial"

# How the name of a metric ends that is extrapolated to infinitely many samples.
INFINITY = "_infinity"

# Samples whose second influence is computed and, on the kernel distance, the first one, with all samples and data, of
# so many at once.
_INFLUENCE, _COLUMNS = 1024, 4096


@dataclass(frozen=True)
class Layer:
    """What is known of the outputs of one layer of an extractor on a set of images.

    Args:
        moments: Of the outputs; None where no metric reads them.
        features: The outputs themselves, `(n, D)` float32; None where no metric reads them.
        strata: Image i is drawn from stratum i mod strata.
    """

    moments: GaussianStatistics | Moments | None
    features: Tensor | None
    strata: int = 1


class Metric(Protocol):
    """Scores of samples against a reference by the outputs of one layer of an extractor."""

    layer: str
    reads_moments: bool
    reads_features: bool
    reads_reference: bool
    lower_is_better: Mapping[str, bool]  # by name, without the extractor's

    def check(self, n: int, what: str) -> None:
        """Refuse too small a set of images; `what` says whose number n is.

        Raises:
            ValueError: n is too small.
        """
        ...

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """Name, without the extractor's, to score."""
        ...


class FrechetDistance:
    """The Fréchet distance (FID with Inception-v3), with its standard error, and its value at n = infinity.

    Source: Heusel et al., arXiv 1706.08500; Chong and Forsyth, arXiv 1911.07023. With layer `spatial`: sFID, Nash et
    al., Generating Images with Sparse Representations, arXiv 2103.03841.

    Args:
        layer: `features` or `spatial`.

    Raises:
        ValueError: Another layer.
    """

    reads_moments, reads_features, reads_reference = True, False, True

    def __init__(self, layer: str = FEATURES) -> None:
        if layer not in (FEATURES, SPATIAL):
            raise ValueError(f"layer={layer}: it must be {FEATURES} or {SPATIAL}.")
        self.layer = layer
        self._name = {FEATURES: "fd", SPATIAL: "sfd"}[layer]
        self.lower_is_better = {self._name: True, self._name + INFINITY: True}
        self._rooted: tuple[object, Tensor] = (None, torch.empty(0))  # the last reference, and its root

    def check(self, n: int, what: str) -> None:
        """Refuse n < 4: each half of the samples has a covariance."""
        if n < 4:
            raise ValueError(f"{what}={n}: it must be at least 4, so that each half has a covariance.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`fd` and `fd_infinity`, or `sfd` and `sfd_infinity`."""
        assert isinstance(samples.moments, GaussianStatistics)
        assert reference.moments is not None
        if self._rooted[0] is not reference.moments:
            self._rooted = reference.moments, frechet.root_of(reference.moments)
        both = frechet.frechet_scores(samples.moments, reference.moments, self._rooted[1])
        return dict(zip(self.lower_is_better, both, strict=True))


class KernelDistance:
    """The unbiased squared MMD under (x.y / D + 1)^3 (KID with Inception-v3), a mean over random blocks.

    In double precision: single precision loses the distance of near sets among the ones it sums. Source: Bińkowski et
    al., Demystifying MMD GANs, arXiv 1801.01401.

    Args:
        blocks: Number of blocks.
        block_size: Images a block, of samples and of the reference each.
        seed: Of the generator that draws the blocks.

    Raises:
        ValueError: A number is too small.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True
    lower_is_better: Mapping[str, bool] = {"kd": True}

    def __init__(self, blocks: int = 100, block_size: int = 1000, seed: int = 2020) -> None:
        if blocks < 2 or block_size < 2:
            raise ValueError(f"blocks={blocks}, block_size={block_size}: each must be at least 2.")
        self.blocks, self.block_size, self.seed = blocks, block_size, seed

    def check(self, n: int, what: str) -> None:
        """Refuse fewer images than a block takes."""
        if n < self.block_size:
            raise ValueError(
                f"{what}={n}: it must be at least block_size={self.block_size}, "
                "which evaluation.metric_options.kernel.block_size=... sets."
            )

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`kd`; its standard error is that of drawing samples, by the first ones' influence, and of drawing blocks.

        The influence of a sample is twice its mean kernel with the other samples less that with the data. Its variance
        holds twice that of the second order, whose influence is twice the kernel: a U-statistic has it once.
        """
        from torch_fidelity.metric_kid import kernel_mmd  # slow to import

        x, data = samples.features, reference.features
        assert x is not None
        assert data is not None
        rng = np.random.RandomState(self.seed)  # torch-fidelity's blocks
        values = []
        for _ in range(self.blocks):
            drawn = [part[rng.choice(len(part), self.block_size, replace=False)] for part in (x, data)]
            values.append(float(kernel_mmd(*(part.double().numpy() for part in drawn))))
        first = x[: max(_INFLUENCE, 2 * samples.strata)].double()
        itself = (first.square().sum(1) / first.shape[1] + 1) ** 3
        within, beside = (sum(_cubic(first, y.double()).sum(1) for y in part.split(_COLUMNS)) for part in (x, data))
        influence = 2 * ((within - itself) / (len(x) - 1) - beside / len(data))
        error = standard_error(influence, len(x), samples.strata)
        if error is not None:
            second = second_order(_double_differences(2 * _cubic(first, first), samples.strata), len(x))
            error = math.hypot(without_second_order(error, second), math.sqrt(variance(values) / self.blocks))
        return {"kd": Score(fmean(values), error)}


class InceptionScore:
    """exp of the mean KL divergence of p(class | image) from p(class), a mean over splits of the samples.

    Source: Salimans et al., arXiv 1606.03498.

    Args:
        splits: Number of splits.
        seed: Of the generator that shuffles the samples.

    Raises:
        ValueError: Fewer than 2 splits.
    """

    layer = LOGITS
    reads_moments, reads_features, reads_reference = False, True, False
    lower_is_better: Mapping[str, bool] = {"is": False}

    def __init__(self, splits: int = 10, seed: int = 2020) -> None:
        if splits < 2:
            raise ValueError(f"splits={splits}: it must be at least 2.")
        self.splits, self.seed = splits, seed

    def check(self, n: int, what: str) -> None:
        """Refuse fewer images than splits."""
        if n < self.splits:
            raise ValueError(f"{what}={n}: it must be at least splits={self.splits}.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`is`; its standard error is that of drawing samples, by their influence.

        The influence of a sample is its split's score times its KL divergence from the p(class) of that split, centred;
        the second influence of two samples of a split has the score times -sum p p' / p(class), which is all there is
        where every sample is as far from p(class), as with certain and balanced classes.
        """
        from torch_fidelity.metric_isc import isc_features_to_metric  # slow to import

        assert samples.features is not None
        out = isc_features_to_metric(samples.features, self.splits, shuffle=True, rng_seed=self.seed)
        score, n = out["inception_score_mean"], len(samples.features)
        log_p = samples.features.double().log_softmax(1)
        influence = torch.zeros(n, dtype=torch.float64)
        order = np.random.RandomState(self.seed).permutation(n)  # torch-fidelity's splits
        for split in range(self.splits):
            rows = torch.from_numpy(order[split * n // self.splits : (split + 1) * n // self.splits])
            divergence = _divergence(log_p[rows], log_p[rows].exp().mean(0))
            weight = divergence.mean().exp() * n / (self.splits * len(rows))
            influence[rows] = weight * (divergence - divergence.mean())
        error = standard_error(influence, n, samples.strata)
        if error is not None:
            first, mean = log_p[: max(_INFLUENCE, 2 * samples.strata)].exp(), log_p.exp().mean(0)
            differences = score * _double_differences(first / mean @ first.T, samples.strata)
            error = without_second_order(error, self.splits * second_order(differences, n))
        return {"is": Score(score, error)}


def _divergence(log_p: Tensor, mean: Tensor) -> Tensor:
    """KL(p, mean) `(n,)`."""
    return (log_p.exp() * (log_p - mean.log())).sum(1)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _double_differences(influence: Tensor, strata: int) -> Tensor:
    """Those of `second_order`, of all pairs `(m, m)`, with a' = a + strata and b' = b + strata."""
    rows = influence[:-strata] - influence[strata:]
    index = torch.arange(len(rows))
    apart = (index[:, None] - index).abs()
    return (rows[:, :-strata] - rows[:, strata:])[(apart != 0) & (apart != strata)]

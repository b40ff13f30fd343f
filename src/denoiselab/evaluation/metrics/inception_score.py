"""The Inception Score, by torch-fidelity, with a standard error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import LOGITS, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import (
    INFLUENCES,
    double_differences,
    influences,
    second_order,
    standard_error,
    without_second_order,
)


class InceptionScore(Metric):
    """exp of the mean KL divergence of p(class | image) from p(class), a mean over splits of the samples.

    Source: Salimans et al., arXiv 1606.03498.

    Args:
        splits: Number of splits.
        seed: Of the generator that shuffles the samples.

    Raises:
        ValueError: If splits < 2.
    """

    layer = LOGITS
    reads_moments, reads_features, reads_reference = False, True, False
    lower_is_better: Mapping[str, bool] = {"is": False}

    def __init__(self, splits: int = 10, seed: int = 2020) -> None:
        if splits < 2:
            raise ValueError(f"splits={splits}: it must be at least 2.")
        self.splits, self.seed = splits, seed

    def check(self, n: int, what: str) -> None:
        if n < self.splits:
            raise ValueError(f"{what}={n}: it must be at least splits={self.splits}.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `is`. Its standard error is that of drawing samples, by their influence.

        The influence of a sample is its split's score times its KL divergence from the p(class) of that split, centred;
        the second influence of two samples of a split has the score times -sum p p' / p(class), which is all there is
        where every sample is as far from p(class), as with certain and balanced classes.
        """
        from torch_fidelity.metric_isc import isc_features_to_metric  # slow to import

        features = samples.outputs
        out = isc_features_to_metric(features, self.splits, shuffle=True, rng_seed=self.seed)
        score, n = out["inception_score_mean"], len(features)
        log_p = features.double().log_softmax(1)
        influence = torch.zeros(n, dtype=torch.float64)
        order = np.random.RandomState(self.seed).permutation(n)  # torch-fidelity's splits
        for split in range(self.splits):
            rows = torch.from_numpy(order[split * n // self.splits : (split + 1) * n // self.splits])
            divergence = _divergence(log_p[rows], log_p[rows].exp().mean(0))
            weight = divergence.mean().exp() * n / (self.splits * len(rows))
            influence[rows] = weight * (divergence - divergence.mean())
        error, kept = standard_error(influence, n, samples.strata), None
        if error is not None:
            first, mean = log_p[: max(INFLUENCES, 2 * samples.strata)].exp(), log_p.exp().mean(0)
            second = first / mean @ first.T
            differences = score * double_differences(second, samples.strata)
            error = without_second_order(error, self.splits * second_order(differences, n))
            kept = influences(influence, n, samples.strata, score * self.splits**0.5 * second)
        return {"is": Score(score, error, influences=kept)}


def _divergence(log_p: Tensor, mean: Tensor) -> Tensor:
    """KL(p, mean) `(n,)`."""
    return (log_p.exp() * (log_p - mean.log())).sum(1)

"""Whether a sample is like the picture of its own caption rather than those of other captions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from denoiselab.data import rows_of
from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error


class Retrieval(Metric):
    """The share of pairs of a sample and another picture of its split to which it is less similar than to its own.

    A sample's own picture is the one whose caption it was drawn for. The similarity is the cosine of features, each
    standardised by its mean and deviation over the training images; features that are constant there are left out. 1/2
    is chance, as of samples that do not depend on their captions, and ties count half. It is the area under the ROC
    curve of telling own pictures from others. No value for samples of no caption of the data.

    The standard error is that of drawing samples and captions; pictures that several samples are compared with are
    taken as fixed.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference, reads_held_out = False, True, True, True
    reads_pictures = True
    favours_data = False
    lower_is_better: Mapping[str, bool] = {"retrieval_auc": False}

    def check(self, n: int, what: str) -> None:
        if n < 2:
            raise ValueError(f"{what}={n}: it must be at least 2.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `retrieval_auc`.

        Raises:
            ValueError: If there are no held-out data, or a feature is not finite.
        """
        if samples.pictures is None:
            return {"retrieval_auc": Score(math.nan, reason="samples are of no caption of the data")}
        split, index = samples.pictures
        data = reference.outputs
        if split == "held_out":
            if reference.held_out is None:
                raise ValueError("retrieval: it compares with held-out data, and there are none.")
            pictures = reference.held_out.outputs
        else:
            pictures = data
        values = areas(samples.outputs, pictures, rows_of(index, len(pictures), split), data)
        n, strata = len(values), samples.strata
        kept = influences(values - values.mean(), n, strata)
        return {
            "retrieval_auc": Score(float(values.mean()), standard_error(values, n, strata), influences=kept),
        }


def areas(samples: Tensor, pictures: Tensor, own: Tensor, data: Tensor) -> Tensor:
    """Of each sample the share of other pictures to which it is less similar than to its own, `(n,)` float64.

    Args:
        samples: Features `(n, D)`.
        pictures: Features `(N, D)`, N >= 2.
        own: `(n,)` int64, the row of each sample's picture.
        data: Features `(M, D)` by which all are standardised.

    Raises:
        ValueError: If a feature is not finite, or all are constant over the data.
    """
    if not all(bool(part.isfinite().all()) for part in (samples, pictures, data)):
        raise ValueError("retrieval: a feature is not finite.")
    deviation, mean = torch.std_mean(data.double(), 0)
    varies = deviation > 1e-6 * data.double().abs().amax(0)
    if not bool(varies.any()):
        raise ValueError("retrieval: every feature is constant over the training images.")
    one, other = (
        torch.nn.functional.normalize(((part.double() - mean) / deviation)[:, varies], dim=1)
        for part in (samples, pictures)
    )
    out = []
    for part, row in zip(one.split(1024), own.split(1024), strict=True):
        similar = part @ other.T
        mine = similar.gather(1, row[:, None])
        below = (similar < mine).double() + (similar == mine).double() / 2
        out.append((below.sum(1) - 0.5) / (len(other) - 1))  # the own picture ties with itself
    return torch.cat(out)

"""Whether samples are nearer to the training data than held-out data are."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.neighbours import blocks
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error


class Memorisation(Metric):
    """The share of pairs of a sample and a held-out image of which the sample is nearer to its nearest training image.

    1/2 if samples are as far from the training data as held-out data are, 1 if all are copies, and less than 1/2 if
    samples are farther away than held-out data, as blurred or broken ones are. Ties count half. It is the area under
    the curve of the Mann-Whitney test of data copying. Nearest neighbours are exact, in features.

    Source: Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, arXiv 2004.05675.

    Args:
        batch_size: Rows and columns of the matrix of distances held at once.

    Raises:
        ValueError: If batch_size < 1.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference, reads_held_out = False, True, True, True
    favours_data = False
    lower_is_better: Mapping[str, bool] = {"memorisation": True, "copied": True}

    def __init__(self, batch_size: int = 2000) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: it must be at least 1.")
        self.batch_size = batch_size
        self._last: tuple[Tensor | None, Tensor] = (None, torch.empty(0))  # the last data, and held-out distances

    def check(self, n: int, what: str) -> None:
        if n < 2:
            raise ValueError(f"{what}={n}: it must be at least 2.")

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `memorisation`, a mean over samples, and `copied`.

        `copied` is the share of samples that are nearer to a training image than 99 % of held-out images are, of which
        1 % is the share by chance. The standard error is that of drawing the samples alone.

        Raises:
            ValueError: If there are no held-out data.
        """
        held_out, data = reference.held_out, reference.outputs
        if held_out is None:
            raise ValueError("memorisation: it compares with held-out data, and there are none.")
        if self._last[0] is not data:
            self._last = data, _nearest(held_out.outputs, data, self.batch_size).sort().values
        known, own = self._last[1], _nearest(samples.outputs, data, self.batch_size)
        below = torch.searchsorted(known, own)  # held-out images that are nearer
        upto = torch.searchsorted(known, own, right=True)
        nearer = 1 - (below + upto).double() / (2 * len(known))
        rank = max(0, math.ceil(0.01 * len(known)) - 1)
        return {
            "memorisation": _mean(nearer, samples.strata),
            "copied": _mean((own < known[rank]).double(), samples.strata),
        }


def _mean(values: Tensor, strata: int) -> Score:
    n = len(values)
    return Score(float(values.mean()), standard_error(values, n, strata), influences=influences(values, n, strata))


def _nearest(points: Tensor, data: Tensor, size: int) -> Tensor:
    """Distances `(n,)` float64 of points to the nearest of the data."""
    out = torch.full((len(points),), math.inf, dtype=torch.float64)
    for rows, _, distances in blocks(points, data, size):
        out[rows] = out[rows].minimum(distances.amin(1))
    return out

"""Metrics of neighbourhoods in feature space.

Precision and recall are ours, as torch-fidelity's do not tell one sample from another; density and coverage are ours,
as no library at hand has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from denoiselab.evaluation.metrics import FEATURES, Layer
from denoiselab.evaluation.scorer import Score
from denoiselab.evaluation.statistics import standard_error


class _Neighbourhoods:
    """A metric that counts points in balls of features to their k-th neighbours.

    Args:
        neighbours: k.
        batch_size: Rows of the matrix of distances held at once.

    Raises:
        ValueError: A number is not positive.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True

    def __init__(self, neighbours: int, batch_size: int) -> None:
        if neighbours < 1 or batch_size < 1:
            raise ValueError(f"neighbours={neighbours}, batch_size={batch_size}: each must be at least 1.")
        self.neighbours, self.batch_size = neighbours, batch_size

    def check(self, n: int, what: str) -> None:
        """Refuse fewer images than neighbours.

        Raises:
            ValueError: There are.
        """
        if n <= self.neighbours:
            raise ValueError(f"{what}={n}: it must be more than neighbours={self.neighbours}.")


class PrecisionRecall(_Neighbourhoods):
    """Fractions of samples within the data's balls to the k-th neighbour, and of data within the samples'.

    Source: Kynkäänniemi et al., arXiv 1904.06991.

    Args:
        neighbours: k.
        batch_size: Rows of the matrix of distances held at once.

    Raises:
        ValueError: A number is not positive.
    """

    lower_is_better: Mapping[str, bool] = {"precision": False, "recall": False}

    def __init__(self, neighbours: int = 3, batch_size: int = 2000) -> None:
        super().__init__(neighbours, batch_size)

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`precision`, a mean over samples given the data, so that it has a standard error, and `recall`."""
        x, data = samples.features, reference.features
        assert x is not None
        assert data is not None
        within, found = (torch.zeros(len(points), dtype=torch.bool) for points in (x, data))
        for centres, points, inside in ((data, x, within), (x, data, found)):
            for distances, radius in _balls(centres, points, self.neighbours, self.batch_size):
                inside |= (distances <= radius).any(0)
        error = standard_error(within.double(), len(x), samples.strata)
        return {"precision": Score(float(within.double().mean()), error), "recall": Score(float(found.double().mean()))}


class DensityCoverage(_Neighbourhoods):
    """How many of the data's balls to the k-th neighbour hold a sample, over k, and the fraction that hold any.

    Source: Naeem et al., Reliable Fidelity and Diversity Metrics, arXiv 2002.09797, eq. 2 and 3.

    Args:
        neighbours: k.
        batch_size: Rows of the matrix of distances held at once.

    Raises:
        ValueError: A number is not positive.
    """

    lower_is_better: Mapping[str, bool] = {"density": False, "coverage": False}

    def __init__(self, neighbours: int = 5, batch_size: int = 2000) -> None:
        super().__init__(neighbours, batch_size)

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """`density`, a mean over samples given the data, so that it has a standard error, and `coverage`."""
        x, data = samples.features, reference.features
        assert x is not None
        assert data is not None
        holding = torch.zeros(len(x), dtype=torch.int64)  # balls that hold each sample
        covered = 0
        for distances, radius in _balls(data, x, self.neighbours, self.batch_size):
            inside = distances < radius
            holding += inside.sum(0)
            covered += int(inside.any(1).sum())
        density = holding.double() / self.neighbours
        error = standard_error(density, len(x), samples.strata)
        return {"density": Score(float(density.mean()), error), "coverage": Score(covered / len(data))}


def _balls(centres: Tensor, points: Tensor, neighbours: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Distances `(b, n)` of some centres to all points, and those `(b, 1)` to their own k-th neighbours."""
    for rows in centres.split(batch_size):
        radius = torch.cdist(rows, centres).kthvalue(neighbours + 1, dim=1).values  # the nearest is itself
        yield torch.cdist(rows, points), radius[:, None]

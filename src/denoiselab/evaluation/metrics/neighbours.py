"""Metrics of neighbourhoods in feature space.

Precision and recall are ours, as torch-fidelity's have no value per sample; density and coverage are in none of the
libraries used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Score
from denoiselab.evaluation.feature_contracts import FEATURES, Layer, Metric
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error


class _Neighbourhoods(Metric):
    """A metric that counts points in balls around features, out to their k-th neighbours.

    Args:
        neighbours: k.
        batch_size: Rows and columns of the matrix of distances held at once.

    Raises:
        ValueError: If neighbours < 1 or batch_size < 1.
    """

    layer = FEATURES
    reads_moments, reads_features, reads_reference = False, True, True

    def __init__(self, neighbours: int = 3, batch_size: int = 2000) -> None:
        if neighbours < 1 or batch_size < 1:
            raise ValueError(f"neighbours={neighbours}, batch_size={batch_size}: each must be at least 1.")
        self.neighbours, self.batch_size = neighbours, batch_size
        self._last: tuple[Tensor | None, Tensor] = (None, torch.empty(0))  # the last data, and their radii

    def data_radii(self, data: Tensor) -> Tensor:
        """`_radii` of data, computed once for all sets of samples."""
        if self._last[0] is not data:
            self._last = data, _radii(data, self.neighbours, self.batch_size)
        return self._last[1]

    def check(self, n: int, what: str) -> None:
        if n <= self.neighbours:
            raise ValueError(f"{what}={n}: it must be more than neighbours={self.neighbours}.")


class PrecisionRecall(_Neighbourhoods):
    """Fractions of samples within the data's balls to the k-th neighbour, and of data within the samples'.

    Source: Kynkäänniemi et al., arXiv 1904.06991.
    """

    lower_is_better: Mapping[str, bool] = {"precision": False, "recall": False}

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `precision`, a mean over samples and so with a standard error, and `recall`."""
        x, data = samples.outputs, reference.outputs
        within, found = (torch.zeros(len(points), dtype=torch.bool) for points in (x, data))
        radii_x, radii_data = _radii(x, self.neighbours, self.batch_size), self.data_radii(data)
        for rows, columns, distances in blocks(data, x, self.batch_size):
            within[columns] |= (distances <= radii_data[rows, None]).any(0)
            found[rows] |= (distances <= radii_x[columns]).any(1)
        return {"precision": _mean(within.double(), samples.strata), "recall": Score(float(found.double().mean()))}


class DensityCoverage(_Neighbourhoods):
    """How many of the data's balls to the k-th neighbour hold a sample, over k, and the fraction that hold any.

    Source: Naeem et al., Reliable Fidelity and Diversity Metrics, arXiv 2002.09797, eq. 2 and 3.
    """

    lower_is_better: Mapping[str, bool] = {"density": False, "coverage": False}

    def __init__(self, neighbours: int = 5, batch_size: int = 2000) -> None:
        super().__init__(neighbours, batch_size)

    def scores(self, samples: Layer, reference: Layer) -> dict[str, Score]:
        """See `Metric`: `density`, a mean over samples and so with a standard error, and `coverage`."""
        x, data = samples.outputs, reference.outputs
        holding = torch.zeros(len(x), dtype=torch.int64)  # balls that hold each sample
        covered, radii = torch.zeros(len(data), dtype=torch.bool), self.data_radii(data)
        for rows, columns, distances in blocks(data, x, self.batch_size):
            inside = distances < radii[rows, None]
            holding[columns] += inside.sum(0)
            covered[rows] |= inside.any(1)
        density = holding.double() / self.neighbours
        return {"density": _mean(density, samples.strata), "coverage": Score(float(covered.double().mean()))}


def _mean(values: Tensor, strata: int) -> Score:
    """The mean of values `(n,)` of samples, which are their influences."""
    n = len(values)
    return Score(float(values.mean()), standard_error(values, n, strata), influences=influences(values, n, strata))


def _radii(points: Tensor, neighbours: int, batch_size: int) -> Tensor:
    """Distances `(n,)` float64 of points to their own k-th neighbours."""
    out: list[Tensor] = []
    for rows, _, distances in blocks(points, points, batch_size):
        if rows.start == len(out) * batch_size:
            out.append(distances[:, :0])
        near = torch.cat((out[-1], distances), 1)
        out[-1] = near.topk(min(neighbours + 1, near.shape[1]), dim=1, largest=False).values
    return torch.cat([near[:, -1] for near in out])  # the nearest is itself


def blocks(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and distances `(b, b)` float64 of the blocks of the matrix of distances, row by row.

    By matrix products, whose rounding is that of |x|^2: in single precision it exceeds the distances of features far
    from the origin, or of clusters far from each other. Distances below it are set to 0.
    """
    centre = x.mean(0, dtype=torch.float64)
    for i in range(0, len(x), size):
        a = x[i : i + size] - centre
        for j in range(0, len(y), size):
            b = y[j : j + size] - centre
            distances = torch.cdist(a, b)
            rounding = 2e-8 * (a.norm(dim=1, keepdim=True) + b.norm(dim=1))
            yield slice(i, i + len(a)), slice(j, j + len(b)), distances.where(distances > rounding, 0)

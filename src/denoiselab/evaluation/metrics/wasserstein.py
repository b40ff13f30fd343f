"""The sliced Wasserstein distance between two sets of points."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from denoiselab.data import DataSet
from denoiselab.evaluation.contracts import Extractor, Given, Score, Workspace
from denoiselab.evaluation.metrics.standard_errors import influences, standard_error
from denoiselab.evaluation.ranks import gathered

OUTSIDE: Final = "outside"


class Points:
    """Points in the order of samples, whatever the split into batches and ranks.

    Args:
        dimension: Of a point.
        strata: Point i is drawn from stratum i mod strata.
    """

    def __init__(self, dimension: int, strata: int = 1) -> None:
        self._parts, self.strata = [torch.empty(0, dimension)], strata

    def update(self, samples: Tensor) -> None:
        """Add points `(B, D)`, or signals `(B, C, L)` as points of C L coordinates."""
        self._parts.append(samples.flatten(1).to("cpu", torch.float32))

    def reduce(self, device: torch.device) -> None:
        """Join the points of all ranks, in the order of ranks, by collectives on `device`."""
        self._parts = [part.cpu() for part in gathered(self.points, device)]

    @property
    def points(self) -> Tensor:
        """`(n, D)` float32."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]

    @property
    def n(self) -> int:
        """Number of points."""
        return sum(map(len, self._parts))

    @property
    def fingerprint(self) -> str:
        """sha256 of the points in order."""
        return hashlib.sha256(self.points.contiguous().numpy().tobytes()).hexdigest()


def directions(dimension: int, count: int) -> Tensor:
    """`(count, D)` float64 unit vectors: equal angles on the half circle for D = 2, quasi-random beyond."""
    if dimension == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if dimension == 2:
        angle = torch.arange(count, dtype=torch.float64) * (math.pi / count)
        return torch.stack((angle.cos(), angle.sin()), dim=1)
    sobol = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=0).draw(count, dtype=torch.float64)
    normal = torch.special.ndtri(sobol.clamp(1e-12, 1 - 1e-12))
    unit: Tensor = normal / normal.norm(dim=1, keepdim=True)
    return unit


def sliced_wasserstein(p: Tensor, q: Tensor, along: Tensor) -> float:
    """The mean over directions of W1 between projections, in float64.

    Source: Rabin et al., Wasserstein Barycenter and its Application to Texture Mixing, 2011, with the first power.

    Args:
        p: `(n, D)`.
        q: `(m, D)`.
        along: Unit vectors `(K, D)`.
    """
    from scipy.stats import wasserstein_distance  # slow to import

    projected = zip((along @ p.double().T).numpy(), (along @ q.double().T).numpy(), strict=True)
    return sum(float(wasserstein_distance(a, b)) for a, b in projected) / len(along)


def potentials(p: Tensor, q: Tensor, along: Tensor) -> Tensor:
    """The influence `(n,)` of each point of p on `sliced_wasserstein`, in float64.

    W1 of projections with distribution functions F and G is the integral of |F - G|, so that its derivative by the
    weight of a point x is the integral of sign(F - G) above x, but for a constant: the optimal potential. Source:
    Santambrogio, Optimal Transport for Applied Mathematicians, 2015, sec. 7.2.

    Args:
        p: `(n, D)`.
        q: `(m, D)`.
        along: Unit vectors `(K, D)`.
    """
    out = torch.zeros(len(p), dtype=torch.float64)
    weight = torch.cat((torch.full((len(p),), len(q)), torch.full((len(q),), -len(p))))
    for projected in along @ torch.cat((p, q)).double().T:
        place, order = projected.sort()
        signed = weight[order].cumsum(0)[:-1].sign() * place.diff()  # whole numbers, so that equal ones cancel
        below = torch.zeros_like(place)
        below[order[1:]] = signed.cumsum(0)
        out -= below[: len(p)] / len(along)
    return out


def sliced_w2(p: Tensor, q: Tensor, along: Tensor) -> tuple[float, Tensor]:
    """The root of the mean over directions of W2^2 between projections, and the influence `(n,)` of each point of p.

    The derivative of W2^2 by the weight of a point x is the potential whose slope is 2 (x - T(x)), with T the optimal
    map; between two points it is that of the mean of the two nearest values of T. All in float64.

    Source: Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures, 2015, eq. 7; Santambrogio as above.

    Args:
        p: `(n, D)`.
        q: `(m, D)`.
        along: Unit vectors `(K, D)`.
    """
    n, m = len(p), len(q)
    (x, order), (y, _) = ((along @ one.double().T).sort(dim=1) for one in (p, q))
    edges = torch.cat((torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n)).unique()  # of quantiles, in 1 / (n m)
    widths = edges.diff(prepend=torch.zeros(1, dtype=torch.int64)).double() / (n * m)
    costs = (x[:, (edges - 1) // m] - y[:, (edges - 1) // n]).square() @ widths
    value = float(costs.mean().sqrt())
    between = torch.arange(1, n) * m
    slopes = x[:, 1:] + x[:, :-1] - y[:, (between - 1) // n] - y[:, between // n]
    below = torch.zeros_like(x)
    below[:, 1:] = (slopes * x.diff(dim=1)).cumsum(1)
    potential = torch.zeros_like(below).scatter_(1, order, below).mean(0)
    return value, potential / max(2 * value, torch.finfo(torch.float64).tiny)


def sliced_score(points: Tensor, data: Tensor, along: Tensor, strata: int, power: int = 1) -> Score:
    """The sliced W1 or W2 to sets of as many points of the data as there are samples, averaged over these sets.

    The distance of two finite sets of one distribution is positive and varies; the average varies less. The standard
    error is that of drawing samples, to first order; where the sets are of one distribution, it is up to 1.7 times too
    large, as there the sign of F - G is chance.

    Args:
        points: Of samples, `(n, D)`.
        data: `(m, D)`.
        along: Unit vectors `(K, D)`.
        strata: Sample i is drawn from stratum i mod strata.
        power: 1 or 2.
    """
    whole = [part for part in data.split(len(points)) if len(part) == len(points)] or [data]
    if power == 1:
        found = [(sliced_wasserstein(points, part, along), potentials(points, part, along)) for part in whole]
    else:
        found = [sliced_w2(points, part, along) for part in whole]
    mean = sum(value for value, _ in found) / len(whole)
    influence = torch.stack([one for _, one in found]).mean(0)
    kept = influences(influence, len(points), strata)
    return Score(mean, standard_error(influence, len(points), strata), influences=kept)


class SlicedScorer:
    """Sliced W1 or W2 to fresh points.

    Args:
        dimension: Of a point.
        projections: Number of directions.
        power: 1 or 2.
        covers: Says which points `(B, D)` the density covers; then `outside` is the fraction of those that it does not.
    """

    split = "held_out"

    def __init__(
        self, dimension: int, projections: int, power: int = 1, covers: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.name = self.metric = f"sliced_w{power}"
        self.lower_is_better: Mapping[str, bool] = {self.metric: True, **({OUTSIDE: True} if covers else {})}
        self._dimension, self._directions = dimension, directions(dimension, projections)
        self._power, self._covers = power, covers
        identity = f"{self.name}, {len(self._directions)} directions in {dimension} dimensions"
        self.fingerprint = hashlib.sha256(f"{identity}{', outside' if covers else ''}".encode()).hexdigest()
        self.facts: Mapping[str, Any] = {"projections": len(self._directions)}
        self.description = f"W{power} to fresh points along {len(self._directions)} directions"

    def statistics(self, start: int = 0, strata: int = 1) -> Points:
        """No points; `start` has no effect."""
        return Points(self._dimension, strata)

    def reference(
        self,
        data: DataSet,
        identity: Mapping[str, Any],
        work: Workspace,
        device: torch.device,
        given: Given | None = None,
    ) -> Points:
        """The points of `data`; the other arguments have no effect."""
        out = self.statistics()
        out.update(data.stored(torch.arange(len(data))))
        return out

    def features(self, samples: Tensor) -> Tensor:
        """The points `(B, D)` float32 themselves."""
        return samples.flatten(1).float()

    def scores(self, statistics: Points, reference: Points) -> dict[str, Score]:
        """The `sliced_score` of the points."""
        points, strata = statistics.points, statistics.strata
        out = {self.metric: sliced_score(points, reference.points, self._directions, strata, self._power)}
        if self._covers is not None:
            apart = 1 - self._covers(points).double()
            kept = influences(apart, len(points), strata)
            out[OUTSIDE] = Score(float(apart.mean()), standard_error(apart, len(points), strata), influences=kept)
        return out


class SlicedWasserstein(Extractor):
    """Scores points, or signals, by the sliced Wasserstein distance to held-out points; nothing is trained.

    Args:
        projections: Number of directions; one is enough in one dimension.
        power: 1, or 2, which weighs points that are far off more.
        outside: Give the fraction of points that the density does not cover, too.

    Raises:
        ValueError: If projections < 1, or power is another.
    """

    def __init__(self, projections: int = 128, power: int = 1, outside: bool = False) -> None:
        if projections < 1:
            raise ValueError(f"projections={projections}: it must be at least 1.")
        if power not in (1, 2):
            raise ValueError(f"power={power}: it must be 1 or 2.")
        self.projections, self.power, self.outside = projections, power, outside

    def check(
        self, shape: Sequence[int], metrics: Mapping[str, Any], num_samples: int | None, given: Given | None = None
    ) -> None:
        """Check that samples are points or signals, and that neither metrics nor a file are given."""
        if len(shape) > 2:
            raise ValueError(
                "evaluation.extractor: SlicedWasserstein scores points and signals, and samples have shape "
                f"{list(shape)}; choose evaluation=default for images."
            )
        if metrics:
            raise ValueError(
                f"evaluation.metrics=[{', '.join(metrics)}]: SlicedWasserstein is a metric itself; "
                "pass evaluation.metrics=[]."
            )
        if given is not None:
            raise ValueError(
                f"evaluation.reference={given.path}: SlicedWasserstein takes fresh points; "
                "pass evaluation.reference=null."
            )

    def fit(
        self,
        train: DataSet,
        held_out: DataSet,
        metrics: Mapping[str, Any],
        settings: Mapping[str, Any],
        work: Workspace,
    ) -> SlicedScorer:
        """The scorer of points like `train`; nothing is trained."""
        self.check(train.shape, metrics, None)
        self.check_data(train)
        covers = getattr(train, "covers", None) if self.outside else None
        return SlicedScorer(math.prod(train.shape), self.projections, self.power, covers)

    def check_data(self, train: DataSet) -> None:
        """Check that the density covers a part of the space only, if what lies outside is asked for."""
        if self.outside and getattr(train, "covers", None) is None:
            raise ValueError(
                "evaluation.extractor.outside=true: these data do not say where their density is 0; "
                "data=checkerboard does, others take false."
            )

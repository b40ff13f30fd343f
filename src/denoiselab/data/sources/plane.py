"""Densities on the plane, scaled to mean 0 and one standard deviation in each coordinate.

The scales are the densities' moments in closed form, not those of the drawn points.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.data.points import PointSet
from denoiselab.data.sources.density import Density


@dataclass
class Plane(Density):
    """A density on the plane; options as in `Density`, `shape` (2,).

    Args:
        std: Of each coordinate, after scaling.
    """

    variance: ClassVar[float]  # of each coordinate before scaling

    size: int = 1_000_000
    held_out: int = 50_000
    std: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.std < math.inf:
            raise ValueError(f"data.std={self.std}: it must be positive.")
        if tuple(self.shape) != (2,):
            raise ValueError(f"data.shape={list(self.shape)}: points of {type(self).__name__} have shape [2].")
        super().__post_init__()

    def draw(self, n: int, generator: torch.Generator) -> PointSet:
        points, labels = self._raw(n, generator)
        centre, variance = (torch.tensor(moment, dtype=torch.float64) for moment in self._moments())
        scaled = (points - centre) / variance.sqrt() * self.std
        return PointSet(scaled.float(), labels, self._fresh, covers=self._support())

    def _support(self) -> Callable[[Tensor], Tensor] | None:
        """Says which points `(B, 2)` the density covers, `(B,)` bool; None if it covers the whole plane."""
        return None

    @abstractmethod
    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` points `(n, 2)` float64 before scaling, and labels `(n,)` int64."""

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Means and variances of the coordinates before scaling: 0, and `variance`, if they are not given."""
        return (0.0, 0.0), (self.variance, self.variance)


@dataclass(kw_only=True)
class _Curve(Plane):
    """Points around a curve.

    Args:
        noise: Standard deviation around the curve, before scaling, at least 0.
    """

    noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise < 0:
            raise ValueError(f"data.noise={self.noise}: it must not be negative.")


class SwissRoll(_Curve):
    """A spiral: (s cos s, s sin s) + noise z with s uniform on [1.5 pi, 4.5 pi] and z ~ N(0, I), then scaled.

    The plane of scikit-learn's `make_swiss_roll`; its turns are 2 pi apart, about 0.9 after scaling by about 1 / 6.7.
    Source: Sohl-Dickstein et al., arXiv 1503.03585, figure 1.
    """

    classes = 1

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import make_swiss_roll  # slow to import

        seed = int(torch.randint(2**32, (), generator=generator))
        points, _ = make_swiss_roll(n, noise=self.noise, random_state=seed)
        return torch.from_numpy(points)[:, [0, 2]], torch.zeros(n, dtype=torch.int64)

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        square = 4.875 * math.pi**2  # E s^2 / 2
        mean = (2.0, 2 / (3 * math.pi))
        return mean, (square - 0.25 - mean[0] ** 2 + self.noise**2, square + 0.25 - mean[1] ** 2 + self.noise**2)


class TwoMoons(_Curve):
    """Two half circles: (cos a, sin a) or (1 - cos a, 1/2 - sin a), a uniform on [0, pi], plus noise, then scaled.

    The curves of scikit-learn's `make_moons`, whose angles however are evenly spaced: its draws differ only by their
    noise, and no sampler could be as close to one of them as another draw is. Label: the moon.
    """

    classes = 2

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(2, (n,), generator=generator)
        angle = math.pi * _uniform((n,), generator)
        outer = torch.stack((angle.cos(), angle.sin()), dim=1)
        points = torch.where(labels[:, None] == 0, outer, torch.tensor([1.0, 0.5]) - outer)
        return points + self.noise * _normal((n, 2), generator), labels

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (0.5, 0.25), (0.75 + self.noise**2, 0.5625 - 1 / math.pi + self.noise**2)


class Checkerboard(Plane):
    """Uniform on the 8 dark cells, those with i + j even, of a 4 x 4 board on [-2, 2]^2, then scaled.

    Label: the cell, numbered row by row.
    """

    classes = 8
    variance = 4 / 3

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (n,), generator=generator)
        row = torch.div(labels, 2, rounding_mode="floor")
        corner = torch.stack((2 * (labels % 2) + row % 2, row), dim=1) - 2
        return corner + _uniform((n, 2), generator), labels

    def _support(self) -> Callable[[Tensor], Tensor] | None:
        return self._dark

    def _dark(self, points: Tensor) -> Tensor:
        cell = (points.double() * (math.sqrt(self.variance) / self.std)).floor()
        return (cell.abs() <= 2).all(1) & (cell < 2).all(1) & (cell.sum(1) % 2 == 0)


class EightGaussians(Plane):
    """Equal parts of N(4 (cos a, sin a), 0.5^2 I) at a = 0, pi/4, ..., 7 pi/4, then scaled. Label: the component."""

    classes = 8
    variance = 8.25

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (n,), generator=generator)
        angle = labels.double() * (math.pi / 4)
        centre = 4 * torch.stack((angle.cos(), angle.sin()), dim=1)
        return centre + 0.5 * _normal((n, 2), generator), labels


class Pinwheel(Plane):
    """Five bent arms: (r, s) turned by 2 pi k / 5 + e^r / 4, r ~ N(1, 0.3^2), s ~ N(0, 0.1^2), then scaled.

    Label: the arm k. Source: Johnson et al., arXiv 1603.06277, section 6.
    """

    classes = 5
    variance = 0.55  # (E r^2 + E s^2) / 2, by the fivefold symmetry

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(5, (n,), generator=generator)
        r, s = (_normal((n, 2), generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])).unbind(1)
        angle = labels * (2 * math.pi / 5) + r.exp() / 4
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((r * cos - s * sin, r * sin + s * cos), dim=1), labels


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)

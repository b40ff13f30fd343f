"""Densities on the plane, each of mean 0 and variance 1 in either coordinate: drawn, never downloaded.

The constants that scale them are the densities' own moments in closed form, not those of the points drawn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.data.points import PointSet

# Which draw of a seed: the training points, the held-out ones, then the fresh ones.
_TRAIN, _HELD_OUT, _FRESH = 0, 1, 2


class Plane(ABC):
    """A density on the plane that can be drawn from.

    Args:
        name: Of the data set in scores and folders.
        shape: (2,); configured so that a network can be built without the data.
        num_classes: The density's own.
        size: Training points.
        held_out: Points of a second draw, which scores are taken against.
        seed: Of all draws.

    Raises:
        ValueError: A value is out of range.
    """

    classes: ClassVar[int]

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        num_classes: int,
        size: int = 1_000_000,
        held_out: int = 50_000,
        seed: int = 0,
    ) -> None:
        kind = type(self).__name__
        if tuple(shape) != (2,):
            raise ValueError(f"data.shape={list(shape)}: points of {kind} have shape [2].")
        if num_classes != self.classes:
            raise ValueError(f"data.num_classes={num_classes}: {kind} has {self.classes}.")
        for option, value in (("size", size), ("held_out", held_out)):
            if value < 1:
                raise ValueError(f"data.{option}={value}: it must be at least 1.")
        if not 0 <= seed < 2**63:
            raise ValueError(f"data.seed={seed}: it must be at least 0 and less than 2^63.")
        self.name, self.shape, self.size, self.held_out, self.seed = name, tuple(shape), size, held_out, seed

    def load(self) -> tuple[PointSet, PointSet]:
        """(train, held-out): two independent draws."""
        return self._draw(self.size, _TRAIN), self._draw(self.held_out, _HELD_OUT)

    def draw(self, n: int, generator: torch.Generator) -> PointSet:
        """`n` independent points from `generator`."""
        points, labels = self._raw(n, generator)
        centre, variance = (torch.tensor(moment, dtype=torch.float64) for moment in self._moments())
        return PointSet(((points - centre) / variance.sqrt()).float(), labels, self._fresh)

    @abstractmethod
    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` points `(n, 2)` float64 before scaling, and labels `(n,)` int64."""

    @abstractmethod
    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Means and variances of the coordinates before scaling."""

    def _draw(self, n: int, number: int) -> PointSet:
        # One word for (seed, number), as for the order of training.
        word = (self.seed + (number + 1) * 0x9E3779B97F4A7C15) % 2**63
        return self.draw(n, torch.Generator().manual_seed(word))

    def _fresh(self, n: int, number: int) -> PointSet:
        return self._draw(n, _FRESH + number)


class _Curve(Plane):
    """Points about a curve.

    Args:
        name: Of the data set in scores and folders.
        shape: (2,).
        num_classes: The density's own.
        size: Training points.
        held_out: Points of a second draw, which scores are taken against.
        seed: Of all draws.
        noise: Standard deviation about the curve, before scaling, at least 0.

    Raises:
        ValueError: A value is out of range.
    """

    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        num_classes: int,
        size: int = 1_000_000,
        held_out: int = 50_000,
        seed: int = 0,
        *,
        noise: float,
    ) -> None:
        super().__init__(name, shape, num_classes, size, held_out, seed)
        if noise < 0:
            raise ValueError(f"data.noise={noise}: it must not be negative.")
        self.noise = noise


class SwissRoll(_Curve):
    """A spiral: (s cos s, s sin s) + noise z with s uniform on [1.5 pi, 4.5 pi] and z ~ N(0, I), then scaled.

    The plane of scikit-learn's `make_swiss_roll`; its turns are 2 pi apart, about 0.9 after scaling by about 1 / 6.7.
    Source: Sohl-Dickstein et al., arXiv 1503.03585, figure 1.
    """

    classes = 1

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        from sklearn.datasets import make_swiss_roll  # slow to import, and only needed here

        seed = int(torch.randint(2**32, (), generator=generator))
        points, _ = make_swiss_roll(n, noise=self.noise, random_state=seed)
        return torch.from_numpy(points)[:, [0, 2]], torch.zeros(n, dtype=torch.int64)

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        square = 4.875 * math.pi**2  # E s^2 / 2
        mean = (2.0, 2 / (3 * math.pi))
        return mean, (square - 0.25 - mean[0] ** 2 + self.noise**2, square + 0.25 - mean[1] ** 2 + self.noise**2)


class TwoMoons(_Curve):
    """Two half circles: (cos a, sin a) or (1 - cos a, 1/2 - sin a), a uniform on [0, pi], plus noise, then scaled.

    The curves of scikit-learn's `make_moons`, which however spaces the angles evenly: its draws would differ by
    their noise alone, and no sampler could come as close to one as another of them. Label: the moon.
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

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (n,), generator=generator)
        row = torch.div(labels, 2, rounding_mode="floor")
        corner = torch.stack((2 * (labels % 2) + row % 2, row), dim=1) - 2
        return corner + _uniform((n, 2), generator), labels

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (0.0, 0.0), (4 / 3, 4 / 3)


class EightGaussians(Plane):
    """Equal parts of N(4 (cos a, sin a), 0.5^2 I) at a = 0, pi/4, ..., 7 pi/4, then scaled. Label: the component."""

    classes = 8

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(8, (n,), generator=generator)
        angle = labels.double() * (math.pi / 4)
        centre = 4 * torch.stack((angle.cos(), angle.sin()), dim=1)
        return centre + 0.5 * _normal((n, 2), generator), labels

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (0.0, 0.0), (8.25, 8.25)


class Pinwheel(Plane):
    """Five bent arms: (r, s) turned by 2 pi k / 5 + e^r / 4, r ~ N(1, 0.3^2), s ~ N(0, 0.1^2), then scaled.

    Label: the arm k. Source: Johnson et al., arXiv 1603.06277, section 6.
    """

    classes = 5

    def _raw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        labels = torch.randint(5, (n,), generator=generator)
        r, s = (_normal((n, 2), generator) * torch.tensor([0.3, 0.1]) + torch.tensor([1.0, 0.0])).unbind(1)
        angle = labels * (2 * math.pi / 5) + r.exp() / 4
        cos, sin = angle.cos(), angle.sin()
        return torch.stack((r * cos - s * sin, r * sin + s * cos), dim=1), labels

    def _moments(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (0.0, 0.0), (0.55, 0.55)  # (E r^2 + E s^2) / 2: turning by fifths leaves no other


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)

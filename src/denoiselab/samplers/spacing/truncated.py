"""Grids that start at an intermediate level, from a Gaussian with the data's moments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from denoiselab.errors import BadInput
from denoiselab.samplers.spacing.ends import Wrapped
from denoiselab.samplers.spacing.grids import Asinh, Spacing
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


@dataclass(eq=False)
class Truncated(Wrapped):
    """The levels of another grid from one on, where samples start from N(alpha m, alpha^2 C + sigma^2 I).

    m and C are mean and covariance of the data. The start is where the exact ODE of such a Gaussian takes x_T, so it
    needs no network call, and keeps what x_T decides. The noisier the level, the nearer is it to the data's own ODE.

    Source: truncated diffusion, Zheng et al., arXiv 2202.09671, whose start is a generator's samples.

    Args:
        spacing: The other grid; `first_lam` is the file's.
        path: As `task=truncate` writes it.

    Raises:
        ValueError: If the file cannot be read or holds no moments; (begin) if they are of another shape.
    """

    first_lam: float | None = field(init=False, repr=False)
    spacing: Spacing = field(default_factory=Asinh)
    path: str = field(kw_only=True)

    def __post_init__(self) -> None:
        try:
            found: Any = torch.load(self.path, map_location="cpu", weights_only=True)
            self._mean, self._variances, self._axes = (found[name] for name in ("mean", "variances", "axes"))
            self.first_lam = float(found["lam"])
        except OSError as error:
            raise ValueError(f"path={self.path}: {error.strerror or error}.") from None
        except Exception:  # torch.load raises errors of many kinds
            raise ValueError(f"path={self.path}: the file has no moments; name one of task=truncate.") from None
        super().__post_init__()

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self.spacing.levels(schedule, count)

    def begin(self, z: Tensor, level: Level) -> Tensor:
        if z[0].numel() != len(self._mean):
            raise BadInput(f"path={self.path}: of {len(self._mean)} dimensions, and samples have {z[0].numel()}.")
        mean, variances, axes = (one.to(z.device) for one in (self._mean, self._variances, self._axes))
        alpha, sigma = like(level.alpha, mean), like(level.sigma, mean)
        along = (alpha.square() * variances + sigma.square()).sqrt() * (z.flatten(1).double() @ axes)
        out: Tensor = (alpha * mean + along @ axes.T).to(z).reshape(z.shape)
        return out

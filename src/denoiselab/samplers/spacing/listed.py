"""Grids from lists of levels: as given, stretched to a schedule, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from denoiselab.files import read_json
from denoiselab.samplers.spacing.grids import Spacing, fractions
from denoiselab.samplers.transfer import Axis, Lam, Rho
from denoiselab.schedules import Level, Schedule

# Stable Diffusion 1.5's list of sigma / alpha (Sabour et al., arXiv 2404.14507).
ALIGN_YOUR_STEPS = (
    14.6146412293, 6.4745760956, 3.8636745985, 2.694615152, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
    0.3977456272, 0.1515232662, 0.0291671582,
)  # fmt: skip


@dataclass(eq=False)
class Listed(Spacing):
    """Given levels; for another number of them, log rho is interpolated linearly over the index.

    A run starts at the first value, even if the schedule has noisier levels. The other arguments are those of
    `Spacing`, with `first_lam=None` for all values.

    Args:
        values: At least 2 coordinates, from noise to data.
        axis: The coordinate that they are.

    Raises:
        ValueError: If there are fewer than 2 values, or (`levels`) they do not go from noise to data on the schedule,
            or `first_lam` leaves fewer than 2.
    """

    values: Sequence[float]
    axis: Axis = field(default_factory=Rho)

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise ValueError(f"values={list(self.values)}: give at least 2 levels, from noise to data.")

    def levels(self, schedule: Schedule, count: int) -> Level:
        listed = [self.axis.level(schedule, value) for value in self.values]
        if not all(a.lam < b.lam for a, b in pairwise(listed)):
            raise ValueError(
                f"values={list(self.values)}: on this schedule they do not go from noise to data, each once."
            )
        if self.first_lam is not None:
            listed = [level for level in listed if level.lam >= self.first_lam]
            if len(listed) < 2:
                raise ValueError(f"first_lam={self.first_lam}: it must leave at least 2 of the listed levels.")
        if count == len(listed):
            return schedule.level(torch.stack([level.t for level in listed]))
        lam = torch.stack([level.lam for level in listed])
        pure = int(lam[0].isinf()) if count > 1 and len(lam) > 2 else 0  # pure noise stays the first level
        ends, lam = lam[:pure], lam[pure:]
        place = fractions(count - pure) * (len(lam) - 1)
        left = place.floor().clamp(max=len(lam) - 2).long()
        between = schedule.time_of(torch.lerp(lam[left], lam[left + 1], place - left))
        return schedule.level(torch.cat((ends.new_full(ends.shape, schedule.t_max), between)))


@dataclass(eq=False)
class Refining(Spacing):
    """The noisy end of the schedule, then given levels: a run of S steps has the first S - 1 of them.

    For more steps than that, half log-SNR is interpolated linearly over the index of the given levels.

    Args:
        values: At least 1 coordinate, from noise to data. Default: of rho; the first is that of 2 steps on CIFAR-10 of
            improved consistency training (arXiv 2310.14189).
        axis: The coordinate that they are.

    Raises:
        ValueError: If there are no values, or (`levels`) they do not go from the schedule's start to data, or one
            is to be interpolated.
    """

    values: Sequence[float] = (0.821, 0.4, 0.2)
    axis: Axis = field(default_factory=Rho)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("values=[]: give at least 1 level.")

    def levels(self, schedule: Schedule, count: int) -> Level:
        start = schedule.level(torch.tensor(schedule.start(self.first_lam), dtype=torch.float64))
        listed = [self.axis.level(schedule, value) for value in self.values]
        if not all(a.lam < b.lam for a, b in pairwise([start, *listed])):
            raise ValueError(
                f"values={list(self.values)}: on this schedule they do not go from its noisy end to data, each once."
            )
        if count - 1 <= len(listed):
            return schedule.level(torch.stack([level.t for level in [start, *listed[: count - 1]]]))
        if len(listed) == 1:
            raise ValueError(f"steps={count}: with one level in values there are at most 2 steps; list more.")
        lam = torch.stack([level.lam for level in listed])
        place = fractions(count - 1) * (len(lam) - 1)
        left = place.floor().clamp(max=len(lam) - 2).long()
        between = schedule.time_of(torch.lerp(lam[left], lam[left + 1], place - left))
        return schedule.level(torch.cat((start.t[None], between)))


@dataclass(eq=False)
class Stretched(Spacing):
    """A list of rho = sigma / alpha made for one schedule; its logarithm is stretched to the ends of another.

    For another number of steps it is interpolated linearly over the index; with `to_clean` clean data replace its
    last value. The lists of Align Your Steps are used in this way. Pure noise at `t_max` is treated as in
    `UniformLogSNR`.

    Source: Sabour et al., Align Your Steps, arXiv 2404.14507, section 4.

    Args:
        values: At least 2 of rho, from noise to data. Default: Stable Diffusion 1.5's list.

    Raises:
        ValueError: If there are fewer than 2 values, or they do not fall.
    """

    values: Sequence[float] = ALIGN_YOUR_STEPS

    def __post_init__(self) -> None:
        if len(self.values) < 2 or not all(a > b > 0 for a, b in pairwise(self.values)):
            raise ValueError(f"values={list(self.values)}: give at least 2 of sigma / alpha, falling, above 0.")
        lam = -torch.tensor(self.values, dtype=torch.float64).log()
        self.shape = (lam - lam[0]) / (lam[-1] - lam[0])

    def levels(self, schedule: Schedule, count: int) -> Level:
        return self._along(schedule, count, lambda lam: lam, lambda u: u, self._places)

    def _places(self, count: int) -> Tensor:
        place = fractions(count + 1)[:-1] if self.to_clean else fractions(count)
        place = place * (len(self.shape) - 1)
        left = place.floor().clamp(max=len(self.shape) - 2).long()
        return torch.lerp(self.shape[left], self.shape[left + 1], place - left)


@dataclass(eq=False)
class FromFile(Listed):
    """The half log-SNRs of a JSON file, its list `lam`, from noise to data.

    The other arguments are those of `Spacing`, with `first_lam=None` for all values.

    Args:
        path: The file.

    Raises:
        ValueError: If the file cannot be read or has no list of numbers `lam`.
    """

    values: Sequence[float] = field(init=False, repr=False)
    axis: Axis = field(init=False, repr=False)
    path: str

    def __post_init__(self) -> None:
        try:
            values = read_json(Path(self.path)).get("lam")
        except (OSError, ValueError) as error:
            raise ValueError(f"path={self.path}: {getattr(error, 'strerror', None) or error}.") from None
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"path={self.path}: the file has no list of numbers 'lam'.")
        self.values, self.axis = values, Lam()
        super().__post_init__()

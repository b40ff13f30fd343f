"""Grids from lists of levels: given, stretched to a schedule, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from denoiselab.files import read_json
from denoiselab.samplers.spacing import Spacing, fractions
from denoiselab.samplers.transfer import Axis, Lam
from denoiselab.schedules import Level, Schedule


class Listed(Spacing):
    """Given levels; for another number of them, log rho is interpolated linearly over their index.

    A run starts at the first, though the schedule may begin with more noise.

    Args:
        values: At least 2 coordinates, from noise to data.
        axis: Which coordinate they are.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`, but None for all values.

    Raises:
        ValueError: There are fewer than 2.
    """

    def __init__(
        self, values: Sequence[float], axis: Axis, to_clean: bool = True, first_lam: float | None = None
    ) -> None:
        super().__init__(to_clean, first_lam)
        if len(values) < 2:
            raise ValueError(f"values={list(values)}: give at least 2 levels, from noise to data.")
        self.values, self.axis = list(values), axis

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels.

        Raises:
            ValueError: The values do not go from noise to data, or `first_lam` leaves fewer than 2.
        """
        listed = [self.axis.level(schedule, value) for value in self.values]
        if not all(a.lam < b.lam for a, b in pairwise(listed)):
            raise ValueError(f"values={self.values}: on this schedule they do not go from noise to data, each once.")
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


class Stretched(Spacing):
    """A list of rho made for another schedule, its log stretched so that its ends are this one's.

    For other numbers of steps it is interpolated linearly over its index; with `to_clean` its last value gives way to
    clean data. That is how the lists of Sabour et al. are used (Align Your Steps, arXiv 2404.14507, section 4), which
    begin at Stable Diffusion's 14.6. Pure noise at `t_max` is treated as in `UniformLogSNR`.

    Args:
        values: At least 2 of rho = sigma / alpha, from noise to data.
        to_clean: As in `Spacing`.
        first_lam: As in `Spacing`.

    Raises:
        ValueError: There are fewer than 2, or they do not fall.
    """

    def __init__(self, values: Sequence[float], to_clean: bool = True, first_lam: float | None = None) -> None:
        super().__init__(to_clean, first_lam)
        if len(values) < 2 or not all(a > b > 0 for a, b in pairwise(values)):
            raise ValueError(f"values={list(values)}: give at least 2 of sigma / alpha, falling, above 0.")
        lam = -torch.tensor(values, dtype=torch.float64).log()
        self.shape = (lam - lam[0]) / (lam[-1] - lam[0])

    def levels(self, schedule: Schedule, count: int) -> Level:
        """The noisy levels."""
        return self._along(schedule, count, lambda lam: lam, lambda u: u, self._places)

    def _places(self, count: int) -> Tensor:
        place = fractions(count + 1)[:-1] if self.to_clean else fractions(count)
        place = place * (len(self.shape) - 1)
        left = place.floor().clamp(max=len(self.shape) - 2).long()
        return torch.lerp(self.shape[left], self.shape[left + 1], place - left)


class FromFile(Listed):
    """The half log-SNRs of a JSON file, its list `lam`, from noise to data.

    Args:
        path: The file.
        to_clean: As in `Spacing`.
        first_lam: As in `Listed`.

    Raises:
        ValueError: It cannot be read.
    """

    def __init__(self, path: str, to_clean: bool = True, first_lam: float | None = None) -> None:
        try:
            values = read_json(Path(path)).get("lam")
        except (OSError, ValueError) as error:
            raise ValueError(f"path={path}: {getattr(error, 'strerror', None) or error}.") from None
        if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
            raise ValueError(f"path={path}: it holds no list of numbers 'lam'.")
        super().__init__(values, Lam(), to_clean, first_lam)

"""At which noise levels a batch is trained."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from denoiselab.noise import Noise
from denoiselab.schedules import Level, Schedule


class LevelDistribution(Protocol):
    """Draws one level a sample."""

    def __call__(self, schedule: Schedule, noise: Noise) -> Level:
        """Levels `(B,)`, float64, on the device of the noise's index."""
        ...


class UniformTime:
    """t uniform in [t_min, t_max], independent between samples."""

    def __call__(self, schedule: Schedule, noise: Noise) -> Level:
        """Levels `(B,)`, float64."""
        u: Tensor = noise.uniform()
        return schedule.level(schedule.t_min + u * (schedule.t_max - schedule.t_min))

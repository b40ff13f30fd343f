"""The one sampling loop, the one primitive step, and what every sampler declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.spacing import Spacing
from denoiselab.schedules import Level, Schedule

OnStep = Callable[[int], None]


def move_x0(x: Tensor, here: Level, there: Level, x0: Tensor) -> Tensor:
    """Move x from `here` to `there` exactly as if the predicted x0 `(B, *)` were constant on the way."""
    ratio = there.sigma / here.sigma
    return ratio * x + (there.alpha - ratio * here.alpha) * x0


def move_eps(x: Tensor, here: Level, there: Level, eps: Tensor) -> Tensor:
    """Move x from `here` to `there` exactly as if the predicted eps `(B, *)` were constant on the way."""
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - ratio * here.sigma) * eps


class Sampler(ABC):
    """A rule for one step between two levels, with the grid and number of steps it uses by default.

    The driver `integrate` owns both ends of the axis: a step that starts at alpha = 0 or lands at sigma = 0 is one
    network call and a transfer of the predicted x0, the same for every sampler. `step` never sees an end.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps from noise to data, at least 1.

    Raises:
        ValueError: `steps` is less than 1.
    """

    order: ClassVar[int]
    calls_per_step: ClassVar[int] = 1

    def __init__(self, spacing: Spacing, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: a sampler takes at least 1 step.")
        self.spacing = spacing
        self.steps = steps

    def init(self) -> Any:
        """The state that `step` carries along; None for samplers without memory."""
        return None

    @abstractmethod
    def step(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x: Tensor,
        here: Level,
        there: Level,
        state: Any,
        noise: Noise,
    ) -> tuple[Tensor, Any]:
        """Move x `(B, *)` from `here` to `there`, both interior; return it with the new state."""

    def nfe(self, steps: int) -> int:
        """Network calls of a run of `steps` steps; the last one lands on clean data where the spacing says so."""
        if self.spacing.to_clean:
            return self.calls_per_step * (steps - 1) + 1
        return self.calls_per_step * steps

    def steps_for(self, nfe: int) -> int:
        """The most steps that spend at most `nfe` network calls.

        Raises:
            ValueError: Not one step fits.
        """
        if nfe < self.nfe(1):
            raise ValueError(f"nfe={nfe}: {type(self).__name__} takes at least {self.nfe(1)} network calls.")
        return 1 + (nfe - self.nfe(1)) // self.calls_per_step

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        schedule: Schedule,
        shape: Sequence[int],
        noise: Noise,
        *,
        steps: int | None = None,
        on_step: OnStep | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw samples `(B, *shape)`, B being the noise's batch.

        Args:
            denoise: A denoiser with its conditioning bound.
            schedule: The path from noise to data.
            shape: Shape of one sample.
            noise: Source of x_T (its first draw) and of every later draw.
            steps: Number of steps, instead of the sampler's own.
            on_step: Called after each step with its number, from 1; what it raises stops the run.
            dtype: Of the samples.
        """
        levels = self.spacing(schedule, self.steps if steps is None else steps)
        x = levels[0].sigma * noise.normal(shape, dtype)
        return integrate(self, denoise, schedule, levels, x, noise, on_step=on_step)


def integrate(
    sampler: Sampler,
    denoise: Denoise,
    schedule: Schedule,
    levels: Sequence[Level],
    x: Tensor,
    noise: Noise,
    *,
    on_step: OnStep | None = None,
) -> Tensor:
    """Carry x `(B, *)` along `levels`: the only sampling loop. Nothing in it waits for the device."""
    state = sampler.init()
    for number, (here, there) in enumerate(pairwise(levels), start=1):
        if here.is_end or there.is_end:
            prediction = denoise(x, here)
            x = there.alpha * prediction.x0 + there.sigma * prediction.eps
        else:
            x, state = sampler.step(denoise, schedule, x, here, there, state, noise)
        if on_step is not None:
            on_step(number)
    return x


class count_calls:  # noqa: N801
    """A denoiser that counts its calls: the only source of reported NFE.

    Args:
        denoise: What is called.
    """

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.calls = 0

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Pass the call on."""
        self.calls += 1
        return self._denoise(x, level)

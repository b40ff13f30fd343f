"""Observers of a run: callbacks, call counts, trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.schedules import Level


class Moment(NamedTuple):
    """The state of a run after a step; for an adaptive sampler, after a network call.

    Args:
        number: Number of the step or call, from 1.
        steps: Number of steps of the run; 0 for an adaptive sampler.
        level: The level of x; for an adaptive sampler, one level a sample.
        x: The state `(B, *)`.
        x0: The last predicted x0, `(B, *)`.
    """

    number: int
    steps: int
    level: Level
    x: Tensor
    x0: Tensor


OnStep = Callable[[Moment], None]


class Watch:
    """A denoiser that stores its last prediction.

    Args:
        denoise: The denoiser.
        on_call: Called after each call with its number from 1, x, the level and the prediction; None for nothing.
        refuses: Name of a sampler that does not use `Prediction.renoise`; None for one that does.

    Raises:
        ValueError: (call) If a prediction has a `renoise` that the sampler does not use.
    """

    last: Prediction

    def __init__(
        self,
        denoise: Denoise,
        on_call: Callable[[int, Tensor, Level, Prediction], None] | None,
        refuses: str | None = None,
    ) -> None:
        self._denoise, self._on_call, self._refuses, self._calls = denoise, on_call, refuses, 0

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Call the denoiser, and store its prediction."""
        self.last = self._denoise(x, level)
        if self.last.renoise is not None and self._refuses is not None:
            raise ValueError(
                f"the denoiser predicts a noise to add back to x0, and {self._refuses} adds none; use DDIM or Analytic."
            )
        self._calls += 1
        if self._on_call is not None:
            self._on_call(self._calls, x, level, self.last)
        return self.last


class count_calls:  # noqa: N801
    """A denoiser that counts its calls: the only source of reported NFE.

    Args:
        denoise: The denoiser. Its attribute `evaluations_per_call`, if any, is the number of network evaluations of a
            sample in one call (2 with classifier-free guidance); the default is 1.
    """

    def __init__(self, denoise: Denoise) -> None:
        self._denoise = denoise
        self.calls = 0
        self.rows = 0  # calls, summed over the samples

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Count and forward the call."""
        self.calls += 1
        self.rows += len(x)
        return self._denoise(x, level)

    @property
    def evaluated_rows(self) -> int:
        """Number of network evaluations, summed over the samples."""
        return self.rows * int(getattr(self._denoise, "evaluations_per_call", 1))

    @property
    def classified_rows(self) -> int:
        """Number of passes of a guiding classifier, summed over the samples."""
        return int(getattr(self._denoise, "classified_rows", 0))


class Trajectory:
    """An `on_step` that stores x and the predicted x0 of every few steps on the CPU.

    Args:
        every: Interval in steps; the last step is always stored.

    Raises:
        ValueError: If every < 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every={every}: it must be at least 1.")
        self.every = every
        self.moments: list[Moment] = []

    def __call__(self, moment: Moment) -> None:
        """Store a moment."""
        if self.moments and self.moments[-1].number % self.every:
            self.moments.pop()
        self.moments.append(moment._replace(x=moment.x.cpu(), x0=moment.x0.cpu()))

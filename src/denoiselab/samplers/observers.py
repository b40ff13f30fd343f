"""Observers of a run: callbacks, call counts, trajectories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.schedules import Level


class Moment(NamedTuple):
    """The state of a run after a step; for an adaptive sampler, after a network call.

    Attributes:
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

# What is evaluated: the model's network, another one that guides it, the network's gradient (a backward pass), or a
# classifier with its gradient.
Evaluated = Literal["network", "guide", "gradient", "classifier"]


class Watch:
    """A denoiser that stores its last prediction, and tells the inner one where the sampler's step began.

    Attributes:
        last: The last prediction.
        begun: The level at which the present step began (`Level.step` of all levels that it passes on); None if every
            call begins one.

    Args:
        denoise: The denoiser.
        on_call: Called after each call with its number from 1, x, the level and the prediction; None for nothing.
        refused: Fields of a prediction that the sampler does not use, each with a sentence that says so; None for none.

    Raises:
        ValueError: (call) If a prediction has such a field.
    """

    last: Prediction
    begun: Level | None = None

    def __init__(
        self,
        denoise: Denoise,
        on_call: Callable[[int, Tensor, Level, Prediction], None] | None,
        refused: Mapping[str, str] | None = None,
    ) -> None:
        self._denoise, self._on_call, self._refused, self._calls = denoise, on_call, refused or {}, 0

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Call the denoiser, and store its prediction."""
        if self.begun is not None and self.begun is not level:
            level = replace(level, step=self.begun)
        self.last = self._denoise(x, level)
        for name, sentence in self._refused.items():
            if getattr(self.last, name) is not None:
                raise ValueError(sentence)
        self._calls += 1
        if self._on_call is not None:
            self._on_call(self._calls, x, level, self.last)
        return self.last


class Tally:
    """What a run spends: the only source of reported NFE and evaluations.

    Attributes:
        calls: Calls of the denoiser that samplers see (`counted`), guided or not: the NFE.
        rows: These calls, summed over the samples.
    """

    def __init__(self) -> None:
        self.calls = self.rows = 0
        self._evaluations: Counter[Evaluated] = Counter({"network": 0})

    def add(self, what: Evaluated, rows: int) -> None:
        """Add evaluations of `rows` samples; of no sample, so that a count of 0 is reported."""
        self._evaluations[what] += rows

    @property
    def differentiated(self) -> int:
        """Evaluations so far of the networks that a backward pass goes through: the model's, and one that guides it."""
        return self._evaluations["network"] + self._evaluations["guide"]

    def counted(self, denoise: Denoise) -> Denoise:
        """A denoiser whose calls are counted as NFE."""

        def call(x: Tensor, level: Level, /) -> Prediction:
            self.calls += 1
            self.rows += len(x)
            return denoise(x, level)

        return call

    @property
    def counts(self) -> dict[str, int]:
        """Sums over the samples as records name them: `nfe`, `network_evaluations`, and others where there are any."""
        return {"nfe": self.rows, **{f"{what}_evaluations": rows for what, rows in self._evaluations.items()}}


def mean_count(total: int, samples: int) -> float:
    """Calls a sample, an int if it is whole."""
    mean = total / samples
    return int(mean) if mean.is_integer() else round(mean, 2)


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

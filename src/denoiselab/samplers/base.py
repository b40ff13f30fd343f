"""The one sampling loop, and what every sampler declares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.observers import Moment, OnStep, Watch
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.schedules import Level, Schedule


class Memory:
    """What a run remembers between steps: past predictions, the newest first, and the state that a corrector mends."""

    def __init__(self) -> None:
        self.past: list[Tensor] = []
        self.x: Tensor | None = None

    def add(self, m: Tensor, keep: int) -> None:
        """Remember a prediction, and of all the last `keep`."""
        self.past.insert(0, m)
        del self.past[keep:]


class Step(Protocol):
    """A step with its coefficients computed."""

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        """Move x `(B, *)`."""
        ...


class Planned(NamedTuple):
    """A step, and where it lands."""

    step: Step
    there: Level


class Sampler(ABC):
    """A rule for the steps between levels, with the grid and number of steps it uses by default.

    The driver owns both ends of the axis: a step that starts at alpha = 0 or lands at sigma = 0 is one network call
    and a transfer of the prediction, the same for every sampler that does not say otherwise (`at_last`, `land`). A
    rule for steps never sees an end, so what is done at every level is `at_last` too.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps from noise to data, at least 1.
        threshold: Mends each predicted x0; None for none.

    Raises:
        ValueError: `steps` is less than 1, or the threshold keeps eps and the sampler adds none back.
    """

    # Order of convergence on smooth problems: of the ODE's solution at the last noisy level, once there is a history,
    # or weak for a stochastic sampler. None where samples do not converge as steps are added, for the reason in
    # `no_order`. The tests hold every sampler of conf/sampler to these declarations.
    order: int | None
    no_order: str = ""
    calls_per_step: int = 1
    calls_at_last: int = 0  # network calls of `at_last`
    stochastic: bool = False
    # Whether it chooses its own steps, so that its calls are known only when they are made.
    adaptive: bool = False
    # Whether its steps add a predicted noise to x0, so that it can be another than eps (`Prediction.renoise`).
    renoises: bool = False

    def __init__(self, spacing: Spacing, steps: int, threshold: Threshold | None = None) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: a sampler takes at least 1 step.")
        if threshold is not None and threshold.keep_eps and not self.renoises:
            raise ValueError(
                f"threshold.keep_eps=true: {type(self).__name__} does not add eps back to x0, so it cannot keep one; "
                "DDIM and Analytic do, and others take keep_eps=false."
            )
        self.spacing = spacing
        self.steps = steps
        self.threshold = threshold

    @abstractmethod
    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """The steps along `levels`, none of them an end; `to_come` steps follow that are not seen."""

    def at_last(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """What is done at the last of `levels`, none of them an end, before clean data or the run's end: nothing."""
        return []

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        """The step from the last noisy level to clean data, of one call."""
        return jump(here, there)

    def calls(self, steps: int) -> int:
        """Network calls of that many interior steps."""
        return self.calls_per_step * steps

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """All steps of a run, their coefficients computed."""
        first, last = int(levels[0].is_end), len(levels) - int(levels[-1].is_end)
        inner = levels[first:last]
        to_come = len(levels) - last if self.spacing.end_is_step else 0
        steps = self.interior(schedule, inner, to_come) if len(inner) > 1 else []
        if first:
            steps = [jump(levels[0], levels[1]), *steps]
        if inner:
            steps += self.at_last(schedule, inner)
            for end in levels[last:]:  # pure noise, of `encode`, is no rule's own
                steps.append(self.land(schedule, inner[-1], end) if end.sigma == 0 else jump(inner[-1], end))
        return steps

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The levels of a run, of the sampler's own number of steps unless another is given."""
        return self.spacing(schedule, self.steps if steps is None else steps)

    def nfe(self, steps: int, schedule: Schedule) -> int:
        """Network calls of a run of `steps` steps along a schedule, exactly.

        Raises:
            ValueError: The grid has no such number of steps.
        """
        levels = self.grid(schedule, steps)
        ends = min(len(levels) - 1, int(levels[0].is_end) + int(levels[-1].is_end))
        noisy = sum(not level.is_end for level in levels[-2:])
        return ends + self.calls(len(levels) - 1 - ends) + (self.calls_at_last if noisy else 0)

    def steps_for(self, nfe: int, schedule: Schedule) -> int:
        """The most steps that spend at most `nfe` network calls.

        Raises:
            ValueError: Not one step fits.
        """
        least = self.nfe(1, schedule)
        if nfe < least:
            raise ValueError(f"nfe={nfe}: {type(self).__name__} takes at least {least} network calls.")
        fits, too_many = 1, 2
        while self._within(nfe, too_many, schedule):
            fits, too_many = too_many, 2 * too_many
        while too_many - fits > 1:
            steps = (fits + too_many) // 2
            fits, too_many = (steps, too_many) if self._within(nfe, steps, schedule) else (fits, steps)
        return fits

    def _within(self, nfe: int, steps: int, schedule: Schedule) -> bool:
        try:
            return self.nfe(steps, schedule) <= nfe
        except ValueError:  # more than the grid can hold
            return False

    def __call__(
        self,
        denoise: Denoise,
        schedule: Schedule,
        shape: Sequence[int],
        noise: Noise,
        *,
        steps: int | None = None,
        nfe: int | None = None,
        start: Tensor | None = None,
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
            nfe: Budget of network calls, instead of `steps`.
            start: x_T `(B, *shape)`, instead of drawing it.
            on_step: Called after each step; what it raises stops the run.
            dtype: Of the samples.

        Raises:
            ValueError: Both `steps` and `nfe` are given, or the budget is too small.
        """
        if steps is not None and nfe is not None:
            raise ValueError(f"steps={steps} and nfe={nfe}: give one of them.")
        if nfe is not None:
            steps = self.steps_for(nfe, schedule)
        levels = self.grid(schedule, steps)
        x = noise.normal(shape, dtype)
        x = x * float(levels[0].sigma) if start is None else start
        return self.run(denoise, schedule, levels, x, noise, on_step=on_step)

    @torch.no_grad()
    def run(
        self,
        denoise: Denoise,
        schedule: Schedule,
        levels: Sequence[Level],
        x: Tensor,
        noise: Noise,
        *,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Carry x `(B, *)` along `levels`: the only sampling loop. Nothing in it waits for the device."""

        def on_call(number: int, at: Tensor, level: Level, prediction: Prediction) -> None:
            assert on_step is not None
            on_step(Moment(number, 0, level, at, prediction.x0))

        known = not self.adaptive
        seen = Watch(
            denoise if self.threshold is None else self.threshold.wrap(denoise),
            None if known or on_step is None else on_call,
            None if self.renoises else type(self).__name__,
        )
        memory = Memory()
        plan = self.plan(schedule, levels)
        for number, (step, level) in enumerate(plan, start=1):
            x = step(seen, x, memory, noise)
            if on_step is not None and known:
                on_step(Moment(number, len(plan), level, x, seen.last.x0))
        return x

    def encode(
        self,
        denoise: Denoise,
        schedule: Schedule,
        x0: Tensor,
        *,
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """The x_T `(B, *)` from which this sampler, by as many steps, makes x0 `(B, *)`, up to its error.

        To pure noise, where a grid starts there, the transfer of the prediction leads: x_T is the predicted eps.

        Raises:
            ValueError: As `backwards`.
        """
        levels = self.backwards(schedule, steps)
        none = Noise(0, torch.arange(len(x0), device=x0.device))
        return self.run(denoise, schedule, levels, x0 * float(levels[0].alpha), none, on_step=on_step)

    def backwards(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The levels of `encode`: the grid from its last noisy level, at which alpha x0 is taken for x, to its first.

        Raises:
            ValueError: The sampler is stochastic, or the grid has one noisy level alone.
        """
        name = type(self).__name__
        if self.stochastic:
            raise ValueError(
                f"{name} is stochastic: no x_T is the one of an x0; use a deterministic one (DDIM, eta=0)."
            )
        levels = self.grid(schedule, steps)
        noisy = levels[:-1] if levels[-1].is_end else levels
        if len(noisy) < 2:
            raise ValueError(f"{name} with steps={len(levels) - 1} has no step between noisy levels; use more steps.")
        return noisy[::-1]


class OneStep(Sampler):
    """A sampler whose steps know nothing of each other; samplers that refine single steps hold one."""

    @abstractmethod
    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The step from `here` to `there`, neither of them an end."""

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """One step a pair."""
        return [Planned(self.between(schedule, here, there), there) for here, there in pairwise(levels)]


def jump(here: Level, there: Level) -> Planned:
    """The step that starts or lands at an end of the axis, and is not remembered."""
    alpha, sigma = float(there.alpha), float(there.sigma)

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, here)
        if sigma == 0 and alpha == 1:
            return prediction.x0
        return alpha * prediction.x0 + sigma * prediction.added

    return Planned(step, there)


def check_number(name: str, value: float, low: float = 0.0, high: float = math.inf) -> None:
    """Refuse an option outside [low, high].

    Raises:
        ValueError: It is.
    """
    if not low <= value <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name}={value}: it must be {allowed}.")

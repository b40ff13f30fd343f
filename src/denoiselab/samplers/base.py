"""The sampling loop and the base classes of samplers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.declared import Declared
from denoiselab.samplers.observers import Moment, OnStep, Watch
from denoiselab.samplers.spacing import Asinh, Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.schedules import Level, Schedule


class Memory:
    """State of a run between steps: past predictions, the newest first, and of the last step its start and noise."""

    def __init__(self) -> None:
        self.past: list[Tensor] = []
        self.x: Tensor | None = None
        self.noise: Tensor | None = None

    def add(self, m: Tensor, keep: int) -> None:
        """Store a prediction, and drop all but the last `keep`."""
        self.past.insert(0, m)
        del self.past[keep:]


class Step(Protocol):
    """A step with its coefficients computed."""

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        """The next x `(B, *)`."""
        ...


class Planned(NamedTuple):
    """A step and the level at which it ends."""

    step: Step
    there: Level


@dataclass(eq=False)
class Sampler(Declared):
    """A rule for the steps between levels, with its default grid and number of steps.

    The base class makes the steps at both ends of the axis: a step that starts at alpha = 0 or ends at sigma = 0 is
    one network call and a transfer of the prediction, unless the sampler overrides `at_last` or `land`. `interior`
    only gets levels between the ends.

    Subclasses document the arguments that they add, and what they change of these.

    Args:
        spacing: The grid of levels.
        steps: Number of steps from noise to data, at least 1.
        threshold: Applied to every predicted x0, e.g. `Clip`; None for none.

    Raises:
        ValueError: If an option of this class or a subclass is out of range, or `threshold.keep_eps` is set and the
            sampler does not add eps to x0.
    """

    spacing: Spacing = field(default_factory=Asinh)
    steps: int = 20
    threshold: Threshold | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1)
        if self.threshold is not None and self.threshold.keep_eps and not self.renoises:
            raise ValueError(
                f"threshold.keep_eps=true: {type(self).__name__} does not add eps back to x0, so it cannot keep one; "
                "DDIM and Analytic do, and others take keep_eps=false."
            )

    @property
    def follows_ode(self) -> bool:
        """Whether samples converge, with more steps, to the solution of the model's probability-flow ODE from x_T.

        A threshold changes the model's predictions, and so the ODE.
        """
        return not self.stochastic and self.convergence_order is not None and self.threshold is None

    @abstractmethod
    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """The steps along `levels`, none of them an end; the run has `to_come` more steps after them."""

    def at_last(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """Extra steps at the last of the noisy `levels`, before the step to clean data or the end of the run: none."""
        return []

    def land(self, schedule: Schedule, here: Level, there: Level) -> Planned:
        """The step from the last noisy level to clean data; one network call."""
        return jump(here, there)

    def calls(self, steps: int) -> int:
        """Network calls of `steps` interior steps."""
        return self.calls_per_step * steps

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        """All steps of a run, with their coefficients."""
        first, last = int(levels[0].is_end), len(levels) - int(levels[-1].is_end)
        inner = levels[first:last]
        to_come = len(levels) - last if self.spacing.end_is_step else 0
        steps = self.interior(schedule, inner, to_come) if len(inner) > 1 else []
        if first:
            steps = [jump(levels[0], levels[1]), *steps]
        if inner:
            steps += self.at_last(schedule, inner)
            for end in levels[last:]:  # `land` is for clean data; `encode` may end at pure noise
                steps.append(self.land(schedule, inner[-1], end) if end.sigma == 0 else jump(inner[-1], end))
        return steps

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The levels of a run of `steps` steps; None for the sampler's own number."""
        return self.spacing(schedule, self.steps if steps is None else steps)

    def nfe(self, steps: int, schedule: Schedule) -> int:
        """Exact number of network calls of a run.

        Raises:
            ValueError: If the grid cannot have so many steps, or the sampler is adaptive.
        """
        levels = self.grid(schedule, steps)
        ends = min(len(levels) - 1, int(levels[0].is_end) + int(levels[-1].is_end))
        noisy = sum(not level.is_end for level in levels[-2:])
        return ends + self.calls(len(levels) - 1 - ends) + (self.calls_at_last if noisy else 0)

    def steps_for(self, nfe: int, schedule: Schedule) -> int:
        """The largest number of steps that takes at most `nfe` network calls.

        Raises:
            ValueError: If a run of one step takes more.
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
        except ValueError:  # more steps than the grid can have
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
        """Draw samples `(B, *shape)`, where B is the noise's batch size.

        Over the limit of 8 parameters, because this is the one loop of all samplers and each is passed on its own.

        Args:
            denoise: A denoiser with its conditioning bound.
            schedule: The path from noise to data.
            shape: Shape of one sample.
            noise: Source of x_T (its first draw) and of every later draw.
            steps: Number of steps; None for the sampler's own.
            nfe: Budget of network calls, in place of `steps`.
            start: x_T `(B, *shape)`; None to draw it.
            on_step: Called after each step; an exception stops the run.
            dtype: Type of the samples.

        Raises:
            ValueError: If both `steps` and `nfe` are given, or the budget is too small.
        """
        if steps is not None and nfe is not None:
            raise ValueError(f"steps={steps} and nfe={nfe}: give one of them.")
        if nfe is not None:
            steps = self.steps_for(nfe, schedule)
        levels = self.grid(schedule, steps)
        x = noise.normal(shape, dtype)
        x = self.spacing.begin(x, levels[0]) if start is None else start
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
        """The x at the last of `levels`, from x `(B, *)` at the first. The only sampling loop, without host syncs."""

        def on_call(number: int, at: Tensor, level: Level, prediction: Prediction) -> None:
            assert on_step is not None
            on_step(Moment(number, 0, level, at, prediction.x0))

        known = not self.adaptive
        watched = Watch(
            denoise if self.threshold is None else self.threshold.wrap(denoise),
            None if known or on_step is None else on_call,
            self.refused(),
        )
        memory = Memory()
        plan = self.plan(schedule, levels)
        for number, (step, level) in enumerate(plan, start=1):
            watched.begun = (levels[0] if number == 1 else plan[number - 2].there) if known else None
            x = step(watched, x, memory, noise)
            if on_step is not None and known:
                on_step(Moment(number, len(plan), level, x, watched.last.x0))
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
        """The x_T `(B, *)` from which this sampler generates x0 `(B, *)` in as many steps, up to its error.

        If the grid starts at pure noise, x_T is the eps predicted at the noisiest level below it.

        Raises:
            ValueError: As in `backwards`.
        """
        levels = self.backwards(schedule, steps)
        none = Noise(0, torch.arange(len(x0), device=x0.device))
        return self.run(denoise, schedule, levels, x0 * float(levels[0].alpha), none, on_step=on_step)

    def backwards(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The levels of `encode`: the grid from its last noisy level, where x = alpha x0, to its first.

        Raises:
            ValueError: If the sampler is stochastic, or the grid has only one noisy level.
        """
        name = type(self).__name__
        if self.stochastic:
            raise ValueError(
                f"{name} is stochastic: x0 does not determine x_T; use a deterministic sampler (DDIM, eta=0)."
            )
        levels = self.grid(schedule, steps)
        noisy = levels[:-1] if levels[-1].is_end else levels
        if len(noisy) < 2:
            raise ValueError(f"{name} with steps={len(levels) - 1} has no step between noisy levels; use more steps.")
        return noisy[::-1]


class OneStep(Sampler):
    """A sampler whose steps are independent of each other. `Churn`, `Renoised` and `PredictorCorrector` wrap one."""

    @abstractmethod
    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The step from `here` to `there`, neither of them an end."""

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        return [Planned(self.between(schedule, here, there), there) for here, there in pairwise(levels)]


def jump(here: Level, there: Level) -> Planned:
    """The step that starts or ends at an end of the axis; its prediction is not stored in the memory."""
    alpha, sigma, asked = float(there.alpha), float(there.sigma), here.towards(there)

    def step(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
        prediction = denoise(x, asked)
        if sigma == 0 and alpha == 1:
            return prediction.x0
        return alpha * prediction.x0 + sigma * prediction.added

    return Planned(step, there)


def check_one_step(name: str, sampler: Sampler) -> None:
    """Check that a wrapped sampler has independent steps."""
    if not isinstance(sampler, OneStep):
        raise ValueError(f"{name}={type(sampler).__name__}: it must be a single-step sampler.")

"""Step methods of inverse problems: samplers that change the steps of another where the data are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.inverse.operators import LinearOperator
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler, Step, check_one_step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import linear
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class StepMethod(Sampler):
    """A sampler that changes the steps of another, for the measurements of one batch.

    Grid, number of steps and threshold are those of the other sampler.

    Args:
        sampler: Takes the steps; its steps are independent of each other.
        operator: A in y = A x0 + noise.
        y: The measurements of the batch, `(B, *)`.

    Raises:
        ValueError: If the sampler is multistep: its past predictions do not belong to the changed x.
    """

    spacing: Spacing = field(init=False, repr=False)
    steps: int = field(init=False, repr=False)
    threshold: Threshold | None = field(init=False, repr=False)
    sampler: OneStep
    operator: LinearOperator
    y: Tensor

    convergence_order = None
    no_order = "more steps do not make the posterior of a step method exact"

    def __post_init__(self) -> None:
        check_one_step("sampler", self.sampler)
        inner = self.sampler
        self.spacing, self.steps, self.threshold = inner.spacing, inner.steps, inner.threshold
        self.renoises, self.stochastic, self.measurement = inner.renoises, inner.stochastic, inner.measurement
        self.path_dependent = inner.path_dependent
        super().__post_init__()

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        return self.sampler.interior(schedule, levels, to_come)

    def nfe(self, steps: int, schedule: Schedule) -> int:
        return self.sampler.nfe(steps, schedule)

    @property
    def _given(self) -> Tensor:
        """The known part of x0, `(B, *)`."""
        return self.operator.pinv(self.y)

    def _put(self, x: Tensor, given: Tensor, level: Level, noise: Noise) -> Tensor:
        """The batch x `(B, *)` with its known part replaced by that of a noisy x0."""
        alpha, sigma = float(level.alpha), float(level.sigma)
        rest = x - sigma * noise.like(x) if sigma > 0 else x
        return x - self.operator.pinv(self.operator(rest)) + alpha * given.to(x)


@dataclass(eq=False)
class Replaced(StepMethod):
    """After each step the known part of x is replaced by alpha y + sigma z, at clean data by y.

    The known part is A^+ A x, with A^+ y and the noise in its place: the known pixels of a mask, the grey of a colour.
    The noise is fresh at each level and part of the run's. Noise in y is not accounted for, and is pasted. The result
    is biased for any number of steps: the unknown part adapts to the known one only from the next prediction on.

    The released code replaces by y at the level that the step left, not at the one where x is (a lag of one level),
    and leaves the last noise in the unknown part; here both are at the level of x. Measured on a mixture, the lag
    changes nothing that is visible.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, section 5 and appendix I.2;
    with a mask also the inpainting of Latent Diffusion (arXiv 2112.10752, code).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stochastic = True

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        given = self._given
        steps = self.sampler.plan(schedule, levels)
        return [Planned(self._then_put(step, given, there), there) for step, there in steps]

    def _then_put(self, step: Step, given: Tensor, there: Level) -> Step:
        return lambda denoise, x, memory, noise: self._put(step(denoise, x, memory, noise), given, there, noise)


@dataclass(eq=False)
class RePaint(StepMethod):
    """Replacement, and at every `jump_length` levels a return by so many levels, `resample` - 1 times.

    Before each step but the first the known part of x is replaced by alpha y + sigma z; the result is not pasted, so
    that known pixels are predicted like the others. A return adds the noise of the forward process in one draw, where
    the released code takes its steps one by one: the distribution is the same.

    Counted from the last noisy level, the returns are at levels 0, j, 2 j and so on below T - j, of T noisy levels. So
    250 steps with j = 10 and 10 resamplings take 2410 steps down, and as many calls of a sampler of one call a step.
    More resamplings reduce the bias of the mean, more steps that of the variance.

    Source: Lugmayr et al., RePaint, arXiv 2201.09865, algorithm 1 and section 4.2, and the released scheduler.

    Args:
        jump_length: Levels of a return (j).
        resample: How often each stretch is sampled; 1 for once, which is replacement.

    Raises:
        ValueError: If the sampler is multistep, a number is below 1, or resample is 1 and jump_length is not; or
            (steps) if jump_length is not below the number of noisy levels.
    """

    jump_length: int = 10
    resample: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stochastic = True
        check_returns(self.jump_length, self.resample)

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        given, down, reached = self._given, self.sampler.plan(schedule, levels), 0
        out: list[Planned] = []
        for place in self._places(levels):
            back = _noised(levels[reached], levels[place]) if place < reached else None
            step, there = down[place]
            out.append(Planned(self._prepared(step, levels[place], given if out else None, back), there))
            reached = place + 1
        for step, there in down[reached:]:
            out.append(Planned(self._prepared(step, levels[reached], given, None), there))
        return out

    def nfe(self, steps: int, schedule: Schedule) -> int:
        levels = self.grid(schedule, steps)
        places = self._places(levels)
        spent = [1 if level.is_end else self.sampler.calls_per_step for level in levels]
        again = sum(spent[place] for place in places) - sum(spent[place] for place in set(places))
        return self.sampler.nfe(steps, schedule) + again

    def _places(self, levels: Sequence[Level]) -> list[int]:
        """Of the levels from which the steps between noisy levels go, in the order of the run."""
        last, j = _noisy(levels) - 1, self.jump_length
        if j > last:
            raise ValueError(
                f"jump_length={j}: the grid has {last + 1} noisy levels, and a return must pass fewer; use more steps."
            )
        returns = dict.fromkeys(range(0, last + 1 - j, j), self.resample - 1)
        above, places = last, []  # counted from the last noisy level
        while above or returns[0]:
            if returns.get(above, 0):
                returns[above] -= 1
                above += j
            else:
                places.append(last - above)
                above -= 1
        return places

    def _prepared(self, step: Step, here: Level, given: Tensor | None, back: tuple[float, float] | None) -> Step:
        """A step before which x returns to its level, and its known part is replaced."""

        def prepared(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            if back is not None:
                x = linear(back, (x, noise.like(x)))
            if given is not None:
                x = self._put(x, given, here, noise)
            return step(denoise, x, memory, noise)

        return prepared


def _noisy(levels: Sequence[Level]) -> int:
    """The number of levels of a grid before clean data."""
    return len(levels) - int(levels[-1].sigma == 0)


def _noised(here: Level, there: Level) -> tuple[float, float]:
    """(a, b) with which a x + b z is at a noisier level."""
    keep = float(there.alpha / here.alpha)
    return keep, math.sqrt(float(there.sigma) ** 2 - (keep * float(here.sigma)) ** 2)


def check_returns(jump_length: int, resample: int) -> None:
    """Check the options of `RePaint` that do not depend on the grid."""
    check_number("jump_length", jump_length, 1)
    check_number("resample", resample, 1)
    if resample == 1 and jump_length > 1:
        raise ValueError(
            f"resample=1: there are no returns, so jump_length={jump_length} says nothing; use "
            "jump_length=1, or more resamplings."
        )

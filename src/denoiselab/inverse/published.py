"""Methods as they are published: in the steps of a sampler, or with an eps that does not follow x0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.inverse.base import LikelihoodMethod, Method, Problem
from denoiselab.inverse.likelihoods import DiffPIR
from denoiselab.inverse.operators import LinearOperator
from denoiselab.inverse.replacing import RePaint, Replaced, StepMethod, check_returns
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler, Step, check_one_step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.ddim import DDIM, noisy_transfer, transfer
from denoiselab.samplers.observers import OnStep, Tally
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class PosteriorStep(StepMethod):
    """After each step x_s moves by -zeta times the gradient of |y - A x0_hat(x_t)| in x_t: DPS as published.

    The norm is each sample's own; the released code takes that of the whole batch, and runs batches of one. The move is
    one a step, whatever the levels are, so that a zeta is tuned for a number of steps. The gradient is that of the
    step's first call, after the sampler's threshold.

    Source: Chung et al., Diffusion Posterior Sampling for General Noisy Inverse Problems, arXiv 2209.14687,
    algorithm 1, with ancestral steps.

    Args:
        zeta: Size of a move, at least 0; the paper's are from 0.3 to 1, for 1000 steps.
        tally: Counts the backward passes, as `gradient`: in each the evaluations of the call, which guidance doubles.

    Raises:
        ValueError: If the sampler is multistep, or zeta is out of range.
    """

    zeta: float = 1.0
    tally: Tally = field(default_factory=Tally, repr=False)

    no_order = "each step moves by as much, however many there are"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("zeta", self.zeta)
        self.threshold = None  # part of what is differentiated

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
        threshold = self.sampler.threshold
        denoise = denoise if threshold is None else threshold.wrap(denoise)
        self._distance = _Distance(denoise, self.operator, self.y, self.tally)
        return super().run(self._distance, schedule, levels, x, noise, on_step=on_step)

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        return [Planned(self._moved(step), there) for step, there in self.sampler.plan(schedule, levels)]

    def _moved(self, step: Step) -> Step:
        def moved(denoise: Denoise, x: Tensor, memory: Memory, noise: Noise) -> Tensor:
            self._distance.begin()
            reached = step(denoise, x, memory, noise)
            return reached - self.zeta * self._distance.gradient

        return moved


class _Distance:
    """A denoiser that stores the gradient of |y - A x0| in x of the first call of each step."""

    gradient: Tensor

    def __init__(self, denoise: Denoise, operator: LinearOperator, y: Tensor, tally: Tally) -> None:
        self._denoise, self._operator, self._y, self._tally = denoise, operator, y, tally
        self._first = False
        tally.add("gradient", 0)

    def begin(self) -> None:
        """Begin a step."""
        self._first = True

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        if not self._first:
            return self._denoise(x, level)
        self._first, before = False, self._tally.differentiated
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            prediction = self._denoise(at, level)
            distance = (self._y.to(at) - self._operator(prediction.x0)).flatten(1).norm(dim=1)
            (self.gradient,) = torch.autograd.grad(distance.sum(), at)
        self._tally.add("gradient", max(len(x), self._tally.differentiated - before))
        renoise = None if prediction.renoise is None else prediction.renoise.detach()
        return prediction._replace(x0=prediction.x0.detach(), eps=prediction.eps.detach(), renoise=renoise)


@dataclass(eq=False)
class Refreshed(OneStep):
    """x_s = alpha_s x0_hat + sigma_s (sqrt(1 - zeta) eps_hat + sqrt(zeta) z): a share of the noise is new in each step.

    zeta = 0 is DDIM, zeta = 1 uses x0_hat alone. The share does not fall with the size of a step, so that samples have
    another distribution than the model's, for any number of steps.

    Args:
        zeta: Share of the variance, from 0 to 1.
    """

    zeta: float = 0.3

    convergence_order = None
    no_order = "each step renews as large a share of the noise, however many there are"
    renoises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("zeta", self.zeta, 0, 1)
        self.stochastic = self.zeta > 0

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        if self.zeta == 0:
            return transfer(here, there)
        variance = self.zeta * float(there.sigma) ** 2
        return noisy_transfer(here, there, variance, math.sqrt(variance))


@dataclass(frozen=True)
class Replacement(Method):
    """The known part of x is replaced after each step: `Replaced`."""

    def steps(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> StepMethod:
        return Replaced(single(sampler), operator, y)


@dataclass(frozen=True)
class Resampling(Method):
    """Replacement with returns to noisier levels: `RePaint`.

    Args:
        jump_length: Levels of a return.
        resample: How often each stretch is sampled.

    Raises:
        ValueError: As in `RePaint`.
    """

    jump_length: int = 10
    resample: int = 10

    def __post_init__(self) -> None:
        check_returns(self.jump_length, self.resample)

    def steps(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> StepMethod:
        return RePaint(single(sampler), operator, y, self.jump_length, self.resample)


@dataclass(frozen=True)
class PublishedDPS(Method):
    """DPS as published, a move after each step: `PosteriorStep`.

    Where samples are latents the gradient goes through the decoder: Latent-DPS of Rout et al., arXiv 2307.00619,
    section 3, without their term that keeps latents among those of images. Restored images fit the measurements, and
    may show what no image has.

    Args:
        zeta: Size of a move.

    Raises:
        ValueError: If zeta is negative.
    """

    zeta: float = 1.0

    decodes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("zeta", self.zeta)

    def steps(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> StepMethod:
        return PosteriorStep(single(sampler), operator, y, self.zeta)


@dataclass(frozen=True)
class PublishedPiGDM(LikelihoodMethod):
    """PiGDM as published: DDIM's x_s moves by alpha_s alpha_t J^T A^T (A A^T + sigma_y^2 / V)^-1 r.

    V = sigma^2 / (sigma^2 + alpha^2) is that of data of unit variance. As a change of predictions: x0 moves, and steps
    add the denoiser's own eps. The move is one a step, whatever the levels are, so that the bias grows with the number
    of steps. A call takes one backward pass.

    Source: Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, ICLR 2023, algorithm 1.
    """

    renoises = True

    def shift(self, problem: Problem) -> Tensor:
        v = problem.sigma.square() / (problem.sigma.square() + problem.alpha.square())
        return problem.alpha * problem.jacobian(v * problem.solved(v), last=True)


@dataclass(frozen=True)
class PublishedDiffPIR(DiffPIR):
    """DiffPIR as published: `DiffPIR` with the steps of `Refreshed` on the grid of another sampler.

    Source: Zhu et al., Denoising Diffusion Models for Plug-and-Play Image Restoration, arXiv 2305.08995, algorithm 1.

    Args:
        zeta: Share of the noise that is new in each step, from 0 to 1.

    Raises:
        ValueError: If zeta or weight is out of range; or (steps) if the sampler is not DDIM, whose steps they replace.
    """

    zeta: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("zeta", self.zeta, 0, 1)

    def steps(self, sampler: Sampler, operator: LinearOperator, y: Tensor) -> Sampler:
        if not isinstance(sampler, DDIM):
            raise ValueError(f"sampler={type(sampler).__name__}: the steps of DiffPIR replace those of DDIM; use it.")
        return Refreshed(sampler.spacing, sampler.steps, self.zeta, threshold=sampler.threshold)


def single(sampler: Sampler) -> OneStep:
    """The sampler, if its steps are independent of each other."""
    check_one_step("sampler", sampler)
    assert isinstance(sampler, OneStep)
    return sampler

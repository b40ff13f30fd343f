"""Flow maps: a network with a second time learns where the ODE's solution is at a later level, in one call.

It predicts the mean velocity u(x, t, r) = (x_t - x_r) / (t - r) of the probability-flow ODE's solution through x at t,
on a path on which alpha and sigma are linear in t; at r = t that is flow matching's velocity. Any sampler of order 1
takes x_r = x_t - (t - r) u, which is the exact transfer of the x0 that such a prediction has.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from denoiselab.denoiser import Denoiser
from denoiselab.networks.base import evaluating
from denoiselab.networks.conditioning import Conditioning
from denoiselab.networks.layers import dropout_of_rows
from denoiselab.noise import Noise
from denoiselab.objectives.base import LevelObjective, corrupt
from denoiselab.objectives.level_distributions import LevelDistribution, LossHistory
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class _MeanVelocity(LevelObjective):
    """|u - target|^2, summed over a sample: the target is the conditional velocity at r = t, else a rule's.

    Args:
        level_distribution: Draws t.
        share: Of the samples whose r is below t, at most 1.
    """

    second_time = True

    def __init__(self, level_distribution: LevelDistribution, share: float, sum_dimensions: bool) -> None:
        super().__init__(level_distribution, sum_dimensions)
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: it must be above 0 and at most 1.")
        self.share = share

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        path, name = denoiser.schedule, type(self).__name__
        ends = path.level(torch.linspace(path.t_min, path.t_max, 3, dtype=torch.float64))
        bend = max(float((one[0] - 2 * one[1] + one[2]).abs()) for one in (ends.alpha, ends.sigma))
        if bend > 1e-9 * path.t_max:
            raise ValueError(
                f"schedule={type(path).__name__}: objective {name} learns mean velocities, which lead to the ODE's "
                "solution where alpha and sigma are linear in t; choose schedule=flow."
            )
        if any(isinstance(module, LossHistory) for module in self.modules()):
            raise ValueError(f"level_distribution=LossHistory: objective {name} has two times; choose another.")

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        path = denoiser.schedule
        t, r = self.times(path, noise)
        here, eps = path.level(t), noise.like(x0)
        x = corrupt(x0, eps, here)
        target = self.velocity(denoiser, x, here, _rate(path, x0, eps), noise, cond)
        rows = (r < t).nonzero()[:, 0]
        if len(rows):
            some = Conditioning(*(None if field is None else field[rows] for field in cond))
            with torch.no_grad(), dropout_of_rows(denoiser, rows):
                later = self.target(denoiser, x[rows], t[rows], r[rows], target[rows], some)
            target = target.index_copy(0, rows, later)
        error = mean_velocity(denoiser, x, here.towards(path.level(r)), cond) - target.detach()
        square = error.to(torch.promote_types(x.dtype, torch.float32)).square().flatten(1)
        loss = self.weighted(square.mean(1) if not self.sum_dimensions else square.sum(1)).float()
        self.level_distribution.observe(here, loss)
        return loss

    @abstractmethod
    def times(self, path: Schedule, noise: Noise) -> tuple[Tensor, Tensor]:
        """Times (t, r) with r <= t, `(B,)` float64 each."""

    @abstractmethod
    def target(self, denoiser: Denoiser, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Conditioning) -> Tensor:
        """The targets `(B, *)` of samples x `(B, *)` at t whose r is below t, with velocities v at t; no gradients."""

    def velocity(
        self, denoiser: Denoiser, x: Tensor, here: Level, v: Tensor, noise: Noise, cond: Conditioning
    ) -> Tensor:
        """The velocity to learn at r = t, from the conditional one v `(B, *)`: v itself."""
        return v

    def weighted(self, square: Tensor) -> Tensor:
        """The loss of squared errors `(B,)`: they themselves."""
        return square


class MeanFlow(_MeanVelocity):
    """Mean velocities by their differential equation, u = v - (t - r) du/dt along the ODE, with r fixed.

    The loss is |u - stop_gradient(v - (t - r) (v du/dx + du/dt))|^2 with the conditional velocity v, over
    stop_gradient(itself + offset)^power. The derivative is one forward-mode product, without autocast and compiler, of
    the samples with r < t alone; attention in it is the plain one, which alone has such products.

    With guidance the network itself is the guided one, sampled with one call a step: v is replaced by
    guidance v + (1 - guidance - kept) u(x, t, t, null) + kept u(x, t, t, cond) where the condition was not dropped,
    which amounts to a scale of guidance / (1 - kept).

    Source: Geng et al., Mean Flows for One-step Generative Modeling, arXiv 2505.13447, eq. 10-11, 19 and 22.

    Args:
        level_distribution: Draws t and r, whichever is later being t; with `there_distribution` t alone.
        there_distribution: Draws r, which is lowered to t where it is above.
        share: Of the samples whose r is below t, at most 1; the others have r = t.
        power: Of the squared error in the weight; 0 for none.
        offset: Added to the squared error there, which is summed over a sample.
        guidance: Weight of the conditional velocity, in the paper omega; 1 with kept=0 is no guidance.
        kept: Weight of the network's own conditional velocity, in the paper kappa, below 1.
        interval: Least and largest t at which there is guidance.

    Raises:
        ValueError: If a number is out of range.
    """

    forward_derivatives = True

    def __init__(
        self,
        level_distribution: LevelDistribution,
        there_distribution: LevelDistribution | None = None,
        share: float = 0.25,
        power: float = 1.0,
        offset: float = 0.01,
        guidance: float = 1.0,
        kept: float = 0.0,
        interval: Sequence[float] = (0.0, math.inf),
    ) -> None:
        super().__init__(level_distribution, share, sum_dimensions=True)
        if not (
            power >= 0 and offset > 0 and guidance > 0 and 0 <= kept < 1 and list(interval[:1]) < list(interval[1:])
        ):
            raise ValueError(
                f"power={power}, offset={offset}, guidance={guidance}, kept={kept}, interval={list(interval)}: power "
                "must be at least 0, offset and guidance above it, kept from 0 to below 1, and the interval not empty."
            )
        self.there_distribution = there_distribution
        self.power, self.offset = power, offset
        self.guidance, self.kept, self.interval = guidance, kept, interval
        self.needs_null = guidance != 1 or kept > 0

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        if self.there_distribution is not None:
            self.there_distribution.check(denoiser.schedule)

    def times(self, path: Schedule, noise: Noise) -> tuple[Tensor, Tensor]:
        t = self.level_distribution(path, noise).level.t
        r = (self.there_distribution or self.level_distribution)(path, noise).level.t
        later = t if self.there_distribution is not None else torch.maximum(t, r)
        return later, torch.where(noise.uniform() < self.share, torch.minimum(t, r), later)

    def target(self, denoiser: Denoiser, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Conditioning) -> Tensor:
        there = denoiser.schedule.level(r)

        def u(x: Tensor, t: Tensor) -> Tensor:
            return mean_velocity(denoiser, x, denoiser.schedule.level(t).towards(there), cond)

        along = self.tangent(denoiser, x, t, v, cond)
        with torch.autocast(x.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH), _uncompiled(denoiser):
            slope: Tensor = torch.func.jvp(u, (x, t), (along, torch.ones_like(t)))[1]
        return v - like(t - r, x) * slope

    def tangent(self, denoiser: Denoiser, x: Tensor, t: Tensor, v: Tensor, cond: Conditioning) -> Tensor:
        """The velocity `(B, *)` along which u is differentiated: the regression's own, v."""
        return v

    def velocity(
        self, denoiser: Denoiser, x: Tensor, here: Level, v: Tensor, noise: Noise, cond: Conditioning
    ) -> Tensor:
        if not self.needs_null:
            return v
        null = Conditioning() if self.null_condition is None else self.null_condition(noise.index).filled(cond)
        with torch.no_grad(), evaluating(denoiser.network):
            out = self.guidance * v + (1 - self.guidance - self.kept) * mean_velocity(denoiser, x, here, null)
            if self.kept:
                out = out + self.kept * mean_velocity(denoiser, x, here, cond)
        low, high = self.interval
        guided = (here.t >= low) & (here.t <= high) & ~_same(cond, null)
        return torch.where(like(guided, x).bool(), out, v)

    def weighted(self, square: Tensor) -> Tensor:
        return square / (square.detach() + self.offset) ** self.power


class ImprovedMeanFlow(MeanFlow):
    """MeanFlow whose derivative is taken along the network's own velocity u(x, t, t), not along the conditional one.

    Then u + (t - r) stop_gradient(du/dt) is a function of x alone, and its regression on v has the mean velocity as its
    optimum whatever the variance of v. The second output for the velocity and the conditions on guidance of the source
    are not here: guidance is `MeanFlow`'s, of which the source's scale w is guidance=1, kept=1 - 1 / w.

    Source: Geng et al., Improved Mean Flows, arXiv 2512.02012, section 4.
    """

    def tangent(self, denoiser: Denoiser, x: Tensor, t: Tensor, v: Tensor, cond: Conditioning) -> Tensor:
        return mean_velocity(denoiser, x, denoiser.schedule.level(t), cond)


class Shortcut(_MeanVelocity):
    """Shortcut models: two steps of half the size give the target of one, from the smallest size up to the whole way.

    Sizes are t_max / 2^k, all as likely, and t is a multiple of its size, so `spacing=uniform_time` with 1, 2, 4, ...
    up to steps / 2 steps meets the sizes that are trained. Steps of t_max / steps are taken by the velocity at their
    start. Targets are made by the weights in training, without dropout; the source takes their average.

    With guidance the velocities of these least steps are guided ones in targets, from which larger steps learn theirs;
    at r = t the network itself stays the conditional one.

    Source: Frans et al., One Step Diffusion via Shortcut Models, arXiv 2410.12557, section 3 and algorithm 1.

    Args:
        level_distribution: Draws t of the samples with r = t.
        share: Of the samples with two steps as their target.
        steps: The most steps, a power of 2.
        guidance: Scale of classifier-free guidance of the least steps in targets; 1 for none.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        level_distribution: LevelDistribution,
        share: float = 0.25,
        steps: int = 128,
        sum_dimensions: bool = False,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(level_distribution, share, sum_dimensions)
        if steps < 2 or steps & (steps - 1):
            raise ValueError(f"steps={steps}: it must be a power of 2, at least 2.")
        self.steps, self.guidance = steps, guidance
        self.needs_null = guidance != 1

    def times(self, path: Schedule, noise: Noise) -> tuple[Tensor, Tensor]:
        t = self.level_distribution(path, noise).level.t
        parts = 2 ** (noise.uniform() * int(math.log2(self.steps))).floor()  # 1, 2, 4, ..., steps / 2
        place = (noise.uniform() * parts).floor()
        apart = noise.uniform() < self.share
        return tuple(torch.where(apart, (place + up) / parts * path.t_max, t) for up in (1, 0))  # type: ignore[return-value]

    def target(self, denoiser: Denoiser, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Conditioning) -> Tensor:
        path, half = denoiser.schedule, (t - r) / 2
        told = torch.where(half > 1.5 * path.t_max / self.steps, half, 0.0)
        total, place = torch.zeros_like(x), t
        with evaluating(denoiser.network):
            for _ in range(2):
                u = mean_velocity(denoiser, x, path.level(place).towards(path.level(place - told)), cond)
                if self.needs_null and len(least := (told == 0).nonzero()[:, 0]):
                    u = u.index_copy(0, least, self._guided(denoiser, x, place, u, cond, least))
                x, place, total = x - like(half, x) * u, place - half, total + u
        return total / 2

    def _guided(self, denoiser: Denoiser, x: Tensor, t: Tensor, u: Tensor, cond: Conditioning, rows: Tensor) -> Tensor:
        """The guided velocities of some rows of a batch x at t, whose own are u."""
        some = Conditioning(*(None if field is None else field[rows] for field in cond))
        null = (
            Conditioning() if self.null_condition is None else self.null_condition(torch.zeros_like(rows)).filled(some)
        )
        other = mean_velocity(denoiser, x[rows], denoiser.schedule.level(t[rows]), null)
        return other + self.guidance * (u[rows] - other)


def mean_velocity(denoiser: Denoiser, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Tensor:
    """Mean velocities `(B, *)` from a level `(B,)` of the home schedule to its `there`; without one, those at it."""
    x0, eps = denoiser(x, level, cond)[:2]
    return _rate(denoiser.schedule, x0, eps)


def _rate(path: Schedule, x0: Tensor, eps: Tensor) -> Tensor:
    """The velocity `(B, *)` alpha' x0 + sigma' eps on a path on which both derivatives are constant."""
    ends = path.level(torch.tensor([path.t_min, path.t_max], dtype=torch.float64, device="cpu"))
    d_alpha, d_sigma = (float(one[1] - one[0]) / (path.t_max - path.t_min) for one in (ends.alpha, ends.sigma))
    return d_alpha * x0 + d_sigma * eps


def _uncompiled(module: nn.Module) -> AbstractContextManager[Any]:
    """Within it compiled parts of a module run as they are written: the compiler has no forward-mode products."""
    if any(part._compiled_call_impl is not None for part in module.modules()):
        eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return eager
    return nullcontext()


def _same(cond: Conditioning, null: Conditioning) -> Tensor:
    """Where conditions `(B, ...)` are the null ones, `(B,)`; nowhere without conditions."""
    pairs = [(a, b) for a, b in zip(cond, null, strict=True) if a is not None and b is not None]
    if not pairs:
        return torch.tensor(False)
    return torch.stack([(a == b).flatten(1).all(1) if a.ndim > 1 else a == b for a, b in pairs]).all(0)

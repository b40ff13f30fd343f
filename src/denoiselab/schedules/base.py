"""The noise axis: a point on it (`Level`) and a path along it (`Schedule`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Level:
    """A point of the noise axis, where x = alpha x0 + sigma eps.

    All three tensors have one shape: `()` on a sampling grid (float64, CPU), `(B,)` in training.

    Args:
        t: Time; data at the schedule's `t_min`, noise at its `t_max`.
        alpha: Signal scale, at least 0.
        sigma: Noise scale (a standard deviation), at least 0.
        path: The schedule that made it, if any. A denoiser with that schedule need not search for the time of a level.
        step: The level at which the sampler's present step began; None if it is this one.
        there: The level to which the prediction here is transferred as it is, for networks with a second time; None
            where a step combines several predictions, which are then those of this level alone.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    path: Schedule | None = field(default=None, repr=False)
    step: Level | None = field(default=None, repr=False)
    there: Level | None = field(default=None, repr=False)

    @classmethod
    def clean(cls) -> Level:
        """The end of the axis where x = x0: alpha 1, sigma 0, a float64 scalar."""
        zero, one = (torch.tensor(value, dtype=torch.float64, device="cpu") for value in (0.0, 1.0))
        return cls(zero, one, zero)

    @cached_property
    def rho(self) -> Tensor:
        """Noise-to-signal ratio sigma / alpha."""
        return self.sigma / self.alpha

    @cached_property
    def lam(self) -> Tensor:
        """Half log-SNR, log(alpha / sigma)."""
        return self.alpha.log() - self.sigma.log()

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio (alpha / sigma)^2."""
        return (self.alpha / self.sigma).square()

    @cached_property
    def is_end(self) -> bool:
        """Whether a grid's level is an end of the axis: all data (sigma 0) or all noise (alpha 0)."""
        return bool(self.alpha == 0) or bool(self.sigma == 0)

    def towards(self, there: Level | None) -> Level:
        """This level, of a step that ends at `there`."""
        return replace(self, there=there)

    def unbind(self) -> list[Level]:
        """Split a `(N,)` level into N scalar levels, in order."""
        parts = zip(self.t.unbind(), self.alpha.unbind(), self.sigma.unbind(), strict=True)
        return [Level(t, alpha, sigma, self.path) for t, alpha, sigma in parts]


def like(value: Tensor, x: Tensor) -> Tensor:
    """A level's value in the dtype of `x` `(B, *)`, shaped `()` or `(B, 1, ..., 1)` to multiply it.

    A float64 scalar stays on the CPU, where torch multiplies by it without a copy to the device.
    """
    if value.ndim == 0:
        return value
    return value.to(x).reshape(-1, *[1] * (x.ndim - 1))


class Schedule(nn.Module, ABC):
    """A path of noise levels, x_t = alpha(t) x0 + sigma(t) eps for t in [t_min, t_max].

    A subclass writes `alpha` and `sigma` (differentiable, any float dtype, log-SNR strictly decreasing) and,
    where there is a closed form, `time_of`. Everything else follows from the two.
    """

    t_min: float
    t_max: float

    # Number of trained levels; None for a continuous schedule.
    steps: int | None = None

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t` (any shape)."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t` (any shape)."""

    def level(self, t: Tensor) -> Level:
        """The level at times `t` (any shape)."""
        return Level(t, self.alpha(t), self.sigma(t), self)

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam` (any shape), by bisection; beyond the range, the nearest end."""
        low = torch.full_like(lam, self.t_min)
        high = torch.full_like(lam, self.t_max)
        for _ in range(64):
            middle = (low + high) / 2
            too_clean = self.level(middle).lam > lam
            low, high = torch.where(too_clean, middle, low), torch.where(too_clean, high, middle)
        return (low + high) / 2

    def at(self, lam: Tensor) -> Level:
        """The level whose half log-SNR is `lam` (any shape, infinite too); beyond the range, the nearest end."""
        return self.level(self.time_of(lam.clamp(-100, 100)).clamp(self.t_min, self.t_max))

    def start(self, lam: float | None = None) -> float:
        """The time at which a grid starts: of the noisiest level whose half log-SNR is not below `lam`.

        Of a discrete schedule it is a trained level.

        Args:
            lam: None for the schedule's own choice, which is `t_max` except for a chain of betas.

        Raises:
            ValueError: If only the least noisy level is left.
        """
        if lam is None:
            return self.t_max
        ends = self.level(torch.tensor([self.t_max, self.t_min], dtype=torch.float64)).lam
        if bool(ends[0] >= lam):
            return self.t_max
        if self.steps is None:
            t = self.time_of(torch.tensor(lam, dtype=torch.float64))
        else:
            nodes = self.nodes()
            t = torch.where(nodes.lam >= lam, nodes.t, self.t_min).max()
        if not bool(t > self.t_min):
            raise ValueError(f"first_lam={lam}: it must be below {float(ends[1]):.4g}, where the schedule ends.")
        return float(t)

    def part_way(self, fraction: float, top: float) -> float:
        """The time at a fraction of the way from data, 0, to the noise at time `top`, 1: in equal steps of t.

        A family whose time does not run as noise replaces the image has another rule.
        """
        return self.t_min + fraction * (top - self.t_min)

    def chain(self, steps: int | None = None) -> int:
        """The length of a chain along the schedule: the one asked for, or the number of trained levels.

        Raises:
            ValueError: If a continuous schedule needs a length, or there are fewer than 2 steps.
        """
        length = self.steps if steps is None else steps
        if length is None:
            raise ValueError(
                f"steps=null: {type(self).__name__} is continuous; give a number of steps, or a discrete schedule."
            )
        if length < 2:
            raise ValueError(f"steps={length}: it must be at least 2.")
        return length

    def nodes(self, steps: int | None = None) -> Level:
        """The levels `(steps,)` of a chain, data first: equal steps in t from `t_min` to `t_max`, float64, on the CPU.

        A discrete schedule's own chain is its trained levels.

        Raises:
            ValueError: As in `chain`.
        """
        t = torch.linspace(self.t_min, self.t_max, self.chain(steps), dtype=torch.float64, device="cpu")
        return self.level(t)

    def previous(self, level: Level, steps: int | None = None) -> Level:
        """The levels one step of a chain nearer the data, shaped like `level`; before the first node, clean data.

        Raises:
            ValueError: As in `chain`.
        """
        h = (self.t_max - self.t_min) / (self.chain(steps) - 1)
        t = level.t - h
        clean = t < self.t_min - h / 2
        there = self.level(t.clamp_min(self.t_min))
        return Level(
            torch.where(clean, 0.0, there.t),
            torch.where(clean, 1.0, there.alpha),
            torch.where(clean, 0.0, there.sigma),
            self,
        )

    def following(self, level: Level, steps: int | None = None) -> Level:
        """The levels one step of a chain nearer the noise, shaped like `level`; at the last node, that node.

        Raises:
            ValueError: As in `chain`.
        """
        h = (self.t_max - self.t_min) / (self.chain(steps) - 1)
        return self.level((level.t + h).clamp_max(self.t_max))

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """A pair (alpha, sigma) of this family of paths with the same ratio; variance preserving by default.

        Raises:
            ValueError: If the family has no closed form.
        """
        norm = torch.hypot(alpha, sigma)
        return alpha / norm, sigma / norm

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(d alpha / dt, d sigma / dt) at times `t` (any shape), by automatic differentiation."""
        ones = torch.ones_like(t)
        d_alpha: Tensor = torch.func.jvp(self.alpha, (t,), (ones,))[1]
        d_sigma: Tensor = torch.func.jvp(self.sigma, (t,), (ones,))[1]
        return d_alpha, d_sigma

    def drift_diffusion(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift f(t) and squared diffusion g2(t) of dx = f x dt + g dw, whose marginals these are.

        f = (log alpha)', g2 = (sigma^2)' - 2 f sigma^2 (Kingma et al., Variational Diffusion Models,
        arXiv 2107.00630, eq. 2 and appendix).
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        d_alpha, d_sigma = self.derivatives(t)
        f = d_alpha / alpha
        return f, 2 * sigma * (d_sigma - f * sigma)


def check_range(t_min: float, t_max: float, low: float, high: float, *, closed: bool = False) -> None:
    """Check a range of times.

    Raises:
        ValueError: If it is empty or leaves (low, high), or (low, high] if `closed`.
    """
    if not (low < t_min < t_max < high or (closed and low < t_min < t_max == high)):
        bound = "<=" if closed else "<"
        raise ValueError(f"t_min={t_min} and t_max={t_max}: they must satisfy {low} < t_min < t_max {bound} {high}.")

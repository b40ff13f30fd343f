"""The noise axis: a point on it (`Level`) and a path along it (`Schedule`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
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
        path: The schedule that made it, if any: a denoiser at home on that schedule need not invert anything.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor
    path: Schedule | None = field(default=None, repr=False)

    @classmethod
    def clean(cls) -> Level:
        """The end of the axis where x = x0: alpha 1, sigma 0, a float64 scalar."""
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
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
        """The level whose half log-SNR is `lam` (any shape)."""
        return self.level(self.time_of(lam))

    def drift_diffusion(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Drift f(t) and squared diffusion g2(t) of dx = f x dt + g dw, whose marginals these are.

        f = (log alpha)', g2 = (sigma^2)' - 2 f sigma^2 (Kingma et al., Variational Diffusion Models,
        arXiv 2107.00630, eq. 2 and appendix); the derivatives are automatic.
        """
        ones = torch.ones_like(t)
        alpha, d_alpha = torch.func.jvp(self.alpha, (t,), (ones,))[:2]
        sigma, d_sigma = torch.func.jvp(self.sigma, (t,), (ones,))[:2]
        f = d_alpha / alpha
        return f, 2 * sigma * d_sigma - 2 * f * sigma.square()

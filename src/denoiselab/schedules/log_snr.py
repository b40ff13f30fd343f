"""Schedules stated by their log-SNR."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from denoiselab.schedules.base import Schedule, check_range


class LogSNR(Schedule):
    """A variance-preserving path with a given half log-SNR: alpha^2 = sigmoid(2 lam), sigma^2 = sigmoid(-2 lam)."""

    @abstractmethod
    def lam(self, t: Tensor) -> Tensor:
        """Half log-SNR at times `t`, strictly decreasing."""

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t`."""
        return torch.sigmoid(2 * self.lam(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t`."""
        return torch.sigmoid(-2 * self.lam(t)).sqrt()


class Laplace(LogSNR):
    """Log-SNR of Laplace distribution for uniform t: mean - scale sgn(1/2 - t) log(1 - 2 |t - 1/2|).

    Source: Hang et al., Improved Noise Schedule for Diffusion Training, arXiv 2407.03297, table 1.

    Args:
        mean: Of the log-SNR.
        scale: Of the log-SNR.
        t_min: The log-SNR is infinite at t = 0; the default stops at a log-SNR of 8.9.
        t_max: The log-SNR is minus infinity at t = 1; the default stops at -8.9.

    Raises:
        ValueError: Unless mean is finite, scale > 0 and 0 < t_min < t_max < 1.
    """

    def __init__(self, mean: float = 0.0, scale: float = 0.5, t_min: float = 1e-8, t_max: float = 1 - 1e-8) -> None:
        super().__init__()
        if not math.isfinite(mean):
            raise ValueError(f"mean={mean}: it must be finite.")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale}: it must be positive and finite.")
        check_range(t_min, t_max, 0, 1)
        self.mean, self.scale, self.t_min, self.t_max = mean, scale, t_min, t_max

    def lam(self, t: Tensor) -> Tensor:
        """Half log-SNR at times `t`."""
        # 1 - 2 |t - 1/2| is 2 t on the left and 2 (1 - t) on the right.
        side = torch.where(t < 0.5, -1.0, 1.0).to(t)
        return (self.mean + side * self.scale * torch.log(2 * torch.where(t < 0.5, t, 1 - t))) / 2

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam`."""
        away = (2 * lam - self.mean) / self.scale
        tail = torch.exp(-away.abs()) / 2
        return torch.where(away > 0, tail, 1 - tail)


class Shifted(Schedule):
    """Another schedule with its signal-to-noise ratio alpha / sigma multiplied: for images of another resolution.

    Twice the resolution averages noise over four times the pixels, so it takes half the ratio to destroy as much.
    The path stays in its family: variance preserving, straight or exploding.

    Source: Hoogeboom et al., simple diffusion, arXiv 2301.11093, eq. 3; Esser et al., Stable Diffusion 3,
    arXiv 2403.03206, eq. 23 (their shift is 1 / ratio).

    Args:
        base: The schedule that is shifted.
        ratio: Factor on alpha / sigma; reference resolution over resolution, 64 / 256 say.

    Raises:
        ValueError: `ratio` is not positive and finite, or the family of `base` has no closed form.
    """

    def __init__(self, base: Schedule, ratio: float = 0.5) -> None:
        super().__init__()
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio={ratio}: it must be positive and finite.")
        one = torch.ones((), dtype=torch.float64, device="cpu")
        base.normalise(one, one)
        self.base, self.ratio = base, ratio
        self.t_min, self.t_max, self.steps = base.t_min, base.t_max, base.steps

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """As the base does."""
        return self.base.normalise(alpha, sigma)

    def start(self, lam: float | None = None) -> float:
        """As in `Schedule`; without `lam`, where the base starts."""
        return self.base.start() if lam is None else super().start(lam)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t`."""
        return self.base.normalise(self.ratio * self.base.alpha(t), self.base.sigma(t))[0]

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t`."""
        return self.base.normalise(self.ratio * self.base.alpha(t), self.base.sigma(t))[1]

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam`."""
        return self.base.time_of(lam - math.log(self.ratio))

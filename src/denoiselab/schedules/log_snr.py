"""Schedules defined by their log-SNR."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from denoiselab.schedules.base import Schedule, check_range
from denoiselab.schedules.vp import VPCosine


class LogSNR(Schedule):
    """A variance-preserving path with a given half log-SNR: alpha^2 = sigmoid(2 lam), sigma^2 = sigmoid(-2 lam)."""

    @abstractmethod
    def lam(self, t: Tensor) -> Tensor:
        """Half log-SNR at times `t`, strictly decreasing."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sigmoid(2 * self.lam(t)).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sigmoid(-2 * self.lam(t)).sqrt()


class Laplace(LogSNR):
    """For uniform t the log-SNR has a Laplace distribution: mean - scale sgn(1/2 - t) log(1 - 2 |t - 1/2|).

    Source: Hang et al., Improved Noise Schedule for Diffusion Training, arXiv 2407.03297, table 1.

    Args:
        mean: Mean of the log-SNR.
        scale: Scale of the log-SNR.
        t_min: The cleanest time. The log-SNR is infinite at t = 0, and 8.9 at the default.
        t_max: The noisiest time. The log-SNR is minus infinity at t = 1, and -8.9 at the default.

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
        # 1 - 2 |t - 1/2| is 2 t on the left and 2 (1 - t) on the right.
        side = torch.where(t < 0.5, -1.0, 1.0).to(t)
        return (self.mean + side * self.scale * torch.log(2 * torch.where(t < 0.5, t, 1 - t))) / 2

    def time_of(self, lam: Tensor) -> Tensor:
        away = (2 * lam - self.mean) / self.scale
        tail = torch.exp(-away.abs()) / 2
        return torch.where(away > 0, tail, 1 - tail)


class Shifted(Schedule):
    """Another schedule with its signal-to-noise ratio alpha / sigma multiplied: for images of another resolution.

    Twice the resolution averages noise over four times the pixels, so half the ratio destroys as much of the image.
    The path remains in its family: variance preserving, straight or exploding.

    Source: Hoogeboom et al., simple diffusion, arXiv 2301.11093, eq. 3; Esser et al., Stable Diffusion 3,
    arXiv 2403.03206, eq. 23 (their shift is 1 / ratio).

    Args:
        base: The schedule to shift; None for `VPCosine()`.
        ratio: Factor on alpha / sigma: the reference resolution over the resolution, e.g. 64 / 256.

    Raises:
        ValueError: If ratio is not positive and finite, or the family of `base` has no closed form.
    """

    def __init__(self, base: Schedule | None = None, ratio: float = 0.5) -> None:
        super().__init__()
        base = VPCosine() if base is None else base
        if not 0 < ratio < math.inf:
            raise ValueError(f"ratio={ratio}: it must be positive and finite.")
        one = torch.ones((), dtype=torch.float64, device="cpu")
        base.normalise(one, one)
        self.base, self.ratio = base, ratio
        self.t_min, self.t_max, self.steps = base.t_min, base.t_max, base.steps

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.base.normalise(alpha, sigma)

    def start(self, lam: float | None = None) -> float:
        """As in `Schedule`; without `lam`, where the base starts."""
        return self.base.start() if lam is None else super().start(lam)

    def part_way(self, fraction: float, top: float) -> float:
        return self.base.part_way(fraction, top)

    def alpha(self, t: Tensor) -> Tensor:
        return self.base.normalise(self.ratio * self.base.alpha(t), self.base.sigma(t))[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.base.normalise(self.ratio * self.base.alpha(t), self.base.sigma(t))[1]

    def time_of(self, lam: Tensor) -> Tensor:
        return self.base.time_of(lam - math.log(self.ratio))

"""Variance-preserving schedules, alpha^2 + sigma^2 = 1, and sub-VP."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.schedules.base import Schedule, check_range


class _Betas(Schedule):
    """alpha(t)^2 = exp(-B(t)), B the integral of a rate beta(t) of noise on [0, 1]."""

    t_max = 1.0

    def __init__(self, beta_min: float, beta_max: float, t_min: float) -> None:
        super().__init__()
        if not 0 < t_min < 1:
            raise ValueError(f"t_min={t_min}: it must lie between 0 and 1, both excluded.")
        least = self._least(beta_max, t_min)
        if not least < beta_min < beta_max < math.inf:
            raise ValueError(
                f"beta_min={beta_min} and beta_max={beta_max}: they must be finite and satisfy "
                f"{least:.6g} < beta_min < beta_max."
            )
        self.beta_min, self.beta_max, self.t_min = beta_min, beta_max, t_min

    def _least(self, beta_max: float, t_min: float) -> float:
        """The exclusive lower bound of beta_min."""
        return 0.0

    @abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """B(t), shaped like `t`."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        # expm1 is accurate near t = 0.
        return torch.sqrt(-torch.expm1(-self.integral(t)))


class VPLinear(_Betas):
    """The continuous-time limit of DDPM's linear betas: beta(t) = beta_min + t (beta_max - beta_min).

    alpha(t)^2 = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2)), sigma^2 = 1 - alpha^2.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 32-33.

    Args:
        beta_min: Noise rate at t = 0, per unit time; negative in EDM's fit to its networks' range (`VPFitted`).
        beta_max: Noise rate at t = 1, per unit time.
        t_min: The cleanest time in training and sampling; 1e-3 is the source's.

    Raises:
        ValueError: Unless beta_min < beta_max, 0 < t_min < 1, and the noise at t_min is positive and rising.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> None:
        super().__init__(beta_min, beta_max, t_min)

    def _least(self, beta_max: float, t_min: float) -> float:
        """B(t_min) > 0: beta_min (2 - t_min) > -beta_max t_min; the rate at t_min is positive then too."""
        return -beta_max * t_min / (2 - t_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2)

    def time_of(self, lam: Tensor) -> Tensor:
        return self._inverse(-F.logsigmoid(2 * lam))  # softplus is inexact beyond 20

    def _inverse(self, c: Tensor) -> Tensor:
        """The time at which the integral is `c`: the positive root of a quadratic, in its stable form."""
        root = torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c)
        if self.beta_min <= 0:
            return (root - self.beta_min) / (self.beta_max - self.beta_min)
        return 2 * c / (self.beta_min + root)


class VPFitted(VPLinear):
    """`VPLinear` defined by its ends: sigma / alpha is rho_min at t_min and rho_max at t = 1.

    The defaults are the range of EDM's networks, over which its released code runs the VP schedule and its time steps
    (`ablation_sampler`); they give beta_min = -0.0048.

    Source: Karras et al., EDM, arXiv 2206.00364, table 1 and code.

    Args:
        rho_min: sigma / alpha at t_min.
        rho_max: sigma / alpha at t = 1.
        t_min: As in `VPLinear`.

    Raises:
        ValueError: Unless 0 < rho_min < rho_max, 0 < t_min < 1, and the noise rises from t_min.
    """

    def __init__(self, rho_min: float = 0.002, rho_max: float = 80.0, t_min: float = 1e-3) -> None:
        if not 0 < rho_min < rho_max < math.inf:
            raise ValueError(f"rho_min={rho_min} and rho_max={rho_max}: they must satisfy 0 < rho_min < rho_max.")
        if not 0 < t_min < 1:
            raise ValueError(f"t_min={t_min}: it must lie between 0 and 1, both excluded.")
        first, last = math.log1p(rho_min**2), math.log1p(rho_max**2)
        beta_min = (first / t_min - last * t_min) / (1 - t_min)
        super().__init__(beta_min, 2 * last - beta_min, t_min)


class VPQuadratic(_Betas):
    """The continuous-time limit of `scaled_linear` betas: sqrt(beta(t)) linear in t.

    Source: Rombach et al., Latent Diffusion, arXiv 2112.10752, appendix; DDPM's code calls it `quad`.

    Args:
        beta_min: Noise rate at t = 0, per unit time; 1000 times Stable Diffusion's first beta.
        beta_max: Noise rate at t = 1, per unit time.
        t_min: The cleanest time in training and sampling.

    Raises:
        ValueError: Unless 0 < beta_min < beta_max and 0 < t_min < 1.
    """

    def __init__(self, beta_min: float = 0.85, beta_max: float = 12.0, t_min: float = 1e-3) -> None:
        super().__init__(beta_min, beta_max, t_min)

    def integral(self, t: Tensor) -> Tensor:
        # The integral of (r + t d)^2, where r and r + d are the roots of the two rates.
        r = math.sqrt(self.beta_min)
        d = math.sqrt(self.beta_max) - r
        return t * (r * r + t * d * (r + t * d / 3))

    def time_of(self, lam: Tensor) -> Tensor:
        # With y = r + t d, y^3 = r^3 + 3 d B; t is solved for without the difference y - r.
        r = math.sqrt(self.beta_min)
        d = math.sqrt(self.beta_max) - r
        c = -F.logsigmoid(2 * lam)
        y = (r**3 + 3 * d * c) ** (1 / 3)
        return 3 * c / (y * y + y * r + r * r)


class SubVP(VPLinear):
    """alpha of `VPLinear` with less noise, sigma = 1 - alpha^2. The arguments are those of `VPLinear`.

    Source: Song et al., arXiv 2011.13456, eq. 34-35 and appendix C.
    """

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))

    def time_of(self, lam: Tensor) -> Tensor:
        # sigma / alpha = 2 sinh(B / 2), which is infinite in float32 for pure noise.
        rho = torch.exp(-lam).clamp_max(torch.finfo(lam.dtype).max)
        return self._inverse(2 * torch.asinh(rho / 2))

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("base=SubVP: its family has no closed form; use a variance-preserving schedule.")


class VPCosine(Schedule):
    """alpha(t) = cos(a) / cos(a0), a = (t + s) / (1 + s) pi / 2, a0 = a(0).

    Computed from sin(pi/2 - a) and sigma^2 = sin(a - a0) sin(a + a0) / cos(a0)^2, which are accurate at both ends.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 17.

    Args:
        s: Offset that keeps the first steps from being too small.
        t_min: The cleanest time in training and sampling.
        t_max: The noisiest time. At t = 1 alpha is 0; at the default the half log-SNR is -4.8, where solvers start (Lu
            et al., DPM-Solver, arXiv 2206.00927, appendix D.1; the discrete schedule clips betas).

    Raises:
        ValueError: Unless 0 < s and 0 < t_min < t_max <= 1.
    """

    def __init__(self, s: float = 0.008, t_min: float = 1e-3, t_max: float = 0.9946) -> None:
        super().__init__()
        if not 0 < s < math.inf:
            raise ValueError(f"s={s}: it must be positive and finite.")
        check_range(t_min, t_max, 0, 1, closed=True)
        self.s, self.t_min, self.t_max = s, t_min, t_max
        self._rate = math.pi / 2 / (1 + s)
        self._start = self._rate * s

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._rate * (1 - t)) / math.cos(self._start)

    def sigma(self, t: Tensor) -> Tensor:
        turn = self._rate * t
        return torch.sqrt(torch.sin(turn) * torch.sin(turn + 2 * self._start)) / math.cos(self._start)

    def time_of(self, lam: Tensor) -> Tensor:
        # sin^2 a = sin^2 a0 + q and cos^2 a = p; t is solved for without the difference a - a0.
        scale = math.cos(self._start) ** 2
        p, q = scale * torch.sigmoid(2 * lam), scale * torch.sigmoid(-2 * lam)
        base = math.sin(self._start) ** 2
        # sin(a - a0) = sin a cos a0 - cos a sin a0 = q / (sin a cos a0 + cos a sin a0).
        sine, cosine = torch.sqrt(base + q), torch.sqrt(p)
        c0, s0 = math.cos(self._start), math.sin(self._start)
        across = q / (sine * c0 + cosine * s0)
        along = cosine * c0 + sine * s0
        return torch.atan2(across, along) / self._rate


class VPSigmoid(Schedule):
    """alpha(t)^2 falls as a logistic curve: (f(b) - f(u)) / (f(b) - f(a)), u = a + t (b - a), f the sigmoid.

    Computed from f(b) - f(u) = sinh((b - u) / 2) / (2 cosh(b / 2) cosh(u / 2)), which is accurate at both ends.

    Source: Chen, On the Importance of Noise Scheduling, arXiv 2301.10972, section 2.2; Jabri et al., arXiv 2212.11972.

    Args:
        start: a times tau.
        end: b times tau.
        tau: Temperature.
        t_min: The cleanest time in training and sampling.
        t_max: The noisiest time. At t = 1 alpha is 0; at the default the half log-SNR is -5.2.

    Raises:
        ValueError: Unless start < end, tau > 0, both ends are within 80 tau of 0 (float32 overflows
            beyond), and 0 < t_min < t_max <= 1.
    """

    def __init__(
        self,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        t_min: float = 1e-4,
        t_max: float = 0.9999,
    ) -> None:
        super().__init__()
        if not start < end:
            raise ValueError(f"start={start} and end={end}: they must satisfy start < end.")
        if not 0 < tau < math.inf:
            raise ValueError(f"tau={tau}: it must be positive and finite.")
        if max(abs(start), abs(end)) > 80 * tau:
            raise ValueError(f"tau={tau}: start={start} and end={end} must lie within 80 tau of 0.")
        check_range(t_min, t_max, 0, 1, closed=True)
        self.a, self.b, self.t_min, self.t_max = start / tau, end / tau, t_min, t_max

    def alpha(self, t: Tensor) -> Tensor:
        return self._root((1 - t), self.a, t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._root(t, self.b, t)

    def time_of(self, lam: Tensor) -> Tensor:
        # With h = (b - a) / 2: snr cosh(b / 2) / cosh(a / 2) = sinh(h) coth(t h) - cosh(h).
        half = (self.b - self.a) / 2
        ratio = torch.exp(2 * lam) * (math.cosh(self.b / 2) / math.cosh(self.a / 2))
        return torch.log1p(2 * math.sinh(half) / (ratio + math.exp(-half))) / (2 * half)

    def _root(self, part: Tensor, other: float, t: Tensor) -> Tensor:
        half = (self.b - self.a) / 2
        u = (self.a + t * (self.b - self.a)) / 2
        ratio = math.cosh(other / 2) / math.sinh(half)
        return torch.sqrt(ratio * torch.sinh(part * half) / torch.cosh(u))

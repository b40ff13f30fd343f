"""Schedules trained at a table of levels i = 1..T at t = i / T, with a continuous path between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from denoiselab.schedules.base import Schedule
from denoiselab.schedules.betas import geometric, linear

# Half log-SNR at which DPM-Solver's code clips a chain; the linear chain ends at -5.06.
_FIRST_LAM = -5.1


class _Table(Schedule):
    """A path through T + 1 knots at t = 0, 1/T, ..., 1.

    The table is no buffer, because grids are made on the CPU and training uses the device: there is a copy on each.
    """

    t_max = 1.0

    def __init__(self, knots: Tensor) -> None:
        super().__init__()
        self.steps = len(knots) - 1
        self.t_min = 1 / self.steps
        self._copies = {torch.device("cpu"): knots.detach().to("cpu", torch.float64)}

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._copies:
            self._copies[device] = self._copies[torch.device("cpu")].to(device)
        return self._copies[device]

    def _around(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The knots on both sides of `t`, and the place of `t` between them from 0 to 1, float64."""
        assert self.steps is not None
        table = self._table(t.device)
        u = t.double() * self.steps
        i = u.detach().floor().clamp(0, self.steps - 1).long()
        return table[i], table[i + 1], u - i


class DiscreteVP(_Table):
    """DDPM's chain of betas, alpha_i^2 = prod (1 - beta); log alpha is piecewise linear between its levels and data.

    If the last beta is 1 the chain ends in pure noise; there alpha, not its logarithm, is linear in the last step.

    Source: Ho et al., DDPM, arXiv 2006.11239, eq. 4; Lu et al., DPM-Solver, arXiv 2206.00927, appendix D.1.

    Args:
        betas: `(T,)`, the variance that each step adds, starting at the data. None for DDPM's, `linear()`.
        zero_terminal_snr: Whether to shift and scale alpha so that the last is 0 and the first is kept (Lin et al.,
            Common Diffusion Noise Schedules are Flawed, arXiv 2305.08891, algorithm 1).

    Raises:
        ValueError: If there are fewer than 2 betas, or one is not in (0, 1); the last may be 1.
    """

    def __init__(self, betas: Tensor | None = None, zero_terminal_snr: bool = False) -> None:
        betas = (linear() if betas is None else betas).detach().to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise ValueError(f"betas: they must be a list of at least 2 numbers; the shape is {list(betas.shape)}.")
        for i, beta in enumerate(betas.tolist(), start=1):
            if not 0 < beta < 1 and not (i == len(betas) and beta == 1):
                raise ValueError(f"betas: number {i} is {beta:.6g}; each must lie between 0 and 1, both excluded.")
        log_alpha = torch.log1p(-betas).cumsum(0) / 2
        if zero_terminal_snr:
            alpha = log_alpha.exp()
            first, last = alpha[0], alpha[-1]
            # (alpha - last) first / (first - last), and its complement, so that the first levels keep their digits.
            lost = (torch.expm1(log_alpha[0]) - torch.expm1(log_alpha)) * last / (first - last)
            log_alpha = torch.log1p(torch.expm1(log_alpha) - lost)
            log_alpha[-1] = -torch.inf
        super().__init__(F.pad(log_alpha, (1, 0)))

    @classmethod
    def from_alpha_bars(cls, alpha_bars: Tensor) -> DiscreteVP:
        """The chain with the given alpha^2 `(T,)`, strictly decreasing between 1 and 0; the last may be 0.

        Raises:
            ValueError: If they do not decrease strictly, or leave that range.
        """
        alpha_bars = alpha_bars.detach().to("cpu", torch.float64)
        before = F.pad(alpha_bars[:-1], (1, 0), value=1.0)
        if not bool((alpha_bars < before).all() and (alpha_bars >= 0).all()):
            raise ValueError("alpha_bars: they must fall strictly from below 1, and stay above 0 before the last.")
        return cls((before - alpha_bars) / before)

    def alpha(self, t: Tensor) -> Tensor:
        left, right, w = self._around(t)
        straight = left.exp() * (1 - w)
        return torch.where(right.isinf(), straight, self._log_alpha(left, right, w).exp()).to(t)

    def sigma(self, t: Tensor) -> Tensor:
        left, right, w = self._around(t)
        straight = left.exp() * (1 - w)
        lost = w * left.exp() - torch.expm1(left)  # 1 - straight, without its cancellation near the data
        square = torch.where(right.isinf(), lost * (1 + straight), -torch.expm1(2 * self._log_alpha(left, right, w)))
        return square.sqrt().to(t)

    def start(self, lam: float | None = None) -> float:
        """As in `Schedule`; without `lam`, a chain that ends below -5.1 starts at its last level above.

        At noisier levels x0 = (x - sigma eps) / alpha multiplies the error of eps by more than 160, and a grid in
        log-SNR spends its steps on noise: the cosine chain ends at -9.9, the constant one at -10.1. A chain ending in
        pure noise starts there: x_T has exactly its distribution, and the first step has a closed form.

        Source: the released code of Lu et al., DPM-Solver, arXiv 2206.00927 (`numerical_clip_alpha`).
        """
        if lam is None and not self._table(torch.device("cpu"))[-1].isinf():
            lam = _FIRST_LAM
        return super().start(lam)

    def _log_alpha(self, left: Tensor, right: Tensor, w: Tensor) -> Tensor:
        return left + w * (torch.where(right.isinf(), 2 * left - 1, right) - left)

    def time_of(self, lam: Tensor) -> Tensor:
        assert self.steps is not None
        table = self._table(lam.device)
        log_alpha = F.logsigmoid(2 * lam.double()) / 2
        i = (torch.searchsorted(-table, -log_alpha) - 1).clamp(0, self.steps - 1)
        left, right = table[i], table[i + 1]
        w = torch.where(right.isinf(), -torch.expm1(log_alpha - left), (log_alpha - left) / (right - left))
        return ((i + w) / self.steps).to(lam)


class DiscreteVE(_Table):
    """NCSN's noise levels: alpha = 1 and a table of sigmas, log sigma piecewise linear between them.

    Source: Song and Ermon, arXiv 1907.05600, section 4.1.

    Args:
        sigmas: `(L,)`, strictly rising. None for NCSN's, `geometric()`.

    Raises:
        ValueError: If there are fewer than 2 sigmas, or they do not rise strictly from above 0 to below infinity.
    """

    def __init__(self, sigmas: Tensor | None = None) -> None:
        sigmas = (geometric() if sigmas is None else sigmas).detach().to("cpu", torch.float64)
        if sigmas.ndim != 1 or len(sigmas) < 2:
            raise ValueError(f"sigmas: they must be a list of at least 2 numbers; the shape is {list(sigmas.shape)}.")
        if not bool((sigmas[0] > 0) & (sigmas.diff() > 0).all() & sigmas[-1].isfinite()):
            raise ValueError("sigmas: they must be positive and finite, and rise strictly.")
        log_sigma = sigmas.log()
        super().__init__(F.pad(log_sigma, (1, 0), value=float(2 * log_sigma[0] - log_sigma[1])))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        left, right, w = self._around(t)
        return (left + w * (right - left)).exp().to(t)

    def time_of(self, lam: Tensor) -> Tensor:
        assert self.steps is not None
        table = self._table(lam.device)
        log_sigma = -lam.double()
        i = (torch.searchsorted(table, log_sigma) - 1).clamp(0, self.steps - 1)
        return ((i + (log_sigma - table[i]) / (table[i + 1] - table[i])) / self.steps).to(lam)

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), sigma / alpha

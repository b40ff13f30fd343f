"""The variance of a reverse step p(x_s | x_t): fixed, or read from the network. Logarithms, shaped to multiply x."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class StepVariance(Protocol):
    """The log-variance of any step of a batch."""

    def __call__(self, here: Level, there: Level, before: Level | None = None) -> Tensor:
        """Log-variance of p(x_there | x_here), broadcastable to x.

        Args:
            here: Where the step starts.
            there: Where it lands; where that may be clean data, `before` must be given.
            before: The level one step noisier than `here`.
        """
        ...


class Variance(Protocol):
    """A variance model. `outputs` counts the network's outputs: 2 with a learned variance, else 1."""

    outputs: int

    def __call__(self, x: Tensor, raw: Tensor | None) -> StepVariance:
        """The variances at a batch x `(B, *)` with the network's raw variance output `(B, *)`, if it has one."""
        ...


def posterior_variances(here: Level, there: Level) -> tuple[Tensor, Tensor]:
    """The two bounds on the variance of x_there given x_here: (posterior, beta), shaped like the levels.

    beta = sigma_t^2 (1 - snr_t / snr_s) is the forward step's; posterior = sigma_s^2 (1 - snr_t / snr_s) that of
    q(x_s | x_t, x0). They are optimal for data of unit variance and for a single point.

    Source: Ho et al., DDPM, arXiv 2006.11239, section 3.2; Kingma et al., arXiv 2107.00630, eq. 20-24.
    """
    fraction = -torch.expm1(2 * (here.lam - there.lam))
    return there.sigma.square() * fraction, here.sigma.square() * fraction


def log_bounds(here: Level, there: Level, before: Level | None = None) -> tuple[Tensor, Tensor]:
    """Logarithms of `posterior_variances`, shaped like the levels.

    A step to clean data has no posterior variance: DDPM puts that of the step `before` in its place (Ho et al.'s
    code; Nichol and Dhariwal, arXiv 2102.09672, section 3.1).
    """
    small, large = posterior_variances(here, there)
    if before is not None:
        small = torch.where(there.sigma == 0, posterior_variances(before, here)[0], small)
    return small.log(), large.log()


class FixedSmall:
    """The variance of q(x_s | x_t, x0) (Ho et al., arXiv 2006.11239, section 3.2)."""

    outputs = 1

    def __call__(self, x: Tensor, raw: Tensor | None) -> StepVariance:

        def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
            return like(log_bounds(here, there, before)[0], x)

        return step


class FixedLarge:
    """The variance of q(x_t | x_s), beta (Ho et al., section 3.2); in the last step the small one, as in their code."""

    outputs = 1

    def __call__(self, x: Tensor, raw: Tensor | None) -> StepVariance:

        def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
            small, large = log_bounds(here, there, before)
            return like(torch.where(there.sigma == 0, small, large), x)

        return step


class Learned:
    """beta exp(output): the network learns the logarithm's offset from beta, so any length of step has a variance."""

    outputs = 2

    def __call__(self, x: Tensor, raw: Tensor | None) -> StepVariance:
        assert raw is not None

        def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
            return raw + like(posterior_variances(here, there)[1].log(), x)

        return step


class LearnedRange:
    """Between posterior and beta in log space: f log beta + (1 - f) log posterior, f = (output + 1) / 2.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 15; the outputs' range is theirs.
    """

    outputs = 2

    def __call__(self, x: Tensor, raw: Tensor | None) -> StepVariance:
        assert raw is not None

        def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
            small, large = log_bounds(here, there, before)
            return like(small, x) + (raw + 1) / 2 * like(large - small, x)

        return step

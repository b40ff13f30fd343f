"""A `Denoiser` says what a network's output means; samplers and objectives see nothing else of a network."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from denoiselab.parameterizations import Coefficients, Parameterization, determinant
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class Prediction(NamedTuple):
    """What a denoiser believes of a noisy batch x, both `(B, *)`; alpha x0 + sigma eps = x.

    Args:
        x0: The expected clean batch.
        eps: The expected noise.
    """

    x0: Tensor
    eps: Tensor


class Denoise(Protocol):
    """A denoiser with its conditioning bound: all that a sampler sees."""

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict (x0, eps) from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        ...


class Output(NamedTuple):
    """A network's raw output with its meaning.

    Args:
        out: `(B, *)`, an estimate of a x0 + b eps.
        level: The level on the denoiser's own schedule, where `out` was made.
        coefficients: (a, b), shaped like the level.
    """

    out: Tensor
    level: Level
    coefficients: Coefficients


class ScaledTime:
    """The network's time label as a multiple of t: with scale 1000, DDPM's step index.

    Args:
        scale: Factor on t.
    """

    def __init__(self, scale: float = 1000.0) -> None:
        self.scale = scale

    def __call__(self, level: Level) -> Tensor:
        """The label, shaped like the level."""
        return level.t * self.scale


class Denoiser(nn.Module):
    """A network, the schedule it is trained on, what its output means and how it is told the time.

    It accepts levels of any schedule: x at half log-SNR lam on another path is x sigma'/sigma on this one at the
    same lam, so a network trained on one path samples along every other.

    Args:
        network: Called as `network(x, label, **cond)` with x `(B, *)` and label `(B,)`; returns `(B, *)`.
        schedule: The network's home schedule.
        parameterization: The meaning (a, b) of the output at a level.
        time_label: The label of a level.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        time_label: ScaledTime,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.time_label = time_label

    def output(self, x: Tensor, level: Level, **cond: Tensor) -> Output:
        """The raw output at a level of the home schedule; `x` is `(B, *)`, `level` scalar or `(B,)`."""
        label = self.time_label(level).to(x).expand(x.shape[0])
        return Output(self.network(x, label, **cond), level, self.parameterization(level))

    def forward(self, x: Tensor, level: Level, **cond: Tensor) -> Prediction:
        """Predict (x0, eps) from `x` `(B, *)` at `level` (scalar or `(B,)`, of any schedule)."""
        home = level
        if level.path is not self.schedule:
            home = self.schedule.at(level.lam)
            x = x * like(home.sigma / level.sigma, x)
        out, _, (a, b) = self.output(x, home, **cond)
        # Cramer's rule on (x, out) = ((alpha, sigma), (a, b)) (x0, eps).
        det = determinant(home, (a, b))
        x0 = like(b / det, x) * x - like(home.sigma / det, x) * out
        eps = like(home.alpha / det, x) * out - like(a / det, x) * x
        return Prediction(x0, eps)

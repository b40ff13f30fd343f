"""`Denoiser`: a network with the meaning of its output. Samplers and objectives only use networks through it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.networks.conditioning import Conditioning
from denoiselab.parameterizations import Coefficients, Parameterization, home, solve
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like
from denoiselab.variances import StepVariance, Variance


class OfLevel(Protocol):
    """A number for each noise level: a time label or a factor on the network's input."""

    def __call__(self, level: Level, /) -> Tensor:
        """Float64 numbers shaped like the level, `()` or `(B,)`."""
        ...


class Prediction(NamedTuple):
    """The prediction of a denoiser for a noisy batch x `(B, *)`; alpha x0 + sigma eps = x.

    Attributes:
        x0: The expected clean batch, `(B, *)`.
        eps: The expected noise, `(B, *)`.
        variance: The log-variance of a reverse step from here, where the model has one.
        renoise: The noise `(B, *)` that a step adds back to x0, where it is not eps; for samplers that `renoises`.
        gradient: `(B, *)`, times its variance what a step adds to its mean; for samplers that `moves_mean`.
    """

    x0: Tensor
    eps: Tensor
    variance: StepVariance | None = None
    renoise: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def added(self) -> Tensor:
        """The noise that a step adds back to x0: `renoise`, or eps if there is none."""
        return self.eps if self.renoise is None else self.renoise


class Denoise(Protocol):
    """A denoiser with its conditioning bound: the interface of samplers to a model."""

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict (x0, eps) from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        ...


class Output(NamedTuple):
    """A network's raw output with its meaning.

    Attributes:
        x: `(B, *)`, the noisy batch.
        out: `(B, *)`, an estimate of a x0 + b eps.
        level: The level on the denoiser's own schedule, where `out` was made.
        coefficients: (a, b), shaped like the level.
        variance: The log-variance of a reverse step, where the model has one.
    """

    x: Tensor
    out: Tensor
    level: Level
    coefficients: Coefficients
    variance: StepVariance | None

    def prediction(self) -> Prediction:
        """The (x0, eps) of the output."""
        return Prediction(*solve(self.x, self.out, self.level, self.coefficients), self.variance)


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


class StepIndex:
    """The time label 0..T-1 of a discrete schedule's trained levels, or a multiple of it.

    Args:
        nearest: Between trained levels, the nearest index instead of a fractional one: for networks with a table
            of embeddings (k-diffusion's `quantize`).
        scale: Factor on the index; 1000 / T makes chains of all lengths alike to the network (improved-diffusion's
            `rescale_timesteps`).
        descending: 0 is the noisiest level, as in NCSN's code and its successors'.
    """

    def __init__(self, nearest: bool = False, scale: float = 1.0, descending: bool = False) -> None:
        self.nearest, self.scale, self.descending = nearest, scale, descending

    def __call__(self, level: Level) -> Tensor:
        """The label, shaped like the level.

        Raises:
            ValueError: If the schedule is continuous.
        """
        steps = home(level).steps
        if steps is None:
            raise ValueError(
                "time_label: StepIndex counts the levels of a discrete schedule, and this one is continuous; "
                "use ScaledTime or LogNoise."
            )
        index = steps - level.t * steps if self.descending else level.t * steps - 1
        return (index.round() if self.nearest else index) * self.scale


class LogNoise:
    """The time label as a multiple of log(sigma / alpha): with 1/4, EDM's c_noise (arXiv 2206.00364, table 1).

    Infinite at alpha = 0 and at sigma = 0.

    Args:
        scale: Factor on the logarithm.
        unit: The ratio sigma / alpha whose label is 0; 2 where the network was trained on data in [0, 1], in whose
            units sigma is half of ours.

    Raises:
        ValueError: If unit <= 0.
    """

    def __init__(self, scale: float = 0.25, unit: float = 1.0) -> None:
        if unit <= 0:
            raise ValueError(f"unit={unit}: it must be positive.")
        self.scale, self.unit = scale, unit

    def __call__(self, level: Level) -> Tensor:
        """The label, shaped like the level."""
        return -self.scale * (level.lam + math.log(self.unit))


class UnitVariance:
    """Scales the network's input to unit variance, 1 / sqrt(alpha^2 sigma_data^2 + sigma^2): EDM's c_in.

    Source: Karras et al., EDM, arXiv 2206.00364, table 1.

    Args:
        sigma_data: Standard deviation of the data.

    Raises:
        ValueError: If sigma_data <= 0.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if sigma_data <= 0:
            raise ValueError(f"sigma_data={sigma_data}: it must be positive.")
        self.sigma_data = sigma_data

    def __call__(self, level: Level) -> Tensor:
        """The factor, shaped like the level."""
        return 1 / torch.hypot(level.alpha * self.sigma_data, level.sigma)


def labels(time_label: OfLevel, level: Level, x: Tensor) -> Tensor:
    """Time labels `(B,)` of `x` `(B, *)` at a level, at least in float32: bfloat16 takes 999 for 1000."""
    return time_label(level).to(x.device, torch.promote_types(x.dtype, torch.float32)).expand(len(x))


class Denoiser(nn.Module):
    """A network with its schedule, the meaning of its output, and how the noise level is passed to it.

    It accepts levels of any schedule: x at half log-SNR lam on another path is x sigma'/sigma on this one at the
    same lam, so a network trained on one path samples along every other.

    A network with a second time predicts the x0 whose exact transfer to `Level.there` lands on the ODE's solution. It
    is told t - r, the time between the levels on the home schedule, where clean data are at 0; 0 where `there` is None
    or noisier, which asks for the expected x0. That x0 depends on the two log-SNRs alone, as the expected one does.

    Args:
        network: Called as `denoiselab.networks.Network` documents.
        schedule: The network's home schedule.
        parameterization: The meaning (a, b) of the output at a level.
        time_label: The label of a level.
        input_scale: Factor on the network's input at a level; None is 1.
        variance: The variance of reverse steps; None where the model has none.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        time_label: OfLevel,
        input_scale: OfLevel | None = None,
        variance: Variance | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.parameterization = parameterization
        self.time_label = time_label
        self.input_scale = input_scale
        self.variance = variance

    def output(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Output:
        """The raw output at a level of the home schedule; `x` is `(B, *)`, `level` scalar or `(B,)`."""
        label = labels(self.time_label, level, x)
        scaled = x if self.input_scale is None else like(self.input_scale(level), x) * x
        second = (self._between(level, x),) if second_time(self.network) else ()
        out, raw = self.network(scaled, label, cond, *second), None
        variance = None
        if self.variance is not None:
            if self.variance.outputs == 2:
                out, raw = out.chunk(2, dim=1)
            variance = self.variance(x, raw)
        return Output(x, out, level, self.parameterization(level), variance)

    def forward(self, x: Tensor, level: Level, cond: Conditioning = Conditioning()) -> Prediction:
        """Predict (x0, eps) from `x` `(B, *)` at `level` (scalar or `(B,)`, of any schedule)."""
        if level.path is self.schedule:
            return self.output(x, level, cond).prediction()
        at_home = replace(self.schedule.at(level.lam), there=level.there)
        # Equal in the home schedule's range. Beyond it keep what there is more of, data or noise, at its scale, and
        # give the rest to eps, so that alpha x0 + sigma eps = x all the same.
        # Where both are pure noise, fmin and fmax pass over the undefined ratio of alphas.
        scale = torch.fmin(at_home.sigma / level.sigma, at_home.alpha / level.alpha)
        x0, eps, variance = self.output(x * like(scale, x), at_home, cond).prediction()[:3]
        stretch = torch.fmax(at_home.rho / level.rho, torch.ones_like(level.rho))
        excess = (1 / at_home.rho - 1 / level.rho).clamp_min(0)
        return Prediction(x0, like(stretch, x) * eps + like(excess, x) * x0, variance)

    def _between(self, level: Level, x: Tensor) -> Tensor:
        """The second label `(B,)`: the time from a level of the home schedule to where its step ends."""
        there = level.there
        if there is None:
            return torch.zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
        t = there.t if there.path is self.schedule else self.schedule.at(there.lam).t * (there.sigma > 0)
        return labels(lambda here: (here.t - t).clamp_min(0), level, x)


def second_time(network: nn.Module) -> bool:
    """Whether a network takes a second time, that of the end of a step."""
    return bool(getattr(network, "second_time", False))

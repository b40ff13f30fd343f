"""Likelihood in bits/dim: by the probability-flow ODE, by the variational bound of a chain, and by VDM's bound.

The ODE's density is that of y = x / alpha at the model's least noisy level, so of data with noise of sigma / alpha
there. The bounds decode x0 from such a y: for real data that adds the same noise once more.

The density of a model of a codec's latents is that of the data where the codec is a bijection: the change of volume
counts as part of what dequantisation costs.
"""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.codecs import Bijection
from denoiselab.data import DataSet, clean
from denoiselab.denoiser import Denoise, Denoiser
from denoiselab.likelihood.dequantisation import Dequantisation, OnImages
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives import ContinuousBound, VariationalBound
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.level_distributions import UniformSteps
from denoiselab.objectives.projections import Projection
from denoiselab.samplers.adaptive import flow_place, flow_slope, like_batch, runge_kutta_45
from denoiselab.samplers.base import check_number
from denoiselab.schedules import Schedule
from denoiselab.schedules.base import like
from denoiselab.variances import Variance

_LOG2 = math.log(2)


class Estimate(NamedTuple):
    """What is known of the likelihood of a batch.

    Args:
        parts: Name to bits/dim, `(B,)` float64; their sum estimates the negative log-likelihood, or a bound on it.
        steps: Name to `(T, B)` float64, for a chain: what is known of its steps, the last one (t = 1) first.
    """

    parts: Mapping[str, Tensor]
    steps: Mapping[str, Tensor] = MappingProxyType({})


class Likelihood(ABC):
    """A way to measure a likelihood."""

    bins: int | None  # values of the data that it is for, from -1 to 1; None for real numbers
    part: str  # which of its arguments says so
    fit_images: int = 0  # training images seen before it can measure

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027  # most measure every model
        """Refuse a model that it cannot measure.

        Raises:
            ValueError: Says which part does not fit.
        """

    def through(self, codec: Bijection) -> Likelihood:
        """The same, of data, for a model of a codec's latents.

        Raises:
            ValueError: It cannot be had that way.
        """
        raise ValueError(f"{self.part}: it is for data, and this model is one of latents; choose likelihood=ode.")

    def fit(  # noqa: B027  # most have nothing to train
        self, model: Model, train: DataSet, seed: int, on_images: OnImages
    ) -> None:
        """Train what is to be trained beside the model, on training images; `on_images` is told their numbers."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """Measure a batch.

        Args:
            denoiser: The model.
            x0: `(B, *)`, in the network's range.
            noise: Source of all that is random.
            cond: The batch's conditioning.
        """


class Trace(ABC):
    """Chooses the directions v of tr J = sum of v^T J v."""

    @abstractmethod
    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        """Each shaped and typed like `x` `(B, *)`."""


class ExactTrace(Trace):
    """All D axes: a backward pass a dimension, for a few dimensions and as the measure of `Hutchinson`."""

    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        """The unit vectors."""
        axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [axis.view(1, *x.shape[1:]).expand_as(x) for axis in axes]


class Hutchinson(Trace):
    """Random directions, the same along the whole ODE: unbiased, a backward pass a probe.

    Source: Skilling 1989; Hutchinson 1990; Grathwohl et al., FFJORD, arXiv 1810.01367, section 3.1.

    Args:
        projection: Draws a direction with E v v^T = I.
        probes: Directions a sample, averaged.

    Raises:
        ValueError: `probes` is less than 1.
    """

    def __init__(self, projection: Projection, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"probes={probes}: it must be at least 1.")
        self.projection, self.probes = projection, probes

    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        """The probes, divided by the root of their number."""
        return [self.projection(x, noise) / math.sqrt(self.probes) for _ in range(self.probes)]


class FlowLikelihood(Likelihood):
    """log p(y) = log N(u_T; 0, I) + the integral of the divergence, u the state of `flow_slope`, from data to noise.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 39-40 and appendix D.2.

    Args:
        dequantisation: Numbers from bytes.
        trace: Of the slope's Jacobian.
        rtol: Relative tolerance of the solver, for u and for the log-density in nats alike.
        atol: Absolute tolerance.

    Raises:
        ValueError: A tolerance is negative, or both are 0.
    """

    part = "dequantisation"

    def __init__(self, dequantisation: Dequantisation, trace: Trace, rtol: float = 1e-5, atol: float = 1e-5) -> None:
        check_number("rtol", rtol)
        check_number("atol", atol)
        if rtol == atol == 0:
            raise ValueError("rtol=0 and atol=0: one of them must be positive.")
        self.dequantisation, self.trace, self.rtol, self.atol = dequantisation, trace, rtol, atol
        self.bins, self.fit_images = dequantisation.bins, dequantisation.images

    def through(self, codec: Bijection) -> FlowLikelihood:
        """The same with the codec's latents of the dequantised data."""
        try:
            return FlowLikelihood(self.dequantisation.through(codec), self.trace, self.rtol, self.atol)
        except ValueError as error:
            raise ValueError(f"{self.part}.{error}") from None

    def fit(self, model: Model, train: DataSet, seed: int, on_images: OnImages) -> None:
        """Train the dequantisation by a bound on -log p(y), in which the SDE's density stands for the ODE's.

        Of y_t = y + r eps, r^2 = rho^2 - rho_min^2, it is the integral of (r |s|^2 + 2 s.eps) dr and a constant, for
        the score s = -eps_hat / rho; with rho = rho_min cosh(a) that of (tanh(a) |eps_hat|^2 - 2 eps_hat.eps) da.

        Source: Song et al., Maximum Likelihood Training, arXiv 2101.09258, theorem 3.
        """
        if not self.fit_images:
            return
        denoiser, device, schedule = model.denoiser, model.device, model.denoiser.schedule
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).rho
        least, span = float(ends[0]), float((ends[1].clamp_max(1e3) / ends[0]).acosh())  # beyond, y hardly counts

        def loss(y: Tensor, index: Tensor, noise: Noise) -> Tensor:
            place, eps = span * noise.uniform(), noise.like(y)
            level = schedule.at(-(least * place.cosh()).log())
            x = like(level.alpha, y) * (y + like(least * place.sinh(), y) * eps)
            cond = model.conditioner.given(clean(train, index.cpu(), device))
            predicted = denoiser(x, level, cond).eps
            inner: Tensor = like(place.tanh(), y) * predicted.square() - 2 * predicted * eps
            return span * inner.flatten(1).mean(1)

        def images(index: Tensor) -> Tensor:
            return train.inputs(index.cpu()).to(device)

        self.dequantisation.fit(loss, images, len(train), seed, on_images)

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """The parts `prior`, `volume` and `dequantisation`."""
        schedule = denoiser.schedule
        rho = float(schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64)).rho)
        y, log_q = self.dequantisation(x0, rho, noise)
        prior, volume = self.log_density(functools.partial(denoiser, cond=cond), schedule, y, noise, x0.dtype)
        parts = {"prior": -prior, "volume": -volume, "dequantisation": log_q}
        return Estimate({name: nats / (x0[0].numel() * _LOG2) for name, nats in parts.items()})

    @torch.no_grad()
    def log_density(
        self, denoise: Denoise, schedule: Schedule, y: Tensor, noise: Noise, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Log p(y) in nats as a sum of two parts, `(B,)` float64: that of the noise, and that of the map to it.

        Args:
            denoise: A denoiser with its conditioning bound.
            schedule: Along which the ODE is solved.
            y: `(B, *)`, at the least noisy level divided by its alpha.
            noise: Source of the trace's directions.
            dtype: Of the denoiser's input.

        Raises:
            ValueError: The solver gave up.
        """
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).unbind()
        first, last = (like_batch(flow_place(level), y) for level in ends)
        cos = float(ends[0].alpha / torch.hypot(ends[0].alpha, ends[0].sigma))
        start = cos * y.double()
        directions = self.trace.directions(start, noise)

        def slope(place: Tensor, state: Tensor) -> Tensor:
            with torch.enable_grad():
                u = state[:, :-1].reshape(y.shape).requires_grad_()
                out = flow_slope(denoise, schedule, place, u, dtype)
                divergence = torch.zeros_like(state[:, -1])
                for v in directions:
                    product = torch.autograd.grad(out, u, v, retain_graph=True)[0]
                    divergence += (v * product).flatten(1).sum(1)
            return torch.cat((out.detach().flatten(1), divergence[:, None]), 1)

        state = torch.cat((start.flatten(1), torch.zeros_like(first)[:, None]), 1)
        end = runge_kutta_45(slope, state, first, last, self.rtol, self.atol)
        u, integral = end[:, :-1], end[:, -1]
        return -(u.square() + math.log(2 * math.pi)).sum(1) / 2, integral + u.shape[1] * math.log(cos)


class ChainBound(Likelihood):
    """`VariationalBound` of the whole chain: T network calls a sample.

    Args:
        decoder: log p(x0 | x_1) around the predicted x0.
        variance: Of the reverse steps, for a model that has none of its own.
        steps: Length of the chain; None for a discrete schedule's own.
        clip: Clamp the predicted x0 to [-clip, clip], as Ho et al. do; None does not.

    Raises:
        ValueError: A value is out of range.
    """

    part = "decoder"

    def __init__(
        self, decoder: Decoder, variance: Variance, steps: int | None = None, clip: float | None = None
    ) -> None:
        if steps is not None:
            check_number("steps", steps, 2)
        if clip is not None and clip <= 0:
            raise ValueError(f"clip={clip}: it must be positive, or null.")
        self.bound = VariationalBound(decoder, UniformSteps(steps=steps))
        self.bins, self.variance, self.clip = decoder.bins, variance, clip

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a continuous schedule where no number of steps is given.

        Raises:
            ValueError: As in `Schedule.chain`.
        """
        self.bound.check(self._chain(denoiser))

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """The parts `prior`, `diffusion` (t > 1) and `reconstruction`; of each step its `term` and `squared_error`."""
        _, prior, terms, errors = self.bound.evaluate(self._chain(denoiser), x0, noise, cond, clip=self.clip)
        parts = {"prior": prior, "diffusion": terms[1:].sum(0), "reconstruction": terms[0]}
        lam = denoiser.schedule.nodes(self.bound.steps.steps).lam.to(terms)[:, None].expand_as(terms)
        return Estimate(parts, {"half_log_snr": lam, "term": terms, "squared_error": errors})

    def _chain(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser with a variance: a shallow copy, with the same weights."""
        if denoiser.variance is not None:
            return denoiser
        denoiser = copy.copy(denoiser)
        denoiser.variance = self.variance
        return denoiser


class ContinuousTimeBound(Likelihood):
    """`ContinuousBound`, on any schedule.

    Args:
        decoder: log p(x0 | z_0).
        draws: Levels a sample, a network call each.

    Raises:
        ValueError: `draws` is less than 1.
    """

    part = "decoder"

    def __init__(self, decoder: Decoder, draws: int = 32) -> None:
        check_number("draws", draws, 1)
        self.bound, self.draws, self.bins = ContinuousBound(decoder), draws, decoder.bins

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """The parts `prior`, `reconstruction` and `diffusion`."""
        return Estimate(self.bound.evaluate(denoiser, x0, noise, cond, draws=self.draws)._asdict())

"""Likelihood by the probability-flow ODE.

The density is that of y = x / alpha at the model's least noisy level, so of data with noise of sigma / alpha there.
The density of a model of a codec's latents is that of the data where the codec is a bijection: the change of volume
is part of the dequantisation's log q.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.codecs import Bijection
from denoiselab.data import DataSet, clean
from denoiselab.denoiser import Denoise, Denoiser
from denoiselab.likelihood.base import LOG2, Estimate, Likelihood
from denoiselab.likelihood.dequantisation import Dequantisation, OnImages
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.projections import Projection
from denoiselab.samplers.adaptive import flow_place, flow_slope, like_batch, runge_kutta_45
from denoiselab.samplers.checks import check_number
from denoiselab.schedules import Schedule
from denoiselab.schedules.base import like


class Trace(ABC):
    """The directions v of tr J = sum of v^T J v."""

    @abstractmethod
    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        """Tensors of the shape and type of `x` `(B, *)`."""


class ExactTrace(Trace):
    """All D axes, one backward pass each: for few dimensions, and to check `Hutchinson`."""

    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        axes = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [axis.view(1, *x.shape[1:]).expand_as(x) for axis in axes]


class Hutchinson(Trace):
    """Random directions, fixed along the ODE: unbiased, one backward pass a probe.

    Source: Skilling 1989; Hutchinson 1990; Grathwohl et al., FFJORD, arXiv 1810.01367, section 3.1.

    Args:
        projection: Draws a direction with E v v^T = I.
        probes: Directions a sample, averaged.

    Raises:
        ValueError: If probes < 1.
    """

    def __init__(self, projection: Projection, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"probes={probes}: it must be at least 1.")
        self.projection, self.probes = projection, probes

    def directions(self, x: Tensor, noise: Noise) -> Sequence[Tensor]:
        return [self.projection(x, noise) / math.sqrt(self.probes) for _ in range(self.probes)]


class FlowLikelihood(Likelihood):
    """log p(y) = log N(u_T; 0, I) + the integral of the divergence, u the state of `flow_slope`, from data to noise.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 39-40 and appendix D.2.

    Args:
        dequantisation: Turns bytes into real numbers.
        trace: Estimator of the trace of the slope's Jacobian.
        rtol: Relative tolerance of the solver, for u and for the log-density in nats alike.
        atol: Absolute tolerance.

    Raises:
        ValueError: If a tolerance is negative, or both are 0.
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
        try:
            return FlowLikelihood(self.dequantisation.through(codec), self.trace, self.rtol, self.atol)
        except ValueError as error:
            raise ValueError(f"{self.part}.{error}") from None

    def fit(self, model: Model, train: DataSet, seed: int, on_images: OnImages) -> None:
        """Train the dequantisation by a bound on -log p(y), with the SDE's density in place of the ODE's.

        Of y_t = y + r eps, r^2 = rho^2 - rho_min^2, it is the integral of (r |s|^2 + 2 s.eps) dr and a constant, for
        the score s = -eps_hat / rho; with rho = rho_min cosh(a) that of (tanh(a) |eps_hat|^2 - 2 eps_hat.eps) da.

        Source: Song et al., Maximum Likelihood Training, arXiv 2101.09258, theorem 3.
        """
        if not self.fit_images:
            return
        denoiser, device, schedule = model.denoiser, model.device, model.denoiser.schedule
        ends = schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).rho
        least, span = float(ends[0]), float((ends[1].clamp_max(1e3) / ends[0]).acosh())  # beyond, y is negligible

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
        """See `Likelihood`; the parts are `prior`, `volume` and `dequantisation`."""
        schedule = denoiser.schedule
        rho = float(schedule.level(torch.tensor(schedule.t_min, dtype=torch.float64)).rho)
        y, log_q = self.dequantisation(x0, rho, noise)
        prior, volume = self.log_density(functools.partial(denoiser, cond=cond), schedule, y, noise, x0.dtype)
        parts = {"prior": -prior, "volume": -volume, "dequantisation": log_q}
        return Estimate({name: nats / (x0[0].numel() * LOG2) for name, nats in parts.items()})

    @torch.no_grad()
    def log_density(
        self, denoise: Denoise, schedule: Schedule, y: Tensor, noise: Noise, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Two terms of log p(y) in nats, `(B,)` float64: the log density of the noise and the log volume of the map.

        Args:
            denoise: A denoiser with its conditioning bound.
            schedule: Path of the ODE.
            y: `(B, *)`, at the least noisy level divided by its alpha.
            noise: Source of the trace's directions.
            dtype: Of the denoiser's input.

        Raises:
            ValueError: If the solver takes too many steps.
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

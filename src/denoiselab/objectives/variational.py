"""The variational bound on the likelihood: two discrete forms, the continuous one, and L_hybrid; all in bits/dim.

The two discrete forms share the divergences of steps t = 2..T. They differ at the ends. Ho et al. keep the prior's
divergence L_T and a decoder L_0. Sohl-Dickstein et al. fix the last step to the forward one and replace both ends
by entropies, which holds where the data have mean 0 and variance 1 in each dimension; there the forms agree if the
decoder is that step, N(sqrt(1 - beta_1) x_1, beta_1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, Output, Prediction
from denoiselab.noise import Noise
from denoiselab.objectives import weights
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.denoising import DenoisingObjective
from denoiselab.objectives.level_distributions import (
    Uniforms,
    UniformSteps,
    UniformTime,
)
from denoiselab.parameterizations import home, posterior_mean
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like
from denoiselab.variances import StepVariance, log_bounds

_LOG2PI = math.log(2 * math.pi)


class Bound(NamedTuple):
    """A bound on the negative log-likelihood, in bits/dim, float64.

    Args:
        total: `(B,)`.
        prior: `(B,)`, L_T of Ho et al., or the entropies of Sohl-Dickstein et al.
        terms: `(T, B)`, the steps from the last one (t = 1) to the first (t = T).
    """

    total: Tensor
    prior: Tensor
    terms: Tensor


class _Chain(Objective):
    """A bound over a chain of T steps, estimated at one step a sample, or summed over all.

    Args:
        steps: Draws the steps to train at.
    """

    # The first step whose divergence is in the sum; the others stand in `ends`.
    first: int

    def __init__(self, steps: UniformSteps) -> None:
        super().__init__()
        self.steps = steps

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser without a variance, and a schedule without steps.

        Raises:
            ValueError: One of them.
        """
        if denoiser.variance is None:
            raise ValueError(
                f"variance=none: objective {type(self).__name__} needs the variance of a reverse step; choose "
                "variance=fixed_small, fixed_large, learned or learned_range."
            )
        denoiser.schedule.chain(self.steps.steps)
        self.steps.check(denoiser.schedule)

    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        """What the bound has beside its steps, in nats per dimension, `(B,)` float64."""
        raise NotImplementedError

    def term(self, prediction: Prediction, x: Tensor, x0: Tensor, here: Level) -> Tensor:
        """The step from `here` towards the data, in nats per dimension, `(B,)` float64."""
        raise NotImplementedError

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, **cond: Tensor) -> Tensor:
        """An unbiased estimate of the bound of each sample, `(B,)` float32, in bits/dim."""
        schedule = denoiser.schedule
        draw = self.steps(schedule, noise)
        eps = noise.like(x0)
        x = corrupt(x0, eps, draw.level)
        output = denoiser.output(x, draw.level, **cond)
        first, last = _ends(schedule)
        return (self.estimate(output, x0, draw.weight) + self.ends(x0, first, last) / math.log(2)).float()

    def estimate(self, output: Output, x0: Tensor, weight: Tensor | None) -> Tensor:
        """An unbiased estimate of the sum over steps, `(B,)` float64, in bits/dim."""
        length = home(output.level).chain(self.steps.steps)
        term = self.term(output.prediction(), output.x, x0, output.level) / math.log(2)
        self.steps.observe(output.level, term)
        return length * (term if weight is None else weight * term)

    @torch.no_grad()
    def evaluate(
        self, denoiser: Denoiser, x0: Tensor, noise: Noise, *, clip: float | None = None, **cond: Tensor
    ) -> Bound:
        """The whole bound of each sample, T network calls.

        Args:
            denoiser: What is evaluated.
            x0: Clean batch `(B, *)`.
            noise: Source of the eps of each step.
            clip: Clamp the predicted x0 to [-clip, clip], as Ho et al. do when they report bits/dim; None does not.
            cond: Conditioning tensors of the batch.
        """
        nodes = denoiser.schedule.nodes(self.steps.steps).unbind()
        terms = []
        for here in nodes:
            x = corrupt(x0, noise.like(x0), here)
            prediction = denoiser(x, here, **cond)
            if clip is not None:
                prediction = prediction._replace(x0=prediction.x0.clamp(-clip, clip))
            terms.append(self.term(prediction, x, x0, here) / math.log(2))
        prior = self.ends(x0, nodes[0], nodes[-1]) / math.log(2)
        return Bound(prior + torch.stack(terms).sum(0), prior, torch.stack(terms))

    def divergence(self, variance: StepVariance, x0: Tensor, prediction: Prediction, here: Level) -> Tensor:
        """KL(q(x_s | x_t, x0) | p(x_s | x_t)) in nats, elementwise float64; where s is clean, meaningless but finite.

        Both are diagonal Gaussians of different variance (Ho et al., arXiv 2006.11239, eq. 5-8).
        """
        there, before = self._neighbours(here)
        own = like(log_bounds(here, there, before)[0], x0.double())
        model = variance(here, there, before).double()
        gain = like(posterior_mean(here, there)[1], x0.double())
        error = gain * (prediction.x0.double() - x0.double())
        return (model - own + (own - model).exp() - 1 + error.square() * (-model).exp()) / 2

    def _neighbours(self, here: Level) -> tuple[Level, Level]:
        path = home(here)
        return path.previous(here, self.steps.steps), path.following(here, self.steps.steps)


class VariationalBound(_Chain):
    """L_T + sum of L_{t-1} + L_0, Ho et al.'s regrouping of the bound.

    Trained with `LossHistory` in place of `UniformSteps` it is L_vlb of Nichol and Dhariwal (arXiv 2102.09672).

    Source: Ho et al., DDPM, arXiv 2006.11239, eq. 5 and 13.

    Args:
        decoder: log p(x0 | x_1) around the predicted x0.
        steps: Draws the steps to train at.
    """

    def __init__(self, decoder: Decoder, steps: UniformSteps) -> None:
        super().__init__(steps)
        self.decoder = decoder

    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        """L_T = KL(q(x_T | x0) | p(x_T)) in nats per dimension, `(B,)` float64."""
        return prior_divergence(x0, last)

    def term(self, prediction: Prediction, x: Tensor, x0: Tensor, here: Level) -> Tensor:
        """L_{t-1}, or L_0 where the step lands on the data, in nats per dimension, `(B,)` float64."""
        assert prediction.variance is not None
        there, before = self._neighbours(here)
        step = self.divergence(prediction.variance, x0, prediction, here)
        decoded = -self.decoder(x0, prediction.x0, prediction.variance(here, there, before))
        return torch.where(_is_clean(there, x0), decoded, step).flatten(1).mean(1)


class SohlDickstein(_Chain):
    """-K: divergences of steps 2..T, then entropies in place of prior and decoder; the density of real data.

    -K = sum_{t=2}^{T} KL_t - H_q(X_T | X_0) + H_q(X_1 | X_0) + H_p(X_T), for data of mean 0 and variance 1.

    Source: Sohl-Dickstein et al., Deep Unsupervised Learning using Nonequilibrium Thermodynamics, arXiv 1503.03585,
    eq. 14 and appendix B.

    Args:
        steps: Draws the steps to train at.
    """

    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        """H_q(X_1 | X_0) - H_q(X_T | X_0) + H_p(X_T) in nats per dimension, `(B,)` float64."""
        prior = (_LOG2PI + 1 + (last.alpha.square() + last.sigma.square()).log()) / 2
        entropies = first.sigma.log() - last.sigma.log() + prior
        return entropies.to(x0.device).expand(len(x0))

    def term(self, prediction: Prediction, x: Tensor, x0: Tensor, here: Level) -> Tensor:
        """KL_t in nats per dimension, `(B,)` float64; 0 for the last step, which is not the model's."""
        assert prediction.variance is not None
        there, _ = self._neighbours(here)
        step = self.divergence(prediction.variance, x0, prediction, here)
        return torch.where(_is_clean(there, x0), 0.0, step).flatten(1).mean(1)

    @staticmethod
    def null(x0: Tensor) -> Tensor:
        """-log N(x0; 0, I) in bits/dim, `(B,)` float64: the isotropic Gaussian that the source compares K with."""
        return (_LOG2PI + x0.double().square().flatten(1).mean(1)) / (2 * math.log(2))


class Hybrid(Objective):
    """L_simple + weight L_vlb, the bound's gradient reaching the variance alone.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 16.

    Args:
        simple: The regression; its level distribution is not used.
        bound: L_vlb; its steps are drawn for both.
        weight: lambda.

    Raises:
        ValueError: `weight` is not positive.
    """

    def __init__(self, simple: DenoisingObjective, bound: VariationalBound, weight: float = 0.001) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight={weight}: it must be positive.")
        self.simple, self.bound, self.weight = simple, bound, weight

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a fixed variance, which leaves the bound nothing to train.

        Raises:
            ValueError: The variance is fixed, or the schedule has no steps.
        """
        if denoiser.variance is None or denoiser.variance.outputs != 2:
            raise ValueError(
                "variance: objective Hybrid trains a learned variance; choose variance=learned_range or learned."
            )
        self.bound.check(denoiser)

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, **cond: Tensor) -> Tensor:
        """The loss of each sample, `(B,)` float32."""
        draw = self.bound.steps(denoiser.schedule, noise)
        eps = noise.like(x0)
        output = denoiser.output(corrupt(x0, eps, draw.level), draw.level, **cond)
        frozen = output._replace(out=output.out.detach())
        bound = self.bound.estimate(frozen, x0, draw.weight)
        return self.simple.loss(output, x0, eps, draw) + self.weight * bound.float()


class ContinuousBound(Objective):
    """VDM's loss: prior, reconstruction and the continuous-time diffusion loss, a bound in bits/dim.

    It depends on the schedule through its end points alone, which a learned schedule trains by it.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 11-19.

    Args:
        decoder: log p(x0 | z_0) around z_0 / alpha_0, with variance (sigma_0 / alpha_0)^2.
        uniforms: As in `UniformTime`; VDM's are `LowDiscrepancy`.
    """

    def __init__(self, decoder: Decoder, uniforms: Uniforms | None = None) -> None:
        super().__init__()
        self.decoder = decoder
        self.levels = UniformTime(uniforms)

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, **cond: Tensor) -> Tensor:
        """An unbiased estimate of the bound of each sample, `(B,)` float32, in bits/dim."""
        schedule = denoiser.schedule
        level = self.levels(schedule, noise).level
        eps, last_eps = noise.like(x0), noise.like(x0)
        prediction = denoiser(corrupt(x0, eps, level), level, **cond)
        error = (prediction.x0.double() - x0.double()).square().flatten(1).mean(1)
        diffusion = (schedule.t_max - schedule.t_min) * weights.likelihood(level) * error
        first, last = _ends(schedule)
        mean = corrupt(x0.double(), last_eps.double(), first) / first.alpha
        reconstruction = -self.decoder(x0, mean, 2 * first.rho.log()).flatten(1).mean(1)
        nats: Tensor = prior_divergence(x0, last) + reconstruction + diffusion
        return (nats / math.log(2)).float()


def _is_clean(level: Level, x: Tensor) -> Tensor:
    """Whether a level is clean data, broadcastable to `x` and on its device."""
    return like(level.sigma == 0, x).bool().to(x.device)


def _ends(schedule: Schedule) -> list[Level]:
    """The cleanest and the noisiest level, scalars on the CPU."""
    return schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).unbind()


def prior_divergence(x0: Tensor, last: Level) -> Tensor:
    """KL(q(x_T | x0) | p(x_T)) in nats per dimension, `(B,)` float64, for a scalar level.

    p(x_T) = N(0, alpha_T^2 + sigma_T^2): the standard normal where the schedule preserves variance.
    """
    total = last.alpha.square() + last.sigma.square()
    size: Tensor = (last.alpha * x0.double()).square().flatten(1).mean(1)
    divergence: Tensor = ((size + last.sigma.square()) / total - 1 + (total / last.sigma.square()).log()) / 2
    return divergence

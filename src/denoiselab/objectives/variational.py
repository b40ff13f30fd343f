"""The variational bound on the likelihood of a chain of steps, in two forms, and L_hybrid; in bits/dim.

The two forms share the divergences of steps t = 2..T. They differ at the ends. Ho et al. keep the prior's divergence
L_T and a decoder L_0. Sohl-Dickstein et al. fix the last step to the forward one and replace both ends by entropies,
which holds for data of mean 0 and variance 1 in each dimension; there the forms agree if the decoder is that step,
N(sqrt(1 - beta_1) x_1, beta_1).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoiser, Output, Prediction
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.bounds import ends as schedule_ends
from denoiselab.objectives.bounds import mean_square_error, prior_divergence
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.denoising import DenoisingObjective
from denoiselab.objectives.level_distributions import UniformSteps
from denoiselab.parameterizations import home, posterior_mean
from denoiselab.schedules import Level
from denoiselab.schedules.base import like
from denoiselab.variances import log_bounds

_LOG2PI = math.log(2 * math.pi)


class Bound(NamedTuple):
    """A bound on the negative log-likelihood, in bits/dim, float64.

    Attributes:
        total: `(B,)`.
        prior: `(B,)`, L_T of Ho et al., or the entropies of Sohl-Dickstein et al.
        terms: `(T, B)`, the steps from the last one (t = 1) to the first (t = T).
        errors: `(T, B)`, the mean square error of the predicted x0 at t = 1..T, in the data's own units.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    errors: Tensor


class _Chain(Objective):
    """A bound over a chain of T steps, estimated at one step a sample, or summed over all.

    Args:
        steps: Draws the steps in training.
    """

    def __init__(self, steps: UniformSteps) -> None:
        super().__init__()
        self.steps = steps

    def check(self, denoiser: Denoiser) -> None:
        if denoiser.variance is None:
            raise ValueError(
                f"variance=none: objective {type(self).__name__} needs the variance of a reverse step; choose "
                "variance=fixed_small, fixed_large, learned or learned_range."
            )
        self.steps.check(denoiser.schedule)

    @abstractmethod
    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        """The terms of the bound beside its steps, in nats per dimension, `(B,)` float64."""

    @abstractmethod
    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """The term of the step that ends at the data, in nats, elementwise float64, shaped like x0 `(B, *)`.

        Args:
            x0: Clean batch `(B, *)`.
            mean: The predicted x0, `(B, *)`.
            log_variance: The model's, broadcastable to x0.
        """

    def term(self, prediction: Prediction, x0: Tensor, here: Level) -> Tensor:
        """The term of the step from `here` (scalar or `(B,)`), in nats per dimension, `(B,)` float64."""
        assert prediction.variance is not None
        path = home(here)
        there, before = path.previous(here, self.steps.steps), path.following(here, self.steps.steps)
        log_variance, own = prediction.variance(here, there, before), log_bounds(here, there, before)[0]
        nats = _divergence(own, log_variance, posterior_mean(here, there)[1], prediction.x0, x0)
        clean = there.sigma == 0
        if clean.ndim or clean:  # of a scalar level, the last step is computed only where it is
            last = self.last_step(x0, prediction.x0, log_variance)
            nats = torch.where(like(clean, x0).bool().to(x0.device), last, nats)
        return nats.flatten(1).mean(1)

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """An unbiased estimate of the bound of each sample, `(B,)` float32, in bits/dim."""
        schedule = denoiser.schedule
        draw = self.steps(schedule, noise)
        eps = noise.like(x0)
        x = corrupt(x0, eps, draw.level)
        output = denoiser.output(x, draw.level, cond)
        first, last = schedule_ends(schedule)
        return (self.estimate(output, x0, draw.weight) + self.ends(x0, first, last) / math.log(2)).float()

    def estimate(self, output: Output, x0: Tensor, weight: Tensor | None) -> Tensor:
        """An unbiased estimate of the sum over steps, `(B,)` float64, in bits/dim."""
        length = home(output.level).chain(self.steps.steps)
        term = self.term(output.prediction(), x0, output.level) / math.log(2)
        self.steps.observe(output.level, term)
        return length * (term if weight is None else weight * term)

    @torch.no_grad()
    def evaluate(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        noise: Noise,
        cond: Conditioning = Conditioning(),
        *,
        clip: float | None = None,
    ) -> Bound:
        """The whole bound of each sample, by T network calls.

        Args:
            denoiser: The model to evaluate.
            x0: Clean batch `(B, *)`.
            noise: Source of the eps of each step.
            cond: The batch's conditioning.
            clip: Clamp the predicted x0 to [-clip, clip], as Ho et al. do for bits/dim; None for no clamping.
        """
        nodes = denoiser.schedule.nodes(self.steps.steps).unbind()
        terms, errors = [], []
        for here in nodes:
            prediction = denoiser(corrupt(x0, noise.like(x0), here), here, cond)
            if clip is not None:
                prediction = prediction._replace(x0=prediction.x0.clamp(-clip, clip))
            terms.append(self.term(prediction, x0, here) / math.log(2))
            errors.append(mean_square_error(prediction, x0))
        prior = self.ends(x0, nodes[0], nodes[-1]) / math.log(2)
        return Bound(prior + torch.stack(terms).sum(0), prior, torch.stack(terms), torch.stack(errors))


class VariationalBound(_Chain):
    """L_T + sum of L_{t-1} + L_0, Ho et al.'s regrouping of the bound.

    Trained with `LossHistory` in place of `UniformSteps` it is L_vlb of Nichol and Dhariwal (arXiv 2102.09672).

    Source: Ho et al., DDPM, arXiv 2006.11239, eq. 5 and 13.

    Args:
        decoder: log p(x0 | x_1) around the predicted x0.
    """

    def __init__(self, decoder: Decoder, steps: UniformSteps) -> None:
        super().__init__(steps)
        self.decoder = decoder

    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        return prior_divergence(x0, last)

    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        return -self.decoder(x0, mean, log_variance)


class SohlDickstein(_Chain):
    """-K: divergences of steps 2..T, then entropies in place of prior and decoder; the density of real data.

    -K = sum_{t=2}^{T} KL_t - H_q(X_T | X_0) + H_q(X_1 | X_0) + H_p(X_T), for data of mean 0 and variance 1.

    Source: Sohl-Dickstein et al., Deep Unsupervised Learning using Nonequilibrium Thermodynamics, arXiv 1503.03585,
    eq. 14 and appendix B.
    """

    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        prior = (_LOG2PI + 1 + (last.alpha.square() + last.sigma.square()).log()) / 2
        entropies = first.sigma.log() - last.sigma.log() + prior
        return entropies.to(x0.device).expand(len(x0))

    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        return torch.zeros_like(x0, dtype=torch.float64)

    @staticmethod
    def null(x0: Tensor) -> Tensor:
        """-log N(x0; 0, I) in bits/dim, `(B,)` float64: the isotropic Gaussian that the source compares K with."""
        return (_LOG2PI + x0.double().square().flatten(1).mean(1)) / (2 * math.log(2))


class Hybrid(Objective):
    """L_simple + weight L_vlb, the bound's gradient reaching the variance alone.

    Source: Nichol and Dhariwal, Improved DDPM, arXiv 2102.09672, eq. 16.

    Args:
        simple: The regression; its level distribution is not used.
        bound: L_vlb, which draws the steps of both.
        weight: lambda.
    """

    def __init__(self, simple: DenoisingObjective, bound: VariationalBound, weight: float = 0.001) -> None:
        super().__init__()
        if weight <= 0:
            raise ValueError(f"weight={weight}: it must be positive.")
        self.simple, self.bound, self.weight = simple, bound, weight

    def check(self, denoiser: Denoiser) -> None:
        if denoiser.variance is None or denoiser.variance.outputs != 2:
            raise ValueError(
                "variance: objective Hybrid trains a learned variance; choose variance=learned_range or learned."
            )
        self.bound.check(denoiser)

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        draw = self.bound.steps(denoiser.schedule, noise)
        eps = noise.like(x0)
        output = denoiser.output(corrupt(x0, eps, draw.level), draw.level, cond)
        frozen = output._replace(out=output.out.detach())
        bound = self.bound.estimate(frozen, x0, draw.weight)
        return self.simple.loss(output, x0, eps, draw) + self.weight * bound.float()


def _divergence(own: Tensor, log_variance: Tensor, gain: Tensor, predicted: Tensor, x0: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x0) | p(x_s | x_t)) in nats, elementwise float64; where s is clean, meaningless but finite.

    Both are diagonal Gaussians of different variance (Ho et al., arXiv 2006.11239, eq. 5-8).

    Args:
        own: Log-variance of q, shaped like the level.
        log_variance: That of p, broadcastable to x0.
        gain: Of x0 in the mean of q, shaped like the level.
        predicted: The x0 in the mean of p, `(B, *)`.
        x0: That in the mean of q, `(B, *)`.
    """
    own, gain, model = like(own, x0.double()), like(gain, x0.double()), log_variance.double()
    error = gain * (predicted.double() - x0.double())
    return (model - own + (own - model).exp() - 1 + error.square() * (-model).exp()) / 2

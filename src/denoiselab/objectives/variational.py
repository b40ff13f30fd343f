"""The variational bound on the likelihood: two discrete forms, the continuous one, and L_hybrid; all in bits/dim.

The two discrete forms share the divergences of steps t = 2..T. They differ at the ends. Ho et al. keep the prior's
divergence L_T and a decoder L_0. Sohl-Dickstein et al. fix the last step to the forward one and replace both ends
by entropies, which holds where the data have mean 0 and variance 1 in each dimension; there the forms agree if the
decoder is that step, N(sqrt(1 - beta_1) x_1, beta_1).

All bounds share their divergences and their ends, so they stay in one file.
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
from denoiselab.objectives import weights
from denoiselab.objectives.base import Objective, corrupt
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.denoising import DenoisingObjective
from denoiselab.objectives.level_distributions import UniformSteps, UniformTime
from denoiselab.objectives.uniforms import Uniforms
from denoiselab.parameterizations import home, posterior_mean
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like
from denoiselab.variances import log_bounds

_LOG2PI = math.log(2 * math.pi)


class Bound(NamedTuple):
    """A bound on the negative log-likelihood, in bits/dim, float64.

    Args:
        total: `(B,)`.
        prior: `(B,)`, L_T of Ho et al., or the entropies of Sohl-Dickstein et al.
        terms: `(T, B)`, the steps from the last one (t = 1) to the first (t = T).
        errors: `(T, B)`, the mean square error of the predicted x0 at t = 1..T, in the data's own units.
    """

    total: Tensor
    prior: Tensor
    terms: Tensor
    errors: Tensor


class ContinuousTerms(NamedTuple):
    """The continuous-time bound's parts in bits/dim, `(B,)` float64 each; it is their sum."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor


class _Chain(Objective):
    """A bound over a chain of T steps, estimated at one step a sample, or summed over all.

    Args:
        steps: Draws the steps to train at.
    """

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
        self.steps.check(denoiser.schedule)

    @abstractmethod
    def ends(self, x0: Tensor, first: Level, last: Level) -> Tensor:
        """What the bound has beside its steps, in nats per dimension, `(B,)` float64."""

    @abstractmethod
    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """The step that lands on the data, in nats, elementwise float64, shaped like x0 `(B, *)`.

        Args:
            x0: Clean batch `(B, *)`.
            mean: The predicted x0, `(B, *)`.
            log_variance: The model's, broadcastable to x0.
        """

    def term(self, prediction: Prediction, x0: Tensor, here: Level) -> Tensor:
        """The step from `here` (scalar or `(B,)`) towards the data, in nats per dimension, `(B,)` float64."""
        assert prediction.variance is not None
        path = home(here)
        there, before = path.previous(here, self.steps.steps), path.following(here, self.steps.steps)
        log_variance, own = prediction.variance(here, there, before), log_bounds(here, there, before)[0]
        nats = _divergence(own, log_variance, posterior_mean(here, there)[1], prediction.x0, x0)
        clean = there.sigma == 0
        if clean.ndim or clean:  # a scalar tells by itself whether the last step is needed
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
        first, last = _ends(schedule)
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
        """The whole bound of each sample, T network calls.

        Args:
            denoiser: What is evaluated.
            x0: Clean batch `(B, *)`.
            noise: Source of the eps of each step.
            cond: The batch's conditioning.
            clip: Clamp the predicted x0 to [-clip, clip], as Ho et al. do when they report bits/dim; None does not.
        """
        nodes = denoiser.schedule.nodes(self.steps.steps).unbind()
        terms, errors = [], []
        for here in nodes:
            prediction = denoiser(corrupt(x0, noise.like(x0), here), here, cond)
            if clip is not None:
                prediction = prediction._replace(x0=prediction.x0.clamp(-clip, clip))
            terms.append(self.term(prediction, x0, here) / math.log(2))
            errors.append(_error(prediction, x0))
        prior = self.ends(x0, nodes[0], nodes[-1]) / math.log(2)
        return Bound(prior + torch.stack(terms).sum(0), prior, torch.stack(terms), torch.stack(errors))


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

    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """L_0 in nats, elementwise float64."""
        return -self.decoder(x0, mean, log_variance)


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

    def last_step(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """0: the last step is not the model's."""
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

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """The loss of each sample, `(B,)` float32."""
        draw = self.bound.steps(denoiser.schedule, noise)
        eps = noise.like(x0)
        output = denoiser.output(corrupt(x0, eps, draw.level), draw.level, cond)
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

    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """An unbiased estimate of the bound of each sample, `(B,)` float32, in bits/dim."""
        schedule = denoiser.schedule
        level = self.levels(schedule, noise).level
        eps, last_eps = noise.like(x0), noise.like(x0)
        prediction = denoiser(corrupt(x0, eps, level), level, cond)
        diffusion = (schedule.t_max - schedule.t_min) * weights.likelihood(level) * _error(prediction, x0)
        prior, reconstruction = self._ends(schedule, x0, last_eps)
        return ((prior + reconstruction + diffusion) / math.log(2)).float()

    def evaluate(
        self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning(), draws: int = 1
    ) -> ContinuousTerms:
        """An unbiased estimate of the bound of each sample, `draws` network calls; differentiable in x0.

        The bound does not depend on the path between its ends, so levels are drawn uniformly not in t but in
        w = asinh(alpha / sigma), where the integrand snr |x0 - x0_hat|^2 d lam varies least; those of a sample are
        equally spaced with one random offset.

        Args:
            denoiser: What is evaluated.
            x0: Clean batch `(B, *)`.
            noise: Source of levels and of the eps at each.
            cond: The batch's conditioning.
            draws: Levels a sample.
        """
        schedule = denoiser.schedule
        first, last = ((level.alpha / level.sigma).asinh() for level in _ends(schedule))
        offset, diffusion = noise.uniform(), torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
        for draw in range(draws):
            place = last + (offset + draw) / draws * (first - last)
            level = schedule.at(place.sinh().log())
            prediction = denoiser(corrupt(x0, noise.like(x0), level), level, cond)
            # snr d lam, with snr = sinh(w)^2
            diffusion = diffusion + (first - last) / draws * place.sinh() * place.cosh() * _error(prediction, x0)
        prior, reconstruction = self._ends(schedule, x0, noise.like(x0))
        return ContinuousTerms(*(nats / math.log(2) for nats in (prior, reconstruction, diffusion)))

    def _ends(self, schedule: Schedule, x0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Prior and reconstruction loss in nats per dimension, `(B,)` float64; `eps` is that of z_0."""
        first, last = _ends(schedule)
        mean = corrupt(x0.double(), eps.double(), first) / first.alpha
        return prior_divergence(x0, last), -self.decoder(x0, mean, 2 * first.rho.log()).flatten(1).mean(1)


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


def _error(prediction: Prediction, x0: Tensor) -> Tensor:
    """The mean square error of the predicted x0, `(B,)` float64."""
    error: Tensor = (prediction.x0.double() - x0.double()).square().flatten(1).mean(1)
    return error


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

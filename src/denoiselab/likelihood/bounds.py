"""Likelihood by variational bounds: of a chain of steps, and in continuous time.

The bounds decode x0 from y = x / alpha at the model's least noisy level: for real data that adds the noise of that
level once more.
"""

from __future__ import annotations

import copy

from torch import Tensor

from denoiselab.denoiser import Denoiser
from denoiselab.likelihood.base import Estimate, Likelihood
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives import ContinuousBound, VariationalBound
from denoiselab.objectives.decoders import Decoder
from denoiselab.objectives.level_distributions import UniformSteps
from denoiselab.samplers.checks import check_number
from denoiselab.variances import Variance


class ChainBound(Likelihood):
    """`VariationalBound` over all steps of the chain: T network calls a sample.

    Args:
        decoder: log p(x0 | x_1) around the predicted x0.
        variance: Of the reverse steps, for a model without its own.
        steps: Length of the chain; None for a discrete schedule's own.
        clip: Clamp the predicted x0 to [-clip, clip], as Ho et al. do; None does not.

    Raises:
        ValueError: If steps < 2 or clip <= 0.
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
        """Check that a continuous schedule is given a number of steps, as `Schedule.chain` does."""
        self.bound.check(self._chain(denoiser))

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """The parts are `prior`, `diffusion` (t > 1) and `reconstruction`; a step has `term` and `squared_error`."""
        _, prior, terms, errors = self.bound.evaluate(self._chain(denoiser), x0, noise, cond, clip=self.clip)
        parts = {"prior": prior, "diffusion": terms[1:].sum(0), "reconstruction": terms[0]}
        lam = denoiser.schedule.nodes(self.bound.steps.steps).lam.to(terms)[:, None].expand_as(terms)
        return Estimate(parts, {"half_log_snr": lam, "term": terms, "squared_error": errors})

    def _chain(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser, as a shallow copy with `self.variance` if it has none of its own."""
        if denoiser.variance is not None:
            return denoiser
        denoiser = copy.copy(denoiser)
        denoiser.variance = self.variance
        return denoiser


class ContinuousTimeBound(Likelihood):
    """`ContinuousBound`, VDM's bound, on any schedule.

    Args:
        decoder: log p(x0 | z_0).
        draws: Levels a sample; each is one network call.

    Raises:
        ValueError: If draws < 1.
    """

    part = "decoder"

    def __init__(self, decoder: Decoder, draws: int = 32) -> None:
        check_number("draws", draws, 1)
        self.bound, self.draws, self.bins = ContinuousBound(decoder), draws, decoder.bins

    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """The parts are `prior`, `reconstruction` and `diffusion`."""
        return Estimate(self.bound.evaluate(denoiser, x0, noise, cond, draws=self.draws)._asdict())

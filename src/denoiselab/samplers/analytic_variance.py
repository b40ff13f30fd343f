"""Analytic-DPM: ancestral and DDIM steps with the optimal variance for the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from denoiselab.samplers.base import OneStep, Planned, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.ddim import eta_variance, noisy_transfer
from denoiselab.samplers.measurement import Measurement
from denoiselab.samplers.spacing import Spacing, UniformTime
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class Analytic(OneStep):
    """DDIM's step with the optimal isotropic variance.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(V) z, v = eta^2 times the posterior variance, and
    V = v + (alpha_s - alpha_t / sigma_t sqrt(sigma_s^2 - v))^2 E |x0 - x0_hat|^2 / d. eta = 1 is Analytic-DPM for
    DDPM, eta = 0 for DDIM. The expected error is the model's own, which must be measured before the first step
    (`measurement`). Analytic-DPM uses rho^2 (1 - E |eps_hat|^2 / d) instead: the same for the best x0_hat, not optimal
    for others, and at high noise a small difference of large numbers.

    Source: Bao et al., Analytic-DPM, arXiv 2201.06503, theorem 1, and section 4 for the clipping; Estimating the
    Optimal Covariance with Imperfect Mean, arXiv 2206.07309, section 3.

    Args:
        eta: Amount of noise, from 0 to 1.
        half_range: Half of the range of the data, whose square bounds the variance (theorem 2): 1 for [-1, 1]; None
            for unbounded data.
        clip_pixels: Bound on the mean absolute noise of the last noisy step, in units of 1/255 of the range [-1, 1];
            None for no bound.
        measured_levels: Number of levels at which the model is measured.
        measured_samples: Number of data samples at each level.

    Raises:
        ValueError: If an option is out of range; or (steps) if the model was not measured.
    """

    spacing: Spacing = field(default_factory=UniformTime)
    steps: int = 50
    eta: float = 1.0
    half_range: float | None = 1.0
    clip_pixels: float | None = 2.0
    measured_levels: int = 64
    measured_samples: int = 256
    measurement: Measurement = field(init=False, repr=False)

    convergence_order = 1
    stochastic = True
    renoises = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0, 1)
        for name, value in (("half_range", self.half_range), ("clip_pixels", self.clip_pixels)):
            if value is not None:
                check_number(name, value)
        for name, value in (("measured_levels", self.measured_levels), ("measured_samples", self.measured_samples)):
            check_number(name, value, 2)
        self.measurement = Measurement(self.measured_levels, self.measured_samples)

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        last = len(levels) - 1 if to_come else len(levels)
        return [
            Planned(self._drawn(here, there, clipped=number == last), there)
            for number, (here, there) in enumerate(pairwise(levels), start=1)
        ]

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        return self._drawn(here, there, clipped=False)

    def _drawn(self, here: Level, there: Level, *, clipped: bool) -> Step:
        moments = self.measurement.moments
        if moments is None:
            raise ValueError("Analytic: measure the model first (Sampler.measurement).")
        own = eta_variance(here, there, self.eta)
        kept = math.sqrt(max(0.0, float(there.sigma) ** 2 - own))
        spread = moments.spread(here)
        if self.half_range is not None:
            spread = min(spread, self.half_range**2)
        variance = own + (float(there.alpha) - float(here.alpha / here.sigma) * kept) ** 2 * spread
        std = math.sqrt(variance)
        if clipped and self.clip_pixels is not None:
            std = min(std, self.clip_pixels * 2 / 255 * math.sqrt(math.pi / 2))  # E |z| = sqrt(2 / pi)
        return noisy_transfer(here, there, own, std)

"""Analytic-DPM: ancestral and DDIM steps with the variance that is optimal for the model at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.base import OneStep, Planned, Step, check_number
from denoiselab.samplers.ddim import eta_variance, noisy_transfer
from denoiselab.samplers.spacing import Spacing, UniformLogSNR
from denoiselab.samplers.thresholding import Threshold
from denoiselab.schedules import Level, Schedule


class Moments(NamedTuple):
    """How far a model's x0 is from the data, by half log-SNR.

    Args:
        lam: `(K,)` float64, rising.
        error: `(K,)` float64, E |x0 - x0_hat|^2 / d.
    """

    lam: Tensor
    error: Tensor

    def spread(self, level: Level) -> float:
        """The error at a level: a line in lam and its logarithm between those measured."""
        lam = level.lam.to(self.lam).clamp(self.lam[0], self.lam[-1])
        right = int(torch.searchsorted(self.lam, lam).clamp(1, len(self.lam) - 1))
        share = (lam - self.lam[right - 1]) / (self.lam[right] - self.lam[right - 1])
        low, high = self.error[right - 1 : right + 1].clamp_min(1e-300).log()
        return float(torch.lerp(low, high, share).exp())


class Analytic(OneStep):
    """DDIM's step with the variance that is optimal for an isotropic one.

    x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(V) z, v = eta^2 times the posterior variance, and
    V = v + (alpha_s - alpha_t / sigma_t sqrt(sigma_s^2 - v))^2 E |x0 - x0_hat|^2 / d. eta = 1 is Analytic-DPM for
    DDPM, eta = 0 for DDIM. The error is the model's own: `measure` it once, before the first step. Analytic-DPM takes
    rho^2 (1 - E |eps_hat|^2 / d) in its place, which is equal for the best x0_hat, and for others is not optimal; at
    high noise it is a small difference of large numbers.

    Source: Bao et al., Analytic-DPM, arXiv 2201.06503, theorem 1, and section 4 for the clipping; Estimating the
    Optimal Covariance with Imperfect Mean, arXiv 2206.07309, section 3.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        eta: From 0 to 1.
        half_range: Of bounded data, whose variance is at most its square (theorem 2); None where it is not bounded.
        clip_pixels: In the last noisy step the noise is at most so many of 255 steps on average; None for no limit.
        measured_levels: Levels at which the model is measured.
        measured_samples: Samples of data at each.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range; or a step is asked for before the model was measured.
    """

    order = 1
    stochastic = True
    renoises = True

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        eta: float = 1.0,
        half_range: float | None = 1.0,
        clip_pixels: float | None = 2.0,
        measured_levels: int = 64,
        measured_samples: int = 256,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("eta", eta, 0, 1)
        for name, value in (("half_range", half_range), ("clip_pixels", clip_pixels)):
            if value is not None:
                check_number(name, value)
        for name, value in (("measured_levels", measured_levels), ("measured_samples", measured_samples)):
            check_number(name, value, 2)
        self.eta, self.half_range, self.clip_pixels = eta, half_range, clip_pixels
        self.measured_levels, self.measured_samples = measured_levels, measured_samples
        self.moments: Moments | None = None

    @torch.no_grad()
    def measure(
        self,
        denoise: Callable[[Tensor, Level, Tensor], Prediction],
        schedule: Schedule,
        x0: Tensor,
        noise: Noise,
        check: Callable[[object], None] = lambda batch: None,
    ) -> Moments:
        """The moments of a model and the threshold, by one pass over levels with fresh noise at each.

        Args:
            denoise: Called as `denoise(x, level, rows)`, `rows` `(B,)` int64 telling which of `x0` x was made of.
            schedule: Along which it samples.
            x0: Data `(N, *)`; sample i of `noise` serves x0[i].
            noise: Of the batch.
            check: Called after each batch; what it raises stops it.
        """
        mend = self.threshold or (lambda predicted: predicted)
        levels = UniformLogSNR(first_lam=self.spacing.first_lam).levels(schedule, self.measured_levels).unbind()
        inside = [level for level in levels if not level.is_end]
        rows = torch.arange(len(x0), device=x0.device)
        means = []
        for level in inside:
            z = noise.like(x0)
            x = float(level.alpha) * x0 + float(level.sigma) * z
            total = sum(
                (mend(denoise(x[part], level, part).x0) - x0[part]).double().square().sum() for part in rows.split(64)
            )
            means.append(torch.as_tensor(total).cpu() / x0.numel())
            check(level)
        return Moments(torch.stack([level.lam for level in inside]).cpu(), torch.stack(means))

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """One draw a step, the last before clean data with less noise."""
        last = len(levels) - 1 if to_come else len(levels)
        return [
            Planned(self._drawn(here, there, clipped=number == last), there)
            for number, (here, there) in enumerate(pairwise(levels), start=1)
        ]

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """One draw."""
        return self._drawn(here, there, clipped=False)

    def _drawn(self, here: Level, there: Level, *, clipped: bool) -> Step:
        if self.moments is None:
            raise ValueError("Analytic: the model's moments are not known yet; measure them first.")
        own = eta_variance(here, there, self.eta)
        kept = math.sqrt(max(0.0, float(there.sigma) ** 2 - own))
        spread = self.moments.spread(here)
        if self.half_range is not None:
            spread = min(spread, self.half_range**2)
        variance = own + (float(there.alpha) - float(here.alpha / here.sigma) * kept) ** 2 * spread
        std = math.sqrt(variance)
        if clipped and self.clip_pixels is not None:
            std = min(std, self.clip_pixels * 2 / 255 * math.sqrt(math.pi / 2))  # E |z| = sqrt(2 / pi)
        return noisy_transfer(here, there, own, std)

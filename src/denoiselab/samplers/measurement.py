"""Measurements of a model that a sampler needs before it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.noise import Noise
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.samplers.thresholding import Threshold
from denoiselab.schedules import Level, Schedule


class Moments(NamedTuple):
    """Mean squared error of a model's predicted x0, by half log-SNR.

    Attributes:
        lam: `(K,)` float64, rising.
        error: `(K,)` float64, E |x0 - x0_hat|^2 / d.
    """

    lam: Tensor
    error: Tensor

    def spread(self, level: Level) -> float:
        """The error at a level, its logarithm interpolated linearly in lam."""
        lam = level.lam.to(self.lam).clamp(self.lam[0], self.lam[-1])
        right = int(torch.searchsorted(self.lam, lam).clamp(1, len(self.lam) - 1))
        share = (lam - self.lam[right - 1]) / (self.lam[right] - self.lam[right - 1])
        low, high = self.error[right - 1 : right + 1].clamp_min(1e-300).log()
        return float(torch.lerp(low, high, share).exp())


@dataclass(eq=False)
class Measurement:
    """Measures `Moments` on training data, without guidance.

    Args:
        levels: Number of levels at which the model is called.
        samples: Number of data samples at each level.
        moments: The result; None before the model was measured.
    """

    levels: int
    samples: int
    moments: Moments | None = None

    @torch.no_grad()
    def measure(
        self,
        denoise: Callable[[Tensor, Level, Tensor], Prediction],
        schedule: Schedule,
        x0: Tensor,
        noise: Noise,
        *,
        threshold: Threshold | None = None,
        first_lam: float | None = None,
        check: Callable[[object], None] = lambda batch: None,
    ) -> Moments:
        """The moments of a model, from one pass over the levels with fresh noise at each.

        Args:
            denoise: Called as `denoise(x, level, rows)`; `rows` `(B,)` int64 are the indices in `x0` of the batch.
            schedule: The sampling path.
            x0: Data `(N, *)`; sample i of `noise` is added to x0[i].
            noise: Of the batch.
            threshold: The sampler's, applied to every predicted x0.
            first_lam: Of the sampler's grid.
            check: Called after each level; an exception stops the measurement.
        """
        levels = UniformLogSNR(first_lam=first_lam).levels(schedule, self.levels).unbind()
        inside = [level for level in levels if not level.is_end]
        rows = torch.arange(len(x0), device=x0.device)
        means = []
        for level in inside:
            z = noise.like(x0)
            x = float(level.alpha) * x0 + float(level.sigma) * z
            total = torch.zeros((), dtype=torch.float64, device=x0.device)
            for part in rows.split(64):
                predicted = denoise(x[part], level, part).x0
                total += ((threshold(predicted) if threshold else predicted) - x0[part]).double().square().sum()
            means.append(total.cpu() / x0.numel())
            check(level)
        return Moments(torch.stack([level.lam for level in inside]).cpu(), torch.stack(means))

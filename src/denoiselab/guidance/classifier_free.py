"""Classifier-free guidance."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Denoiser, Prediction
from denoiselab.networks.conditioning import Conditioning
from denoiselab.schedules import Level
from denoiselab.variances import StepVariance


class ClassifierFree:
    """m = m_null + scale (m_cond - m_null), for x0 and eps alike, in one call of a doubled batch.

    Scale 1 is the conditional model and 0 the unconditional one; the scale is Ho and Salimans' 1 + w. One call counts
    as 1 NFE and 2 network evaluations. A learned variance is the conditional model's.

    Source: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, eq. 6.

    Args:
        denoiser: Trained with the condition dropped at times.
        cond: The batch's conditioning.
        null: The null condition, with the same fields.
        scale: The guidance scale.
        channels: The first so many channels are guided, the others are the conditional model's; None for all. DiT's
            `forward_with_cfg` guides 3 of 4 (https://github.com/facebookresearch/DiT, models.py).
    """

    evaluations_per_call = 2

    def __init__(
        self, denoiser: Denoiser, cond: Conditioning, null: Conditioning, scale: float, channels: int | None = None
    ) -> None:
        self._denoiser, self.scale, self.channels = denoiser, scale, channels
        pairs = zip(cond, null, strict=True)
        self._both = Conditioning(*(None if a is None or b is None else torch.cat((a, b)) for a, b in pairs))

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        if level.t.ndim:
            t, alpha, sigma = (torch.cat((part, part)) for part in (level.t, level.alpha, level.sigma))
            level = Level(t, alpha, sigma, level.path)
        x0, eps, variance, _ = self._denoiser(torch.cat((x, x)), level, self._both)
        variance = None if variance is None else _first_half(variance, len(x))
        return Prediction(self._guided(x0), self._guided(eps), variance)

    def _guided(self, both: Tensor) -> Tensor:
        cond, null = both.chunk(2)
        if self.channels is None:
            return torch.lerp(null, cond, self.scale)
        k = self.channels
        return torch.cat((torch.lerp(null[:, :k], cond[:, :k], self.scale), cond[:, k:]), dim=1)


def bind(
    denoiser: Denoiser, cond: Conditioning, null: Conditioning, scale: float = 1.0, channels: int | None = None
) -> Denoise:
    """A denoiser with its conditioning bound, guided by `scale` in its first `channels`, or in all (None).

    Scale 1, and scale 0 if all channels are guided, take one network evaluation a call.

    Raises:
        ValueError: If the scale is not 1 and there is no condition or no null condition.
    """
    if scale != 1 and not any(field is not None for field in cond):
        raise ValueError(f"guidance={scale}: the model takes no condition, so there is nothing to guide; use 1.")
    if scale != 1 and any(a is not None and b is None for a, b in zip(cond, null, strict=True)):
        raise ValueError(
            f"guidance={scale}: the model was trained without a null class or its like, so it has no guidance; use 1."
        )
    if scale == 1 or (scale == 0 and channels is None):
        return functools.partial(denoiser, cond=cond if scale == 1 else null)
    return ClassifierFree(denoiser, cond, null, scale, channels)


def _first_half(variance: StepVariance, size: int) -> StepVariance:
    """The variance of the first `size` samples, where it differs between samples."""

    def step(here: Level, there: Level, before: Level | None = None) -> Tensor:
        log_variance = variance(here, there, before)
        return log_variance[:size] if log_variance.ndim else log_variance

    return step

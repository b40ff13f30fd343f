"""Mending the predicted x0: for data in pixels, whose range is known."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class Threshold(ABC):
    """A correction of the predicted x0; eps follows it, so that alpha x0 + sigma eps = x.

    With `keep_eps` steps add the uncorrected eps to the corrected x0 (`Prediction.renoise`), as the released
    Analytic-DDIM (Bao et al., arXiv 2201.06503) and diffusers' `DDIMScheduler` do. Samplers that do not add eps to x0
    refuse it.
    """

    keep_eps: bool = False

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """The mended x0 `(B, *)`."""

    def wrap(self, denoise: Denoise) -> Denoise:
        """A denoiser with the correction."""

        def mended(x: Tensor, level: Level, /) -> Prediction:
            prediction = denoise(x, level)
            x0 = self(prediction.x0)
            eps = (x - like(level.alpha, x) * x0) / like(level.sigma, x)
            renoise = prediction.added if self.keep_eps else prediction.renoise
            return Prediction(x0, eps.to(x), prediction.variance, renoise)

        return mended


class Clip(Threshold):
    """x0 clipped to [-bound, bound]: Ho et al.'s, DDPM, arXiv 2006.11239 (code).

    Args:
        bound: Of the data.
        keep_eps: Add the uncorrected eps in each step.

    Raises:
        ValueError: It is not positive.
    """

    def __init__(self, bound: float = 1.0, keep_eps: bool = False) -> None:
        if not bound > 0:
            raise ValueError(f"bound={bound}: it must be positive.")
        self.bound, self.keep_eps = bound, keep_eps

    def __call__(self, x0: Tensor) -> Tensor:
        """The clipped x0."""
        return x0.clamp(-self.bound, self.bound)


class Dynamic(Threshold):
    """x0 clipped to its own quantile s of |x0| where that is beyond the bound, and divided by s / bound.

    Source: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.

    Args:
        ratio: The quantile.
        bound: Of the data.
        keep_eps: Add the uncorrected eps in each step.
        most: Largest s, in units of the bound (diffusers' `sample_max_value`, 1.5 in DeepFloyd's IF); None: no limit.

    Raises:
        ValueError: The ratio is not in (0, 1], the bound not positive, or `most` below 1.
    """

    def __init__(
        self, ratio: float = 0.995, bound: float = 1.0, keep_eps: bool = False, most: float | None = None
    ) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio={ratio}: it must lie between 0 and 1.")
        if not bound > 0:
            raise ValueError(f"bound={bound}: it must be positive.")
        if most is not None and not most >= 1:
            raise ValueError(f"most={most}: it must be at least 1, or null for no limit.")
        self.ratio, self.bound, self.keep_eps, self.most = ratio, bound, keep_eps, most

    def __call__(self, x0: Tensor) -> Tensor:
        """The mended x0."""
        most = None if self.most is None else self.most * self.bound
        sizes = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        s = like(torch.quantile(sizes, self.ratio, dim=1).clamp(self.bound, most).to(x0), x0)
        return x0.clamp(-s, s) * (self.bound / s)

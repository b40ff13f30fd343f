"""Thresholding of the predicted x0, for data of bounded range such as pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.samplers.checks import check_number, check_positive
from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class Threshold(ABC):
    """A correction of the predicted x0; eps is recomputed so that alpha x0 + sigma eps = x.

    With `keep_eps` steps add the uncorrected eps to the corrected x0 (`Prediction.renoise`), as the released
    Analytic-DDIM (Bao et al., arXiv 2201.06503) and diffusers' `DDIMScheduler` do. Only samplers that add eps to x0
    (`Sampler.renoises`) accept it.
    """

    keep_eps: bool = False

    @abstractmethod
    def __call__(self, x0: Tensor) -> Tensor:
        """The corrected x0 `(B, *)`."""

    def wrap(self, denoise: Denoise) -> Denoise:
        """A denoiser whose predictions are corrected."""

        def corrected(x: Tensor, level: Level, /) -> Prediction:
            prediction = denoise(x, level)
            x0 = self(prediction.x0)
            eps = (x - like(level.alpha, x) * x0) / like(level.sigma, x)
            renoise = prediction.added if self.keep_eps else prediction.renoise
            return prediction._replace(x0=x0, eps=eps.to(x), renoise=renoise)

        return corrected


@dataclass(eq=False)
class Clip(Threshold):
    """x0 clipped to [-bound, bound] (Ho et al., DDPM, arXiv 2006.11239, code).

    Args:
        bound: Largest absolute value of the data.
        keep_eps: Whether steps add the uncorrected eps.
    """

    bound: float = 1.0
    keep_eps: bool = False

    def __post_init__(self) -> None:
        check_positive("bound", self.bound)

    def __call__(self, x0: Tensor) -> Tensor:
        return x0.clamp(-self.bound, self.bound)


@dataclass(eq=False)
class Dynamic(Threshold):
    """x0 clipped to s and divided by s / bound, where s is a quantile of |x0| of the sample, at least the bound.

    Source: Saharia et al., Imagen, arXiv 2205.11487, section 2.3.

    Args:
        ratio: The quantile.
        bound: Largest absolute value of the data.
        keep_eps: Whether steps add the uncorrected eps.
        most: Largest s, in units of the bound (diffusers' `sample_max_value`, 1.5 in DeepFloyd's IF); None for no
            limit.

    Raises:
        ValueError: If ratio is not in (0, 1], bound <= 0 or most < 1.
    """

    ratio: float = 0.995
    bound: float = 1.0
    keep_eps: bool = False
    most: float | None = None

    def __post_init__(self) -> None:
        check_positive("ratio", self.ratio)
        check_number("ratio", self.ratio, high=1)
        check_positive("bound", self.bound)
        if self.most is not None:
            check_number("most", self.most, 1)

    def __call__(self, x0: Tensor) -> Tensor:
        most = None if self.most is None else self.most * self.bound
        sizes = x0.flatten(1).abs().to(torch.promote_types(x0.dtype, torch.float32))
        s = like(torch.quantile(sizes, self.ratio, dim=1).clamp(self.bound, most).to(x0), x0)
        return x0.clamp(-s, s) * (self.bound / s)

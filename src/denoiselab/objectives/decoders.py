"""The last step of a variational bound: log p(x0 | mean, variance), element by element, in nats."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """A distribution of the data around a mean; `bins` is the number of values of the data, None for real numbers."""

    bins: int | None

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor, /) -> Tensor:
        """Log p(x0) of each element, float64, shaped like x0 `(B, *)`; `log_variance` is broadcast."""
        ...


class ContinuousGaussian:
    """The density of N(mean, variance), for data that are real numbers; bits/dim may be negative."""

    bins: int | None = None

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        variance = log_variance.double()
        return -(math.log(2 * math.pi) + variance + (x0.double() - mean.double()).square() * (-variance).exp()) / 2


class _Binned:
    """For data of `bins` equally spaced values from -1 to 1.

    Args:
        bins: Number of values; 256 for bytes.

    Raises:
        ValueError: If `bins` < 2.
    """

    def __init__(self, bins: int = 256) -> None:
        if bins < 2:
            raise ValueError(f"bins={bins}: it must be at least 2.")
        self.bins = bins


class DiscretisedGaussian(_Binned):
    """N(mean, variance) integrated over the bin of x0, for data of `bins` equally spaced values from -1 to 1.

    The first and the last bin are open. Probabilities are at least 1e-12, as in the source's code.

    Source: Ho et al., DDPM, arXiv 2006.11239, eq. 13.
    """

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        x0, mean = x0.double(), mean.double()
        half, inverse = 1 / (self.bins - 1), (-log_variance.double() / 2).exp()
        # Bins right of the mean are mirrored, as differences of the cdf are exact only left of it.
        side = torch.where(x0 > mean, -1.0, 1.0)
        upper = torch.where(side * x0 > 1 - half, torch.inf, (side * (x0 - mean) + half) * inverse)
        lower = torch.where(side * x0 < -1 + half, -torch.inf, (side * (x0 - mean) - half) * inverse)
        # erfc, as torch's ndtr has half the digits six standard deviations out.
        p: Tensor = (torch.special.erfc(-upper / math.sqrt(2)) - torch.special.erfc(-lower / math.sqrt(2))) / 2
        return p.clamp_min(1e-12).log()


class Categorical(_Binned):
    """p(x0) in proportion to the density of N(mean, variance) at each of the `bins` values.

    Source: Kingma et al., Variational Diffusion Models, arXiv 2107.00630, eq. 8 and appendix.
    """

    def __call__(self, x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        values = torch.linspace(-1, 1, self.bins, dtype=torch.float64, device=x0.device)
        mean, precision = mean.double(), (-log_variance.double()).exp() / 2
        logits = -(values - mean[..., None]).square() * precision[..., None]
        return -(x0.double() - mean).square() * precision - logits.logsumexp(-1)

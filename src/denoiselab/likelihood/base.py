"""What a way to measure a likelihood is, and what it returns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from denoiselab.codecs import Bijection
from denoiselab.data import DataSet
from denoiselab.denoiser import Denoiser
from denoiselab.likelihood.dequantisation import OnImages
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise

LOG2 = math.log(2)


class Estimate(NamedTuple):
    """Estimates of the negative log-likelihoods of a batch.

    Attributes:
        parts: Name to bits/dim, `(B,)` float64; their sum estimates the negative log-likelihood, or a bound on it.
        steps: Name to `(T, B)` float64: quantities of each step of a chain, the last step (t = 1) first.
    """

    parts: Mapping[str, Tensor]
    steps: Mapping[str, Tensor] = MappingProxyType({})


class Likelihood(ABC):
    """A way to measure a likelihood.

    Attributes:
        bins: Number of values of the data it is for, equally spaced from -1 to 1; None for real numbers.
        part: The constructor argument that sets `bins`.
        fit_images: Number of training images that `fit` uses.
    """

    bins: int | None
    part: str
    fit_images: int = 0

    def check(self, denoiser: Denoiser) -> None:  # noqa: B027  # most measure every model
        """Check that the method can measure a model.

        Raises:
            ValueError: If a part of the model does not fit.
        """

    def through(self, codec: Bijection) -> Likelihood:
        """The method for the same data and a model of a codec's latents.

        Raises:
            ValueError: If the method needs a model of the data themselves.
        """
        raise ValueError(f"{self.part}: it is for data, and this model is one of latents; choose task/method=ode.")

    def fit(  # noqa: B027  # most have nothing to train
        self, model: Model, train: DataSet, seed: int, on_images: OnImages
    ) -> None:
        """Train what the method trains besides the model, on training images."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning) -> Estimate:
        """Measure a batch.

        Args:
            denoiser: The model.
            x0: `(B, *)`, in the network's range.
            noise: Source of all random numbers.
            cond: The batch's conditioning.
        """

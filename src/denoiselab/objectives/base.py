"""What every objective is: a loss per sample, and the refusal of denoisers that it cannot train."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class Objective(nn.Module, ABC):
    """A training loss; its own parameters, if it has any, are trained with the denoiser's."""

    @abstractmethod
    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """The loss of each sample, `(B,)`.

        Args:
            denoiser: What is trained.
            x0: Clean batch `(B, *)`.
            noise: Source of all that is random.
            cond: The batch's conditioning.
        """

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a denoiser that this objective cannot train, before any training.

        Raises:
            ValueError: Says which of its parts does not fit.
        """
        if denoiser.variance is not None and denoiser.variance.outputs == 2:
            raise ValueError(
                f"variance: objective {type(self).__name__} does not train a learned variance; "
                "choose objective=hybrid, vlb or sohl_dickstein, or variance=fixed_small or fixed_large."
            )


class LevelObjective(Objective):
    """A loss at one level a sample, a mean or a sum over the sample's dimensions.

    Args:
        level_distribution: Draws the levels to train at.
        sum_dimensions: Sum over dimensions instead of the mean.
    """

    def __init__(self, level_distribution: LevelDistribution, sum_dimensions: bool = False) -> None:
        super().__init__()
        self.level_distribution = level_distribution
        self.sum_dimensions = sum_dimensions

    def check(self, denoiser: Denoiser) -> None:
        """Refuse a learned variance, and a schedule without the levels to be drawn.

        Raises:
            ValueError: One of them.
        """
        super().check(denoiser)
        self.level_distribution.check(denoiser.schedule)


def corrupt(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x_t = alpha x0 + sigma eps, `(B, *)`."""
    return like(level.alpha, x0) * x0 + like(level.sigma, x0) * eps

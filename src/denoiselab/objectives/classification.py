"""The training of classifiers of noisy samples, for classifier guidance."""

from __future__ import annotations

from torch import Tensor, nn

from denoiselab.guidance import NoisyClassifier
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.base import LevelObjective, corrupt
from denoiselab.objectives.level_distributions import LevelDistribution


class CrossEntropy(LevelObjective):
    """-log p(class | x_t) in nats, at one noise level a sample; it trains a `NoisyClassifier`.

    Source: Dhariwal and Nichol, arXiv 2105.05233, section 4 and appendix H.
    """

    def __init__(self, level_distribution: LevelDistribution) -> None:
        super().__init__(level_distribution)

    def forward(self, denoiser: nn.Module, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        assert isinstance(denoiser, NoisyClassifier)
        assert cond.class_label is not None
        draw = self.level_distribution(denoiser.schedule, noise)
        x = corrupt(x0, noise.like(x0), draw.level).to(x0)
        loss: Tensor = -denoiser(x, draw.level, cond.class_label).float()
        self.level_distribution.observe(draw.level, loss)
        return loss if draw.weight is None else draw.weight.to(loss) * loss

    def check(self, denoiser: nn.Module) -> None:
        if not isinstance(denoiser, NoisyClassifier):
            raise ValueError(
                "objective=CrossEntropy: it trains a classifier; choose denoiser=classifier too, as "
                "experiment=classifier_digits does."
            )
        self.level_distribution.check(denoiser.schedule)

"""The contract of objectives: a loss per sample, and which denoisers they train."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from denoiselab.denoiser import Denoiser
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise
from denoiselab.objectives.level_distributions import LevelDistribution
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class Objective(nn.Module, ABC):
    """A training loss; its own parameters, if it has any, are trained with the denoiser's.

    One that evaluates a decoder of discrete data keeps it as the attribute `decoder`.

    Attributes:
        second_time: Whether it trains networks that take a second time, and no others.
        forward_derivatives: Whether its loss is made of derivatives of the network by forward differentiation.
        needs_null: Whether it evaluates the network with the null condition.
        null_condition: The null conditions of the samples of a training's positions `(B,)`; None for no conditions.
        second_derivatives: Whether its loss is made of derivatives of the network, which are differentiated again.
        uses_images: Whether it is of the images too where the network's data are stored latents of them.
        uses_teacher: Whether it learns from a frozen model, which it has as `teacher` before the first step.
        teacher_calls: Calls of the teacher for each image.
        metric_features: Names of the networks whose features its loss is of; scores by the same features are marked.
        fraction: Of the training that is done, from 0 to 1, before the present step.

    Raises:
        ValueError: If an option of a subclass is out of range.
    """

    second_time: bool = False
    forward_derivatives: bool = False
    needs_null: bool = False
    null_condition: Callable[[Tensor], Conditioning] | None = None
    second_derivatives = False
    uses_images: bool = False
    uses_teacher: bool = False
    teacher_calls: int = 0
    metric_features: tuple[str, ...] = ()
    fraction: float = 0.0

    _teachers: tuple[Denoiser, ...] = ()  # no attribute that is a module: optimizers and checkpoints have it not

    @abstractmethod
    def forward(self, denoiser: Denoiser, x0: Tensor, noise: Noise, cond: Conditioning = Conditioning()) -> Tensor:
        """The loss of each sample, `(B,)` float32, differentiable in the denoiser's parameters.

        Args:
            denoiser: The model in training.
            x0: Clean batch `(B, *)`.
            noise: Source of all random numbers.
            cond: The batch's conditioning.
        """

    @property
    def teacher(self) -> Denoiser | None:
        """The model to learn from, frozen and in evaluation mode; its schedule need not be the denoiser's."""
        return self._teachers[0] if self._teachers else None

    def take_teacher(self, teacher: Denoiser) -> None:
        """Learn from a model; the objectives that this one is made of do, too."""
        teacher.eval().requires_grad_(False)
        for part in self.modules():
            if isinstance(part, Objective):
                part._teachers = (teacher,)

    def check_distilled(self, grid: Sequence[Level], schedule: Schedule) -> None:
        """Check that a teacher which was distilled for the steps of a `grid` alone can teach a model of a schedule.

        Raises:
            ValueError: If it is needed elsewhere.
        """
        raise ValueError(
            f"teacher: it was distilled for {len(grid) - 1} steps on one grid, and {type(self).__name__} needs it at "
            "other levels; name the model that it learned from."
        )

    def check_stage(self, former: Objective) -> None:
        """Check that a stage of a training may learn from the model of the stage before, which had another objective.

        Raises:
            ValueError: If it may not; the message begins with the option below `stages.`.
        """

    def begin(self, fraction: float) -> None:
        """Begin a step before which a `fraction` of the training is done."""
        for part in self.modules():
            if isinstance(part, Objective):
                part.fraction = fraction

    def check(self, denoiser: Denoiser) -> None:
        """Check before training that this objective can train a denoiser.

        Raises:
            ValueError: If it cannot; the message names the option that does not fit.
        """
        if denoiser.variance is not None and denoiser.variance.outputs == 2:
            raise ValueError(
                f"variance: objective {type(self).__name__} does not train a learned variance; "
                "choose objective=hybrid, vlb or sohl_dickstein, or variance=fixed_small or fixed_large."
            )


class LevelObjective(Objective):
    """A loss at one noise level a sample.

    Args:
        level_distribution: Draws the noise levels.
        sum_dimensions: Sum over a sample's dimensions, instead of their mean.
    """

    def __init__(self, level_distribution: LevelDistribution, sum_dimensions: bool = False) -> None:
        super().__init__()
        self.level_distribution = level_distribution
        self.sum_dimensions = sum_dimensions

    def check(self, denoiser: Denoiser) -> None:
        super().check(denoiser)
        self.level_distribution.check(denoiser.schedule)


def corrupt(x0: Tensor, eps: Tensor, level: Level) -> Tensor:
    """x_t = alpha x0 + sigma eps, `(B, *)`."""
    return like(level.alpha, x0) * x0 + like(level.sigma, x0) * eps

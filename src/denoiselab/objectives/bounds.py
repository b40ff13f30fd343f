"""Terms of the variational bounds: mean square error, ends of a schedule, divergence of the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.schedules import Level, Schedule


def mean_square_error(prediction: Prediction, x0: Tensor) -> Tensor:
    """The mean square error of the predicted x0, `(B,)` float64."""
    return (prediction.x0.double() - x0.double()).square().flatten(1).mean(1)


def ends(schedule: Schedule) -> list[Level]:
    """The cleanest and the noisiest level, scalars on the CPU."""
    return schedule.level(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)).unbind()


def prior_divergence(x0: Tensor, last: Level) -> Tensor:
    """KL(q(x_T | x0) | p(x_T)) in nats per dimension, `(B,)` float64, for a scalar level.

    p(x_T) = N(0, alpha_T^2 + sigma_T^2): the standard normal where the schedule preserves variance.
    """
    total = last.alpha.square() + last.sigma.square()
    size: Tensor = (last.alpha * x0.double()).square().flatten(1).mean(1)
    return ((size + last.sigma.square()) / total - 1 + (total / last.sigma.square()).log()) / 2

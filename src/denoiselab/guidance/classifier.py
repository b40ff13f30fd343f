"""Classifier guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.denoiser import Denoise, OfLevel, Prediction, labels
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class LogPosterior(Protocol):
    """What a classifier of noisy samples says of classes."""

    def __call__(self, x: Tensor, level: Level, classes: Tensor, /) -> Tensor:
        """Log p(class | x), `(B,)`, for `x` `(B, *)` at `level` (scalar or `(B,)`) and `classes` `(B,)` int64."""
        ...


class NoisyClassifier(nn.Module):
    """A network that classifies noisy samples, and the schedule that it was trained on.

    It accepts levels of any schedule, as a `Denoiser` does: at equal log-SNR x is the same but for a factor. Beyond
    the ends of its own schedule it says what it says there.

    Args:
        network: Called as `network(x, label)`; returns logits `(B, num_classes)`.
        schedule: The network's home schedule.
        time_label: The label of a level.
        num_classes: Number of classes.
        shape: Of a sample.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, time_label: OfLevel, num_classes: int, shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.time_label = network, schedule, time_label
        self.num_classes, self.shape = num_classes, tuple(shape)

    def forward(self, x: Tensor, level: Level, classes: Tensor) -> Tensor:
        """Log p(class | x), `(B,)`; arguments as of `LogPosterior`."""
        home = level if level.path is self.schedule else self.schedule.at(level.lam)
        scale = torch.fmin(home.sigma / level.sigma, home.alpha / level.alpha)
        logits = self.network(x * like(scale, x), labels(self.time_label, home, x))
        return F.log_softmax(logits, dim=1).gather(1, classes[:, None])[:, 0]


class ClassifierGuided:
    """eps - scale sigma grad log p(class | x), and the x0 that goes with it: the score of p(x) p(class | x)^scale.

    Any sampler takes it. Of ancestral steps it moves the mean by scale times their larger variance over sqrt(1 - beta)
    times the gradient, where algorithm 1 of the source has the model's own variance. The variance stays the model's.

    A call counts as its denoiser's, and the classifier's passes, one forward and one backward, are counted for
    themselves. In pure noise (alpha = 0) there is nothing to classify, and nothing is steered.

    Source: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233, section 4 and
    algorithm 2.

    Args:
        denoise: With its conditioning bound.
        classifier: Of noisy samples.
        classes: `(B,)` int64, those to steer to.
        scale: s; 0 changes nothing, and calls no classifier.
    """

    def __init__(self, denoise: Denoise, classifier: LogPosterior, classes: Tensor, scale: float) -> None:
        self._denoise, self._classifier, self._classes, self.scale = denoise, classifier, classes, scale
        self.classified_rows = 0  # passes of the classifier, summed over the samples

    @property
    def evaluations_per_call(self) -> int:
        """Network evaluations of a call, without the classifier's."""
        return int(getattr(self._denoise, "evaluations_per_call", 1))

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        prediction = self._denoise(x, level)
        if self.scale == 0:
            return prediction
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._classifier(at, level, self._classes).sum(), at)
        self.classified_rows += len(x)
        informed = level.alpha > 0
        shift = self.scale * torch.where(informed, level.sigma, 0)
        rho = torch.where(informed, level.rho, 0)
        step = like(shift, x) * gradient.detach()
        return prediction._replace(x0=prediction.x0 + like(rho, x) * step, eps=prediction.eps - step)

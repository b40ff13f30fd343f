"""Guidance by the gradient of a log-likelihood, such as that of a classifier of noisy samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoiselab.denoiser import Denoise, OfLevel, Prediction, labels
from denoiselab.samplers.observers import Tally
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class LogPosterior(Protocol):
    """A classifier of noisy samples."""

    def __call__(self, x: Tensor, level: Level, classes: Tensor, /) -> Tensor:
        """Log p(class | x), `(B,)`, for `x` `(B, *)` at `level` (scalar or `(B,)`) and `classes` `(B,)` int64."""
        ...


class LogLikelihood(Protocol):
    """A log-likelihood of noisy samples, such as log p(measurement | x)."""

    def __call__(self, x: Tensor, level: Level, index: Tensor, /) -> Tensor:
        """Log-likelihoods `(B,)`, differentiable in `x` `(B, *)`, at `level` (scalar or `(B,)`).

        `index` `(B,)` int64 has the numbers of the samples. The value of a sample must not depend on the others.
        """
        ...


# The forms of guidance by a gradient: on eps (ADM's algorithm 2), or on the mean of ancestral steps (algorithm 1).
Form = Literal["eps", "mean"]


class NoisyClassifier(nn.Module):
    """A network that classifies noisy samples, with the schedule that it was trained on.

    It accepts levels of any schedule, as a `Denoiser` does: at equal log-SNR, x differs by a factor only. Levels beyond
    the ends of its own schedule count as the ends.

    Args:
        network: Called as `network(x, label)`; returns logits `(B, num_classes)`.
        schedule: The network's home schedule.
        time_label: The label of a level.
        num_classes: Number of classes.
        shape: Shape of a sample.
    """

    def __init__(
        self, network: nn.Module, schedule: Schedule, time_label: OfLevel, num_classes: int, shape: Sequence[int]
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.time_label = network, schedule, time_label
        self.num_classes, self.shape = num_classes, tuple(shape)

    def logits(self, x: Tensor, level: Level) -> Tensor:
        """The network's output `(B, num_classes)` for `x` `(B, *)` at `level` (scalar or `(B,)`, of any schedule)."""
        home = level if level.path is self.schedule else self.schedule.at(level.lam)
        scale = torch.fmin(home.sigma / level.sigma, home.alpha / level.alpha)
        logits: Tensor = self.network(x * like(scale, x), labels(self.time_label, home, x))
        return logits

    def forward(self, x: Tensor, level: Level, classes: Tensor) -> Tensor:
        return F.log_softmax(self.logits(x, level), dim=1).gather(1, classes[:, None])[:, 0]


class ClassifierGuided:
    """Guidance by scale times the gradient of log p(class | x), or of another log-likelihood, in one of two forms.

    "eps": eps - scale sigma gradient, with the x0 that follows: the score of p(x) p(class | x)^scale, for any sampler.
    "mean": the prediction stays, and ancestral steps move their mean by their own variance times scale times the
    gradient (`Prediction.gradient`); other samplers refuse it. The first form moves the mean of ancestral steps by
    their larger variance over sqrt(1 - beta) instead; with more steps the two agree.

    NFE are those of the denoiser; passes of the classifier, one forward and one backward a call, are counted apart. In
    pure noise (alpha = 0) nothing is changed.

    Source: Dhariwal and Nichol, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233, section 4; "eps" is
    algorithm 2 and "mean" algorithm 1.

    Args:
        denoise: With its conditioning bound.
        classifier: Of noisy samples.
        classes: `(B,)` int64, the classes of the samples; of a `LogLikelihood` their indices.
        scale: s; with 0 the classifier is not called.
        tally: Counts its passes; None for a tally that nobody reads.
        form: "eps" or "mean".
    """

    def __init__(
        self,
        denoise: Denoise,
        classifier: LogPosterior | LogLikelihood,
        classes: Tensor,
        scale: float,
        tally: Tally | None = None,
        form: Form = "eps",
    ) -> None:
        self._denoise, self._classifier, self._classes = denoise, classifier, classes
        self.scale, self.form = scale, form
        self._tally = Tally() if tally is None else tally
        self._tally.add("classifier", 0)

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """Predict from `x` `(B, *)` at `level` (scalar or `(B,)`)."""
        prediction = self._denoise(x, level)
        if self.scale == 0:
            return prediction
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._classifier(at, level, self._classes).sum(), at)
        self._tally.add("classifier", len(x))
        informed = level.alpha > 0
        if self.form == "mean":
            return prediction._replace(gradient=like(self.scale * informed, x) * gradient.detach())
        shift = self.scale * torch.where(informed, level.sigma, 0)
        rho = torch.where(informed, level.rho, 0)
        step = like(shift, x) * gradient.detach()
        return prediction._replace(x0=prediction.x0 + like(rho, x) * step, eps=prediction.eps - step)

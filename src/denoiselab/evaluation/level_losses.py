"""The loss on held-out data at fixed noise levels, with the same noise each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from denoiselab.data import DataSet, clean
from denoiselab.model import Model
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import SAMPLING, Noise
from denoiselab.schedules import Level, Schedule
from denoiselab.trained import ClassifierModel

# Half log-SNRs; those outside a schedule's range are left out.
LEVELS = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)


# In a run's directory: the profile at the end of a training, and those of `task=losses`, in folders within FOLDER.
HELD_OUT_FILE, FOLDER, LOSSES_FILE = "held_out_loss.json", "losses", "losses.json"


class LevelLoss(NamedTuple):
    """The loss at one level.

    Attributes:
        lam: Half log-SNR.
        value: Mean over samples and dimensions of (1 + exp(2 lam)) (x0_hat - x0)^2; of a classifier the cross-entropy.
        standard_error: Of drawing the held-out data and the noise; None for one sample.
        accuracy: Of a classifier, the fraction of samples whose class has the largest logit.
    """

    lam: float
    value: float
    standard_error: float | None
    accuracy: float | None = None


class LossProfile(NamedTuple):
    """The losses of a model by level.

    Attributes:
        value: Mean over the levels; NaN without any sample or level.
        standard_error: Of the mean, whose terms are of the same samples; None for one sample.
        n: Number of samples.
        levels: By rising half log-SNR.
        accuracy: Of a classifier, mean over the levels.
    """

    value: float
    standard_error: float | None
    n: int
    levels: list[LevelLoss]
    accuracy: float | None = None

    def record(self) -> dict[str, Any]:
        """As plain containers: `loss`, `standard_error`, `n`, and of each of `levels` its `lam` and the same.

        The profile of a classifier and its levels have their `accuracy` too.
        """

        def plain(of: LevelLoss | LossProfile) -> dict[str, Any]:
            accuracy = {} if of.accuracy is None else {"accuracy": of.accuracy}
            return {"loss": of.value, "standard_error": of.standard_error, **accuracy}

        return {**plain(self), "n": self.n, "levels": [{"lam": one.lam, **plain(one)} for one in self.levels]}


def inside_of(schedule: Schedule, levels: Sequence[float] = LEVELS) -> list[tuple[float, Level]]:
    """The half log-SNRs that are in a schedule's range, each with its level."""
    grid = schedule.at(torch.tensor(levels, dtype=torch.float64)).unbind()
    return [(lam, level) for lam, level in zip(levels, grid, strict=True) if abs(float(level.lam) - lam) < 0.01]


@torch.no_grad()
def level_losses(
    model: Model | ClassifierModel,
    data: DataSet,
    num_samples: int,
    batch_size: int,
    *,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    check: Callable[[Tensor], None] = lambda index: None,
) -> LossProfile:
    """The losses of a model with its present weights, on the first samples of a data set, which ranks share.

    With alpha^2 + sigma^2 = 1 the loss is the squared error of v = alpha eps - sigma x0, near the variance of the data
    at high noise and the squared error of eps at low noise. It depends on lam alone, not on schedule, parameterization
    or objective, so that models trained with different ones can be compared.

    Args:
        model: In evaluation mode; of a classifier the loss is the cross-entropy in nats.
        data: Held-out data.
        num_samples: Fewer if the data are.
        batch_size: Samples a network call.
        levels: Half log-SNRs.
        seed: Of the noise: sample i has the same at every call, whatever the batches and ranks are.
        check: Called with the indices of each batch, after it; an exception stops the measurement.
    """
    schedule, device = model.trained.schedule, model.device
    inside = inside_of(schedule, levels)
    n = min(num_samples, len(data))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sums = torch.zeros(3, len(inside) + 1, dtype=torch.float64, device=device)  # the last: of the mean over levels
    for index in torch.arange(rank * n // world, (rank + 1) * n // world).split(batch_size):
        images, noise = clean(data, index, device), Noise(seed, index.to(device), SAMPLING)
        cond = model.conditioner.given(images)
        x0 = model.codec.encode_latents(model.codec.encode_pixels(images.images), noise.normal)
        losses = []
        for lam, level in inside:
            x = float(level.alpha) * x0 + float(level.sigma) * noise.like(x0)
            losses.append(_scored(model, x, level, lam, x0, cond))
        if losses:
            each, right = (torch.stack([*one, torch.stack(one).mean(0)]) for one in zip(*losses, strict=True))
            sums += torch.stack([each.sum(1), each.square().sum(1), right.sum(1)])
        check(index)
    if dist.is_initialized():
        dist.all_reduce(sums)
    if not (n and inside):
        return LossProfile(math.nan, None, n, [])
    mean, square, right = (sums / n).tolist()
    spread = [math.sqrt(max(0.0, s - m * m) / (n - 1)) if n > 1 else None for m, s in zip(mean, square, strict=True)]
    accuracy = right if isinstance(model, ClassifierModel) else [None] * len(mean)
    found = [LevelLoss(lam, *one) for (lam, _), *one in zip(inside, mean, spread, accuracy, strict=False)]
    return LossProfile(mean[-1], spread[-1], n, found, accuracy[-1])


def _scored(
    model: Model | ClassifierModel, x: Tensor, level: Level, lam: float, x0: Tensor, cond: Conditioning
) -> tuple[Tensor, Tensor]:
    """The loss of each sample at a level, and of a classifier whether it is right, `(B,)` float64."""
    if isinstance(model, ClassifierModel):
        label = cond.class_label
        assert label is not None
        logits = model.classifier.logits(x, level).double()
        return F.cross_entropy(logits, label, reduction="none"), (logits.argmax(1) == label).double()
    error = (model.denoiser(x, level, cond).x0.float() - x0.float()).square().flatten(1).mean(1)
    error = (1 + math.exp(2 * lam)) * error.double()
    return error, torch.zeros_like(error)

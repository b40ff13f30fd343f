"""The loss on held-out data during training and at its end, and the accuracy of a classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor

from denoiselab import progress
from denoiselab.app.runs.devices import is_leader
from denoiselab.data import DataSet
from denoiselab.evaluation.level_losses import LossProfile, inside_of, level_losses
from denoiselab.model import Model
from denoiselab.trained import ClassifierModel

# The mean loss on held-out data, which a sweep may minimise; `callbacks.frontier` then keeps the best of all cells.
HELD_OUT_LOSS = "held_out/loss"

_ACCURACY = "held_out/accuracy"


@dataclass
class HeldOut:
    """Measures what a run trains on held-out data.

    Args:
        model: What is trained.
        data: Held-out data; none are measured if there are none.
        applied: Takes a name of weights; within its context the model has them.
        weights: Their name.
        check: Called after each batch; an exception stops the measurement.
    """

    model: Model | ClassifierModel
    data: DataSet
    applied: Callable[[str], AbstractContextManager[None]]
    weights: str
    check: Callable[[object], None]

    @property
    def names(self) -> list[str]:
        """The names of what is measured."""
        kinds = [HELD_OUT_LOSS, _ACCURACY] if isinstance(self.model, ClassifierModel) else [HELD_OUT_LOSS]
        levels = [lam for lam, _ in inside_of(self.model.trained.schedule)] if len(self.data) else []
        return [name for kind in kinds if levels for name in (kind, *(at_level(kind, lam) for lam in levels))]

    def profile(self, num_samples: int, *, shown: bool = False) -> LossProfile:
        """The losses of so many samples, of a classifier its accuracies too; `shown` with a progress bar."""
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        bar = progress.bar("held-out loss", min(num_samples, len(self.data)), shown=shown and is_leader())

        def after(index: Tensor) -> None:
            bar.update(min(len(index) * ranks, bar.total - bar.n))
            self.check(index)

        with self.applied(self.weights), self.model.evaluating(), bar:
            return level_losses(self.model, self.data, num_samples, min(num_samples, 64), check=after)

    def of(self, num_samples: int) -> Callable[[], Mapping[str, float]]:
        """A function that measures `names`; {} without data."""

        def measure() -> dict[str, float]:
            profile = self.profile(num_samples)
            found = [
                (HELD_OUT_LOSS, profile.value),
                *((at_level(HELD_OUT_LOSS, one.lam), one.value) for one in profile.levels),
            ]
            right = [
                (_ACCURACY, profile.accuracy),
                *((at_level(_ACCURACY, one.lam), one.accuracy) for one in profile.levels),
            ]
            return {name: value for name, value in (*found, *right) if value is not None} if profile.levels else {}

        return measure

    def record_of(self, num_samples: int) -> Callable[[], dict[str, Any]]:
        """A function that measures the whole profile, as plain containers; {} without data."""

        def measure() -> dict[str, Any]:
            profile = self.profile(num_samples, shown=True)
            facts = {"split": "held_out", "weights": self.weights}
            return {**facts, **profile.record()} if profile.levels else {}

        return measure


def at_level(kind: str, lam: float) -> str:
    """The name of a loss or an accuracy at a half log-SNR."""
    return f"{kind}_lam{lam:+g}"

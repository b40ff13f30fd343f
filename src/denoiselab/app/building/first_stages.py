"""Reconstructions of held-out images during the training of a first stage and at its end."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from denoiselab.app.building.held_out import HELD_OUT_LOSS
from denoiselab.app.config.settings import Evaluation
from denoiselab.app.runs.devices import is_leader
from denoiselab.codecs import ReconstructionLoss, VQModel
from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.evaluation import Extractor, FrechetDistance, Workspace
from denoiselab.evaluation.contracts import Scorer
from denoiselab.evaluation.reconstruction import LOWER_IS_BETTER, Measures, measure, reconstruct
from denoiselab.media.kinds import medium
from denoiselab.trained import FirstStage

# What a sweep may minimise; the number itself, or minus it where more is better.
METRICS = (HELD_OUT_LOSS, *(f"reconstruction/{name}" for name in LOWER_IS_BETTER))

# Held-out images in the picture at the end.
_SHOWN = 32


def check_metric(name: str, objective: ReconstructionLoss) -> None:
    """Refuse an `optimized_metric` that a first stage does not have."""
    if name not in METRICS:
        raise BadInput(
            f"optimized_metric={name}: a first stage draws no samples, so its training has no frontier; allowed: "
            f"{', '.join(METRICS)}."
        )
    if name.endswith("/perceptual") and objective.perceptual is None:
        raise BadInput(
            f"optimized_metric={name}: the objective has no perceptual distance; give it one, or another metric."
        )


def value_of(name: str, found: Mapping[str, Any]) -> float:
    """The number of that name to be minimised, from what was measured."""
    key = "l1" if name == HELD_OUT_LOSS else name.partition("/")[2]
    return float(found[key]) * (1 if LOWER_IS_BETTER[key] else -1)


@dataclass
class Reconstructions:
    """Measures what a run trains on held-out images.

    Args:
        model: What is trained.
        objective: Its loss, whose perceptual distance is measured too.
        data: Held-out images; none are measured if there are none.
        applied: Takes a name of weights; within its context the model has them.
        weights: Their name.
        check: Called after each batch; an exception stops the measurement.
        extractor: Of the features of rFD.
        evaluation: Number and batch size of the images at the end.
        train: Training images.
        cache: Folder of trained extractors.
    """

    model: FirstStage
    objective: ReconstructionLoss
    data: DataSet
    applied: Callable[[str], AbstractContextManager[None]]
    weights: str
    check: Callable[[object], None]
    extractor: Extractor
    evaluation: Evaluation
    train: DataSet
    cache: Path

    @property
    def names(self) -> list[str]:
        """The names of what is measured during the training."""
        found = ["psnr", *(["ssim"] if min(self.model.shape[1:]) >= 11 else [])]
        found += [] if self.objective.perceptual is None else ["perceptual"]
        found += ["perplexity", "usage"] if isinstance(self.model.autoencoder, VQModel) else []
        return [HELD_OUT_LOSS, *(f"held_out/{name}" for name in found)] if len(self.data) else []

    def of(self, num_samples: int) -> Callable[[], Mapping[str, float]]:
        """A function that measures `names`; {} without data."""

        def measured() -> dict[str, float]:
            if not self.names:
                return {}
            found = self._measured(num_samples, Measures(self.objective.perceptual))
            return {name: found["l1" if name == HELD_OUT_LOSS else name.partition("/")[2]] for name in self.names}

        return measured

    def record_of(self, num_samples: int) -> Callable[[], dict[str, Any]]:
        """A function that measures nothing: `final` is the record."""
        return dict

    def final(self) -> dict[str, Any]:
        """All measures of the held-out images, at most `evaluation.num_samples`; {} without data."""
        if not len(self.data):
            return {}
        found = self._measured(self.evaluation.num_samples, Measures(self.objective.perceptual, self._scorer))
        return {**found, "split": "held_out", "latents": "mode", "weights": self.weights}

    def draw(self, path: Path, number: int = _SHOWN) -> None:
        """Write the picture of pairs of held-out images, or training ones, and reconstructions."""
        data = self.data if len(self.data) else self.train
        # Spread over the set, which may be sorted.
        index = torch.linspace(0, len(data) - 1, min(number, len(data)), dtype=torch.float64).round().long()
        with self.applied(self.weights), self.model.evaluating():
            made, _ = reconstruct(self.model.autoencoder, data.inputs(index).to(self.model.device))
        medium(self.model.shape).write_pairs(path, data.stored(index), made.cpu())

    def preview(self, sampler: str, nfe: int, num_samples: int) -> Callable[[Path], None]:
        """A function that draws so many pairs, on the first rank; there is no sampler."""

        def write(path: Path) -> None:
            if is_leader():
                self.draw(path, num_samples)

        return write

    def _measured(self, number: int, measures: Measures) -> dict[str, Any]:
        with self.applied(self.weights), self.model.evaluating():
            size = min(number, self.evaluation.batch_size, 64)
            return measure(self.model.autoencoder, self.data, number, size, measures, self.check)

    @functools.cached_property
    def _scorer(self) -> Scorer[Any, Any]:
        work = Workspace(self.cache, lambda step: self.check(step), shown=is_leader())
        metrics = {"frechet": FrechetDistance()}
        try:
            return self.extractor.fit(self.train, self.data, metrics, {"frechet": {}}, work)
        except ValueError as error:
            raise BadInput(str(error)) from None

"""Classifiers of noisy samples that were trained here, with their weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from denoiselab.errors import BadInput
from denoiselab.files import sha256_of
from denoiselab.guidance import NoisyClassifier
from denoiselab.model import device_of
from denoiselab.rebuilding import rebuild
from denoiselab.trained import ClassifierModel
from denoiselab.training.checkpoint_files import newest
from denoiselab.training.ema import RAW, Names

_OPTION = "classifier_guidance.classifier"


@dataclass
class TrainedClassifier:
    """A classifier that `train.py` has trained.

    Args:
        path: A run directory (its newest whole checkpoint is read) or a checkpoint file.
        weights: Name of an average of the weights, or "raw" for those without averaging; None for the first average.

    Attributes:
        facts: Of a classifier that was read: the sha256 of its file, and the name of its weights.
        codec: Its configuration; None if there is none.
    """

    path: str
    weights: str | None = None
    facts: dict[str, Any] = field(default_factory=dict, init=False)
    codec: dict[str, Any] | None = field(default=None, init=False)

    def read(self) -> NoisyClassifier:
        """The classifier, in evaluation mode on the CPU.

        Raises:
            BadInput: If it cannot be used.
        """
        file, warning = newest(Path(self.path).expanduser(), f"{_OPTION}.path")
        if warning:
            warnings.warn(warning, stacklevel=2)
        rebuilt = rebuild(file, option=f"{_OPTION}.path")
        if not isinstance(rebuilt.model, ClassifierModel):
            raise BadInput(
                f"{_OPTION}.path={file}: it is a model that draws samples, no classifier of them; name a run of "
                "experiment=classifier_digits or its like."
            )
        name = Names([*rebuilt.averages, RAW], rebuilt.basis).chosen(self.weights, f"{_OPTION}.weights")
        classifier = rebuilt.model.classifier
        if name != RAW:  # buffers are not averaged
            classifier.load_state_dict(rebuilt.basis.weights(name, rebuilt.averages), strict=False)
        self.facts, self.codec = (
            {"classifier_sha256": sha256_of(file), "classifier_weights": name},
            rebuilt.config.get("codec"),
        )
        return classifier


def load_classifier(
    source: str | Path, weights: str | None = None, *, device: torch.device | str = "cpu"
) -> NoisyClassifier:
    """A classifier of noisy samples that `train.py` has trained, in evaluation mode.

    Args:
        source: A run directory or a checkpoint file.
        weights: As in `TrainedClassifier`.
        device: Where it is put.

    Raises:
        ValueError: If the source or the weights cannot be used; the sentence of the command line.
    """
    return TrainedClassifier(str(source), weights).read().to(device_of(device))

"""Guidance by an imported classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.app.config.settings import ClassifierGuidance
from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoise
from denoiselab.errors import BadInput
from denoiselab.files import sha256_of
from denoiselab.guidance import ClassifierGuided, NoisyClassifier
from denoiselab.interop import InteropError
from denoiselab.model import Model
from denoiselab.nodes.instantiate import construct
from denoiselab.samplers import Tally

_OPTION = "classifier_guidance"


@dataclass
class Steering:
    """A classifier that guides denoisers of its images.

    Args:
        classifier: On the device of the sampling.
        conditioner: The model's; its classes are the classifier's.
        scale: Of its gradient.
        sha256: Of its file.
    """

    classifier: NoisyClassifier
    conditioner: Conditioner
    scale: float
    sha256: str

    @property
    def facts(self) -> dict[str, Any]:
        """The part of the protocol that it adds."""
        return {"classifier_scale": self.scale, "classifier_sha256": self.sha256}

    @property
    def strata(self) -> int:
        """Sample i is of the class of sample i mod strata."""
        own = self.conditioner.sample(torch.zeros(1, dtype=torch.int64)).class_label
        return math.lcm(self.conditioner.strata, self.classifier.num_classes if own is None else 1)

    def classes(self, index: Tensor) -> Tensor:
        """Classes of samples `index` `(B,)`: the model's, or of sample i class i mod K."""
        own = self.conditioner.sample(index).class_label
        return index % self.classifier.num_classes if own is None else own

    def __call__(self, denoise: Denoise, index: Tensor, tally: Tally) -> ClassifierGuided:
        """The guided denoiser of samples `index` `(B,)`."""
        return ClassifierGuided(denoise, self.classifier, self.classes(index), self.scale, tally)

    def described(self, index: Tensor) -> list[str]:
        """Labels of samples: the model's, or the numbers of the classes."""
        own = self.conditioner.described(index)
        return [str(label) for label in (index % self.classifier.num_classes).tolist()] if own is None else own


def steering(given: ClassifierGuidance | None, model: Model, device: torch.device) -> Steering | None:
    """The configured classifier, if any."""
    if given is None:
        return None
    source = construct(given.classifier, f"{_OPTION}.classifier")
    try:
        classifier: NoisyClassifier = source.read()
    except InteropError as error:
        raise BadInput(f"{_OPTION}.classifier.path={error}") from None
    if classifier.shape != tuple(model.shape):
        raise BadInput(
            f"{_OPTION}: the classifier takes images {list(classifier.shape)}, the model makes {list(model.shape)}."
        )
    classes = getattr(model.conditioner, "num_classes", classifier.num_classes)
    if classes != classifier.num_classes:
        raise BadInput(f"{_OPTION}: the classifier has {classifier.num_classes} classes, the model {classes}.")
    digest = sha256_of(Path(given.classifier["path"]).expanduser())
    return Steering(classifier.to(device).eval().requires_grad_(False), model.conditioner, given.scale, digest)

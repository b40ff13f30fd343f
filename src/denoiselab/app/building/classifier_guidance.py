"""Guidance by a classifier of others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.app.config.settings import ClassifierGuidance
from denoiselab.conditioners import Conditioner
from denoiselab.denoiser import Denoise
from denoiselab.errors import BadInput, check_given
from denoiselab.files import sha256_of
from denoiselab.guidance import ClassifierGuided, NoisyClassifier
from denoiselab.instantiate import check, construct
from denoiselab.interop import InteropError
from denoiselab.model import Model

_OPTION = "classifier_guidance"


@dataclass
class Steering:
    """A classifier, by which denoisers of its images are guided.

    Args:
        classifier: On the device where it shall work.
        conditioner: The model's, whose classes of samples are the classifier's.
        scale: Of its gradient.
        sha256: Of its file.
    """

    classifier: NoisyClassifier
    conditioner: Conditioner
    scale: float
    sha256: str

    @property
    def facts(self) -> dict[str, Any]:
        """What samples depend on."""
        return {"classifier_scale": self.scale, "classifier_sha256": self.sha256}

    @property
    def strata(self) -> int:
        """Sample i is of the class of sample i mod strata."""
        own = self.conditioner.sample(torch.zeros(1, dtype=torch.int64)).class_label
        return math.lcm(self.conditioner.strata, self.classifier.num_classes if own is None else 1)

    def __call__(self, denoise: Denoise, index: Tensor) -> ClassifierGuided:
        """The guided denoiser of samples `index` `(B,)`: of the model's classes, or class i mod their number."""
        label = self.conditioner.sample(index).class_label
        label = index % self.classifier.num_classes if label is None else label
        return ClassifierGuided(denoise, self.classifier, label, self.scale)

    def described(self, index: Tensor) -> list[str]:
        """The numbers of these classes."""
        own = self.conditioner.described(index)
        return [str(label) for label in (index % self.classifier.num_classes).tolist()] if own is None else own


def check_steering(node: Mapping[str, Any]) -> None:
    """Check what can be checked before anything is read.

    Raises:
        BadInput: An option is missing, unknown or of a wrong type.
    """
    check_given(node["classifier"], f"{_OPTION}.classifier")
    check({_OPTION: node["classifier"]})


def steering(given: ClassifierGuidance | None, model: Model, device: torch.device) -> Steering | None:
    """The classifier that is asked for, if any, for a model of its images.

    Raises:
        BadInput: It cannot be read, or classifies other images or other classes.
    """
    if given is None:
        return None
    source = construct(given.classifier, f"{_OPTION}.classifier")
    try:
        classifier: NoisyClassifier = source.read()
    except InteropError as error:
        raise BadInput(f"{_OPTION}.classifier.path={error}") from None
    if classifier.shape != tuple(model.shape):
        raise BadInput(
            f"{_OPTION}: the classifier takes {list(classifier.shape)}, and the model makes {list(model.shape)}."
        )
    classes = getattr(model.conditioner, "num_classes", classifier.num_classes)
    if classes != classifier.num_classes:
        raise BadInput(f"{_OPTION}: the classifier knows {classifier.num_classes} classes, the model {classes}.")
    digest = sha256_of(Path(given.classifier["path"]).expanduser())
    return Steering(classifier.to(device).eval().requires_grad_(False), model.conditioner, given.scale, digest)

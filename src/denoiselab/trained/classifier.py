"""A classifier of noisy samples with what gives it its input: the counterpart of `Model`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from denoiselab.codecs import Codec
from denoiselab.conditioners import Conditioner
from denoiselab.guidance import NoisyClassifier
from denoiselab.networks import base


@dataclass(frozen=True)
class ClassifierModel:
    """A classifier, the conditioner whose class labels it learns, and the codec between its input and the data.

    Args:
        classifier: Of what the codec makes of the data.
        conditioner: Gives the classes of samples.
        codec: Its `latent_shape` is that of the classifier's input.
    """

    classifier: NoisyClassifier
    conditioner: Conditioner
    codec: Codec

    @property
    def trained(self) -> NoisyClassifier:
        """What a training trains."""
        return self.classifier

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input of the classifier, without the batch."""
        return self.codec.latent_shape

    @property
    def device(self) -> torch.device:
        """Where the classifier is."""
        return base.device_of(self.classifier)

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the classifier does not train; exceptions undo it too."""
        return base.evaluating(self.classifier)

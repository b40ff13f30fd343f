"""An autoencoder in training: the counterpart of `Model`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from denoiselab.codecs import Codec
from denoiselab.conditioners import Conditioner
from denoiselab.networks import base


@dataclass(frozen=True)
class FirstStage:
    """A first stage of latent diffusion, trained on images themselves.

    Args:
        autoencoder: A `FirstStageNetwork`, which is an `nn.Module`.
        conditioner: Gives nothing.
        codec: The identity of images.
    """

    autoencoder: Any
    conditioner: Conditioner
    codec: Codec

    @property
    def trained(self) -> nn.Module:
        """What a training trains, and whose weights are averaged."""
        network: nn.Module = self.autoencoder
        return network

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, without the batch."""
        return self.codec.latent_shape

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return base.device_of(self.trained)

    def evaluating(self) -> AbstractContextManager[None]:
        """Within it the autoencoder does not train; exceptions undo it too."""
        return base.evaluating(self.trained)

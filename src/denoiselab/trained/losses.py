"""The loss of a training batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from torch import Tensor

from denoiselab.conditioners import Clean
from denoiselab.data.loading.batches import Batch
from denoiselab.model import Model
from denoiselab.noise import Noise
from denoiselab.objectives import Objective
from denoiselab.trained.classifier import ClassifierModel


class Loss(NamedTuple):
    """The loss of a batch.

    Args:
        total: Its mean over the batch, a float32 scalar with gradients.
        parts: Name to detached scalar, to be logged beside it as `train/<name>`.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = MappingProxyType({})


class BatchLoss(Protocol):
    """What differs between the kinds of what a run trains."""

    def loss(self, batch: Batch, noise: Noise, /) -> Loss:
        """The loss of a batch in the network's range; all random numbers but dropout's come from `noise`."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The training of a denoiser, or of a classifier of noisy samples, on what the codec makes of the samples.

    Args:
        model: What is trained, with its conditioner and codec.
        objective: The loss of each sample.
    """

    model: Model | ClassifierModel
    objective: Objective

    def loss(self, batch: Batch, noise: Noise) -> Loss:
        codec, conditioner = self.model.codec, self.model.conditioner
        kept = batch["kept"].float() if "kept" in batch else codec.encode_pixels(batch["images"])
        # Conditions that are made of images have them; what else asks for them gets no numbers.
        images = batch["images"] if "images" in batch else kept.new_full((), math.nan).expand(len(kept), *codec.shape)
        clean = Clean(images, batch["labels"], batch.get("captions"), batch.get("augmentation"))
        cond = conditioner.train(clean, noise)._replace(augmentation=clean.augmentation)
        x0 = codec.encode_latents(kept, noise.normal)
        return Loss(self.objective(self.model.trained, x0, noise, cond).mean())

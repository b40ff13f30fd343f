"""The loss of a training batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor, nn

from denoiselab.codecs import ReconstructionLoss
from denoiselab.conditioners import Clean
from denoiselab.model import Model
from denoiselab.noise import Noise
from denoiselab.objectives import RepresentationAlignment
from denoiselab.trained.classifier import ClassifierModel
from denoiselab.trained.first_stage import FirstStage

if TYPE_CHECKING:  # data sets take a third of the time of `import denoiselab`
    from denoiselab.data.loading.batches import Batch


class Loss(NamedTuple):
    """The loss of a batch.

    Attributes:
        total: Its mean over the batch, a float32 scalar with gradients.
        parts: Name to detached scalar, to be logged beside it as `train/<name>`.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = MappingProxyType({})


class Group(NamedTuple):
    """Parameters that the optimizer steps with one learning rate, and that are clipped together.

    Attributes:
        parameters: Of what is trained, then of the objective, each in their order.
        lr: Factor on the learning rate.
    """

    parameters: list[nn.Parameter]
    lr: float = 1.0


class BatchLoss(Protocol):
    """What differs between the kinds of what a run trains."""

    @property
    def model(self) -> Model | ClassifierModel | FirstStage:
        """What is trained."""
        ...

    def loss(self, batch: Batch, noise: Noise, images_seen: int, /) -> Loss:
        """The loss of a batch in the network's range; all random numbers but dropout's come from `noise`.

        Args:
            batch: On the device.
            noise: Of the training, at the batch's positions.
            images_seen: Before this batch, of all ranks.
        """
        ...

    def groups(self) -> list[Group]:
        """All parameters of what is trained and of the objective."""
        ...

    def idle(self, images_seen: int, /) -> list[nn.Parameter]:
        """Parameters that the optimizer leaves alone in a step whose last batch began at `images_seen`."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The training of a denoiser, or of a classifier of noisy samples, on what the codec makes of the samples.

    Args:
        model: What is trained, with its conditioner and codec.
        objective: The loss of each sample.
    """

    model: Model | ClassifierModel
    objective: nn.Module

    def groups(self) -> list[Group]:
        return [Group([*self.model.trained.parameters(), *self.objective.parameters()])]

    def idle(self, images_seen: int) -> list[nn.Parameter]:
        return []

    def loss(self, batch: Batch, noise: Noise, images_seen: int) -> Loss:
        codec, conditioner = self.model.codec, self.model.conditioner
        if "pair" in batch:
            given, kept = batch["pair"].unbind(1)
            noise = noise.paired(given)
        else:
            kept = batch["kept"].float() if "kept" in batch else codec.encode_pixels(batch["images"])
        # Conditions that are made of images have them; what else asks for them gets no numbers.
        images = batch["images"] if "images" in batch else kept.new_full((), math.nan).expand(len(kept), *codec.shape)
        clean = Clean(
            images, batch["labels"], batch.get("captions"), batch.get("augmentation"), batch.get("maps")
        )  # fmt: skip
        cond = conditioner.train(clean, noise)._replace(augmentation=clean.augmentation)
        x0 = kept if "pair" in batch else codec.encode_latents(kept, noise.normal)
        return Loss(self.objective(self.model.trained, x0, noise, cond).mean())


@dataclass(frozen=True)
class Aligning:
    """As `Denoising`, with the features of a layer of the network aligned to those of a frozen one."""

    model: Model
    objective: RepresentationAlignment

    def groups(self) -> list[Group]:
        return self._plain.groups()

    def idle(self, images_seen: int) -> list[nn.Parameter]:
        return []

    def loss(self, batch: Batch, noise: Noise, images_seen: int) -> Loss:
        with self.objective.watched(self.model.denoiser) as seen:
            total = self._plain.loss(batch, noise, images_seen).total
        cosine = self.objective.cosine(seen[-1], batch["images"])
        return Loss(total - self.objective.weight * cosine, {"alignment": cosine.detach()})

    @property
    def _plain(self) -> Denoising:
        return Denoising(self.model, self.objective)


@dataclass(frozen=True)
class Reconstructing:
    """The training of a first stage, with a discriminator if the objective has one.

    Args:
        model: What is trained.
        objective: Its loss.
    """

    model: FirstStage
    objective: ReconstructionLoss

    def groups(self) -> list[Group]:
        adversary = self.objective.adversary
        judged = [] if adversary is None else [*adversary.parameters()]
        apart = {id(parameter) for parameter in judged}
        own = [parameter for parameter in self.objective.parameters() if id(parameter) not in apart]
        first = Group([*self.model.trained.parameters(), *own])
        return [first] if adversary is None else [first, Group(judged, adversary.lr)]

    def idle(self, images_seen: int) -> list[nn.Parameter]:
        adversary = self.objective.adversary
        return [] if adversary is None or images_seen >= adversary.start else [*adversary.parameters()]

    def loss(self, batch: Batch, noise: Noise, images_seen: int) -> Loss:
        found = self.objective(self.model.autoencoder, batch["images"], noise.normal, images_seen)
        return Loss(found.total, found.parts)

"""The contract of conditioners, and what they make conditions of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec
from denoiselab.networks.conditioning import Conditioning
from denoiselab.noise import Noise


class Clean(NamedTuple):
    """A batch of the data set, from which conditions are made.

    Attributes:
        images: `(B, *)`, samples in the network's range, before any codec.
        labels: `(B,)` int64, classes.
        captions: One text a sample; None if the data have none.
        augmentation: `(B, A)`, how the images were augmented; None if they were not.
        maps: `(B, H, W)` int64, the class of each pixel; None if the data have none.
    """

    images: Tensor
    labels: Tensor
    captions: Sequence[str] | None = None
    augmentation: Tensor | None = None
    maps: Tensor | None = None

    @classmethod
    def blank(cls, count: int, shape: Sequence[int], device: torch.device | None = None) -> Clean:
        """`count` placeholder samples of a shape: zeros of class 0 with empty captions."""
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        maps = torch.zeros(count, *shape[1:], dtype=torch.int64, device=device) if len(shape) == 3 else None
        return cls(torch.zeros(count, *shape, device=device), labels, [""] * count, maps=maps)


# Held-out samples of indices `(B,)` int64, modulo their number.
HeldOut = Callable[[Tensor], Clean]


class Conditioner(ABC):
    """Makes the network's `Conditioning` in training and sampling.

    Attributes:
        names: The fields of `Conditioning` that it fills, each with one row a sample.
        strata: Sample i has the condition of sample i mod strata; 1 if conditions are independent.
        pictures: "held_out" or "train", where samples have the conditions of these data (`denoiselab.data.rows_of`).
        guided_channels: Classifier-free guidance acts on the first so many channels; None for all.
        uses_images: Whether conditions of training batches are made of their images; without them, trainings from
            stored latents read no images.
        network_options: Options of networks that its configuration sets, and what they stand for in messages.
    """

    names: frozenset[str] = frozenset()
    strata: int = 1
    pictures: str | None = None
    guided_channels: int | None = None
    uses_images: bool = True
    network_options: Mapping[str, str] = {}

    @property
    def module(self) -> nn.Module | None:
        """What of it is trained, averaged and saved with the denoiser; None for nothing."""
        return None

    @abstractmethod
    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        """The conditions `(B, ...)` of a training batch, some dropped at random by numbers of `noise`."""

    @abstractmethod
    def given(self, clean: Clean) -> Conditioning:
        """The conditions `(B, ...)` of given samples; none is dropped."""

    @abstractmethod
    def sample(self, index: Tensor) -> Conditioning:
        """The conditions of generated samples `index` `(B,)` int64, functions of the index alone.

        Raises:
            ValueError: If they are taken from held-out data and there are none.
        """

    def of(self, values: Any, device: torch.device) -> Conditioning:
        """The conditions `(B, ...)` of values as a user writes them: numbers of classes, or texts.

        Raises:
            ValueError: If the conditioner makes no conditions of them.
        """
        kind = type(self).__name__
        raise ValueError(f"cond={values!r}: it must be a denoiselab.Conditioning; {kind} makes none of such values.")

    def check(self, cond: Conditioning) -> None:  # noqa: B027
        """Refuse conditions `(B, ...)` that a user gives and the network cannot take.

        Raises:
            ValueError: If it cannot.
        """

    def classes_of(self, index: Tensor) -> Tensor | None:
        """The classes `(B,)` int64 of generated samples `index` `(B,)`; None for samples of no class."""
        return self.sample(index).class_label

    def described(self, index: Tensor) -> list[str] | None:
        """The conditions of generated samples `index` `(B,)` in words, for captions of pictures; None for no words."""
        return None

    def null(self, index: Tensor) -> Conditioning:
        """The null conditions of samples `index` `(B,)` for classifier-free guidance; no fields if there are none."""
        return Conditioning()

    def set_held_out(self, held_out: HeldOut) -> None:  # noqa: B027
        """Set the held-out data from which conditions of generated samples are taken."""

    def load(self) -> None:  # noqa: B027
        """Read frozen models that it uses, unless they have been read.

        Raises:
            ValueError: If they cannot be read.
        """

    def set_codec(self, codec: Codec) -> None:  # noqa: B027
        """Set the model's codec, for conditions that are latents of images."""


class Unconditional(Conditioner):
    """No conditioning."""

    uses_images = False

    def train(self, clean: Clean, noise: Noise) -> Conditioning:
        return Conditioning()

    def given(self, clean: Clean) -> Conditioning:
        return Conditioning()

    def sample(self, index: Tensor) -> Conditioning:
        return Conditioning()

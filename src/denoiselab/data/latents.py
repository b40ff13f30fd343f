"""Latents of a data set in files, with which a network is trained without the encoder.

A folder holds shards of what `Codec.encode_pixels` gives, of a KL autoencoder means and log-variances, so that latents
are still drawn and normalised in training. Mirrored latents are not the latents of mirrored images, so both are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.data.array_shards import ArrayShards
from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.noise import AUGMENTING, LOADING, Noise


class LatentStore(ArrayShards):
    """The files of a set's latents, mapped into memory."""

    facts_name: ClassVar[str] = "latents.json"
    option: ClassVar[str] = "latents"
    maker: ClassVar[str] = "python -m denoiselab.convert to=latents"

    @property
    def crops(self) -> int | None:
        """Random crops of each image; None if images are not cropped at random."""
        crops: int | None = self.facts["crops"]
        return crops

    @property
    def flips(self) -> bool:
        """Whether the mirrored images are there."""
        return bool(self.facts["flips"])

    def kept(self, index: Tensor, crop: Tensor | int = 0, mirrored: Tensor | bool = False) -> Tensor:
        """What the codec keeps of some images, `(B, *)` as it is stored.

        Args:
            index: Of the images, `(B,)` int64.
            crop: Which crop of each, `(B,)` int64.
            mirrored: Whether each is mirrored, `(B,)` bool.
        """
        return self.rows(index, crop * (1 + self.flips) + mirrored)


@dataclass(frozen=True)
class StoredLatents:
    """What a training reads of a store.

    Args:
        store: Of the training images.
        seed: Of the run.
        flip: Mirror as it does images in training, by the same random numbers; None for not at all.
        images: Whether batches have their images, too, for conditions that are made of them.
    """

    store: LatentStore
    seed: int
    flip: HorizontalFlip | None
    images: bool

    def drawn(self, index: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """What the codec keeps of the images at `index` `(B,)` of classes `labels`, in a batch at `position` `(B,)`."""
        crop: Tensor | int = 0
        if self.store.crops is not None:
            crop = (Noise(self.seed, position, LOADING).uniform() * self.store.crops).long()
        mirrored: Tensor | bool = False
        if self.flip is not None:
            mirrored = Noise(self.seed, position, AUGMENTING).uniform() < 0.5
            mirrored &= ~torch.isin(labels, torch.tensor(self.flip.except_classes))
        return self.store.kept(index, crop, mirrored)

"""Images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiselab.data.base import InMemory
from denoiselab.stored import as_inputs


@dataclass(frozen=True, eq=False)
class ImageSet(InMemory):
    """Labelled images in memory.

    Args:
        images: `(N, C, H, W)` uint8.
    """

    images: Tensor
    labels: Tensor
    captions: Sequence[str] | None = None

    @property
    def samples(self) -> Tensor:
        return self.images

    def inputs(self, index: Tensor) -> Tensor:
        return as_inputs(self.images[index])

    def fresh(self, n: int, number: int) -> None:
        """None: the density of images is unknown."""

    def split(self, fraction: float) -> tuple[ImageSet, ImageSet]:
        """(train, validation): the hash of an image's bytes decides, so that copies stay together."""
        hashes = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in self.images]
        held_out = torch.tensor([int.from_bytes(h[:8], "big") < fraction * 2**64 for h in hashes])
        return self.subset(~held_out), self.subset(held_out)

    def subset(self, which: Tensor) -> ImageSet:
        """The images that a boolean mask or an index tensor `(M,)` selects, copied."""
        rows = torch.arange(len(self))[which]
        captions = None if self.captions is None else [self.captions[i] for i in rows.tolist()]
        return ImageSet(self.images[rows], self.labels[rows], captions)

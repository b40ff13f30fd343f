"""Sets of images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from denoiselab.data.base import digest
from denoiselab.noise import Noise
from denoiselab.stored import as_inputs


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in memory.

    Args:
        images: `(N, C, H, W)` uint8.
        labels: `(N,)` int64.
        captions: One an image; None where there are none.
    """

    workers: ClassVar[int] = 0

    images: Tensor
    labels: Tensor
    captions: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of shape, images and labels."""
        return digest(self.images, self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    def stored(self, index: Tensor) -> Tensor:
        """The images at `index` `(B,)` as bytes, `(B, C, H, W)`."""
        return self.images[index]

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        """As `stored`."""
        return self.images[index]

    def inputs(self, index: Tensor) -> Tensor:
        """The images at `index` `(B,)` as the network sees them."""
        return as_inputs(self.images[index])

    def fresh(self, n: int, number: int) -> None:
        """None: nobody knows the density of images."""

    def split(self, fraction: float) -> tuple[ImageSet, ImageSet]:
        """(train, validation): an image is held out by the hash of its bytes, so copies never part."""
        hashes = [hashlib.sha256(image.contiguous().numpy().tobytes()).digest() for image in self.images]
        held_out = torch.tensor([int.from_bytes(h[:8], "big") < fraction * 2**64 for h in hashes])
        return self.subset(~held_out), self.subset(held_out)

    def subset(self, which: Tensor) -> ImageSet:
        """The images that a boolean mask or an index tensor `(M,)` selects, copied."""
        rows = torch.arange(len(self))[which]
        captions = None if self.captions is None else [self.captions[i] for i in rows.tolist()]
        return ImageSet(self.images[rows], self.labels[rows], captions)


def check_shape(images: Tensor, shape: Sequence[int], name: str) -> None:
    """Refuse a configured shape that is not the data set's.

    Raises:
        ValueError: They differ.
    """
    if tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(f"data.shape={list(shape)}: images of {name} have shape {list(images.shape[1:])}.")

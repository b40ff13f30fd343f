"""Images in files as a data set: decoded into a memory map, or at each access."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from denoiselab.data.reading.decoding import Decoder, WrongSize, read
from denoiselab.data.reading.depth import UnknownDepth
from denoiselab.data.reading.first_pass import Prepared
from denoiselab.data.reading.label_maps import LabelMaps
from denoiselab.data.reading.records import Records, Reopened, Strings
from denoiselab.noise import Noise
from denoiselab.stored import as_inputs


class Pixels(Protocol):
    """Images of one shape by their rows."""

    def stored(self, rows: Tensor) -> Tensor:
        """Bytes `(B, C, H, W)` of `rows` `(B,)`.

        Raises:
            ValueError: If an image cannot be read, or has a wrong size; the message names it.
        """

    def drawn(self, rows: Tensor, noise: Noise) -> Tensor:
        """As `stored`, with random crops drawn from `noise` for resize=random_crop."""


@dataclass(frozen=True)
class MappedPixels(Reopened, Pixels):
    """Decoded images in a memory-mapped file, whose pages all processes of a machine share.

    Args:
        path: Of an array `(N, C, H, W)` uint8.
    """

    path: Path

    @cached_property
    def _images(self) -> Tensor:
        # Copy-on-write, since torch has no read-only tensors; it is never written.
        return torch.from_numpy(np.load(self.path, mmap_mode="c"))

    def stored(self, rows: Tensor) -> Tensor:
        return self._images[rows]

    def drawn(self, rows: Tensor, noise: Noise) -> Tensor:
        return self._images[rows]


@dataclass(frozen=True)
class DecodedPixels(Pixels):
    """Images decoded at each access."""

    records: Records
    decoder: Decoder

    def stored(self, rows: Tensor) -> Tensor:
        return self._read(rows, [None] * len(rows))

    def drawn(self, rows: Tensor, noise: Noise) -> Tensor:
        if self.decoder.resize != "random_crop":
            return self.stored(rows)
        return self._read(rows, noise.uniform((3,)).tolist())

    def _read(self, rows: Tensor, random: Sequence[Sequence[float] | None]) -> Tensor:
        out = torch.empty(len(rows), *self.decoder.shape, dtype=torch.uint8)
        for place, (row, numbers) in enumerate(zip(rows.tolist(), random, strict=True)):
            try:
                original = read(self.records, row, self.decoder)
                out[place] = torch.from_numpy(self.decoder.resized(original, numbers))
            except (WrongSize, UnknownDepth) as error:
                raise ValueError(f"data: {self.records.describe(row)}: {error}.") from None
        return out


@dataclass(frozen=True, eq=False)
class RecordSet:
    """A `DataSet` of some or all images of a source.

    Args:
        pixels: Images by their rows.
        rows: Of this set, `(N,)` int64.
        hashes: `(N, 32)` uint8, from the first pass.
        recipe: Shape, resizing and depth, for the fingerprint.
        workers: Processes that load batches in advance during training.
        label_maps: The class of each pixel, by rows; None if there are no such maps.
    """

    pixels: Pixels
    shape: tuple[int, ...]
    rows: Tensor
    labels: Tensor
    captions: Sequence[str] | None
    hashes: Tensor
    recipe: str
    workers: int
    label_maps: LabelMaps | None = None

    @staticmethod
    def of(records: Records, decoder: Decoder, prepared: Prepared, workers: int | None) -> RecordSet:
        """All readable images of a source."""
        rows = torch.tensor([i for i in range(len(records)) if i not in prepared.bad], dtype=torch.int64)
        pixels: Pixels
        if prepared.pixels is None:
            ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            cores = max(1, len(os.sched_getaffinity(0)) // ranks)
            pixels, many = DecodedPixels(records, decoder), cores if workers is None else workers
        else:
            pixels, many = MappedPixels(prepared.pixels), 0
        return RecordSet(
            pixels=pixels,
            shape=decoder.shape,
            rows=rows,
            labels=records.labels[rows],
            captions=_chosen(records.captions, rows),
            hashes=torch.from_numpy(prepared.hashes)[rows],
            recipe=f"{decoder.shape} {decoder.resize.replace('random', 'center')}"
            + ("" if decoder.bit_depth is None else f" {decoder.bit_depth} bits"),
            workers=many,
        )

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the images' hashes, the recipe and the labels."""
        out = hashlib.sha256(self.recipe.encode())
        out.update(self.hashes.numpy().tobytes())
        out.update(self.labels.contiguous().numpy().tobytes())
        if self.label_maps is not None:
            out.update(self.label_maps.identity.encode())
        return out.hexdigest()

    @property
    def maps(self) -> Callable[[Tensor], Tensor] | None:
        """Of `DataSet`."""
        maps = self.label_maps
        return None if maps is None else lambda index: maps(self.rows[index])

    def stored(self, index: Tensor) -> Tensor:
        return self.pixels.stored(self.rows[index])

    def drawn(self, index: Tensor, noise: Noise) -> Tensor:
        return self.pixels.drawn(self.rows[index], noise)

    def inputs(self, index: Tensor) -> Tensor:
        return as_inputs(self.stored(index))

    def fresh(self, n: int, number: int) -> None:
        """None: the density of images is unknown."""

    def hashed_below(self, fraction: float) -> Tensor:
        """Whether each image's hash is in the first `fraction` of all possible hashes, `(N,)` bool."""
        first = self.hashes[:, :8].numpy().copy().view(">u8")[:, 0]
        return torch.from_numpy(first < np.uint64(math.ceil(fraction * 2**64)))

    def subset(self, which: Tensor) -> RecordSet:
        """The images that a boolean mask or an index tensor `(M,)` selects."""
        places = torch.arange(len(self))[which]
        return replace(
            self,
            rows=self.rows[places],
            labels=self.labels[places],
            captions=_chosen(self.captions, places),
            hashes=self.hashes[places],
        )


def _chosen(captions: Sequence[str] | None, places: Tensor) -> Sequence[str] | None:
    return None if captions is None else Strings(captions[i] for i in places.tolist())

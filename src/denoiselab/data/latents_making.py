"""Writes the latents of a data set to shards; a stopped or killed conversion continues with the first missing shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from denoiselab.data.array_writing import ShardWriter
from denoiselab.data.base import DataSet
from denoiselab.data.latents import LatentStore
from denoiselab.noise import LOADING, Noise
from denoiselab.stored import as_inputs

_CROPS: Final = 2**62  # seeds of crops, which are no training's


@dataclass(frozen=True)
class Making:
    """How latents are made.

    Args:
        encode: `Codec.encode_pixels`.
        of: The codec and the data, plain containers: what a training must have, too.
        device: On which images are encoded.
        flips: Encode mirrored images, too.
        crops: Random crops of each image; None if its source does not crop at random.
        dtype: "float32", or "float16", which takes half the space and rounds.
        images_per_shard: At least 1.
        batch_size: Images encoded at a time; latents depend on it by rounding errors.
    """

    encode: Callable[[Tensor], Tensor]
    of: Mapping[str, Any]
    device: torch.device
    flips: bool = True
    crops: int | None = None
    dtype: str = "float32"
    images_per_shard: int = 10000
    batch_size: int = 64

    def write(self, data: DataSet, out: Path, check: Callable[[], None] = lambda: None) -> LatentStore:
        """Write the latents of all samples; the files are equal, byte for byte, each time.

        Args:
            data: Images.
            out: A folder, new or of the same conversion.
            check: Called after each batch; an exception stops the conversion.

        Raises:
            BadInput: If the folder holds something else, or a latent is not finite.
            OSError: If the folder cannot be written.
        """
        options = ("flips", "crops", "dtype", "images_per_shard", "batch_size")
        plan = {"of": self.of, "n": len(data), **{name: getattr(self, name) for name in options}}
        variants = partial(self._variants, data)
        ShardWriter(LatentStore, plan, variants, self.batch_size, "encoding").write(out, check)
        return LatentStore.open(out, verify=False)

    def _variants(self, data: DataSet, index: Tensor) -> list[Tensor]:
        """What is kept of each crop of images `index` `(B,)`, and of its mirror image."""
        out = []
        for crop in range(self.crops or 1):
            noise = Noise(_CROPS + crop, index, LOADING)
            stored = data.stored(index) if self.crops is None else data.drawn(index, noise)
            x = as_inputs(stored.to(self.device))
            for images in (x, x.flip(-1)) if self.flips else (x,):
                out.append(self.encode(images).to("cpu", getattr(torch, self.dtype)).contiguous())
        return out

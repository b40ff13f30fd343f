"""Latents of a data set in files, with which a network is trained without the encoder.

A folder holds shards of what `Codec.encode_pixels` gives, of a KL autoencoder means and log-variances, so that latents
are still drawn and normalised in training. Mirrored latents are not the latents of mirrored images, so both are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from denoiselab.data.augmentation import HorizontalFlip
from denoiselab.errors import BadInput
from denoiselab.files import read_json, sha256_of
from denoiselab.noise import AUGMENTING, LOADING, Noise

FACTS: Final = "latents.json"

# What is in `FACTS`, besides `of`.
_KEYS = {"format", "n", "shape", "dtype", "flips", "crops", "images_per_shard", "shards"}


@dataclass(frozen=True)
class LatentStore:
    """The files of a set's latents, mapped into memory.

    Args:
        folder: Of `latents.json` and the shards.
        facts: Content of `latents.json`.
    """

    folder: Path
    facts: Mapping[str, Any]

    @staticmethod
    def open(folder: Path, *, verify: bool = True) -> LatentStore:
        """The store in a folder.

        Args:
            folder: As the conversion wrote it.
            verify: Compare the checksums of all shards; otherwise their sizes alone.

        Raises:
            BadInput: If it is none, or a shard is missing, truncated or changed.
        """
        try:
            facts = read_json(folder / FACTS)
            if not facts.keys() >= _KEYS or facts["format"] != 1:
                raise ValueError("not of this version of the program")
        except OSError:
            raise BadInput(
                f"latents={folder}: has no {FACTS}; name a folder that python -m denoiselab.convert to=latents wrote "
                "and finished."
            ) from None
        except ValueError as error:
            raise BadInput(f"latents={folder}: its {FACTS} is {error}.") from None
        for shard in facts["shards"]:
            file = folder / shard["name"]
            size = file.stat().st_size if file.is_file() else None
            if size is None or size != shard["bytes"] or (verify and sha256_of(file) != shard["sha256"]):
                what = "is missing" if size is None else "has changed"
                what = (
                    f"has {size:,} bytes instead of {shard['bytes']:,}" if size not in (None, shard["bytes"]) else what
                )
                raise BadInput(f"latents={folder}: {shard['name']} {what}; make it again by the same conversion.")
        return LatentStore(folder, facts)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "facts": self.facts}  # another process maps the files itself

    def __len__(self) -> int:
        return int(self.facts["n"])

    @property
    def crops(self) -> int | None:
        """Random crops of each image; None if images are not cropped at random."""
        crops: int | None = self.facts["crops"]
        return crops

    @property
    def flips(self) -> bool:
        """Whether the mirrored images are there."""
        return bool(self.facts["flips"])

    @cached_property
    def _shards(self) -> list[Tensor]:
        # Copy-on-write, since torch has no read-only tensors; they are never written.
        files = (self.folder / shard["name"] for shard in self.facts["shards"])
        return [torch.from_numpy(np.load(file, mmap_mode="c")) for file in files]

    def kept(self, index: Tensor, crop: Tensor | int = 0, mirrored: Tensor | bool = False) -> Tensor:
        """What the codec keeps of some images, `(B, *)` as it is stored.

        Args:
            index: Of the images, `(B,)` int64.
            crop: Which crop of each, `(B,)` int64.
            mirrored: Whether each is mirrored, `(B,)` bool.
        """
        variant = (crop * (1 + self.flips) + mirrored) * torch.ones_like(index)
        shard, row = index // self.facts["images_per_shard"], index % self.facts["images_per_shard"]
        out = torch.empty(len(index), *self.facts["shape"], dtype=getattr(torch, self.facts["dtype"]))
        for number in shard.unique().tolist():
            here = shard == number
            out[here] = self._shards[number][row[here], variant[here]]
        return out


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

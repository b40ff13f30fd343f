"""Writes the latents of a data set to shards; a stopped or killed conversion continues with the first missing shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from denoiselab import progress
from denoiselab.data.base import DataSet
from denoiselab.data.conversion import SUMS, known_shard
from denoiselab.data.latents import FACTS, LatentStore
from denoiselab.errors import BadInput
from denoiselab.files import read_json, replacing, sha256_of, write_json, write_text
from denoiselab.noise import LOADING, Noise
from denoiselab.stored import as_inputs

_PLAN: Final = ".plan.json"
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
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / _PLAN).is_file()):
            raise BadInput(f"out={out}: it exists, and holds no latents; choose a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            if not (out / _PLAN).is_file():
                write_json(out / _PLAN, plan)
            elif (former := read_json(out / _PLAN)) != plan:
                others = ", ".join(name for name in plan if former.get(name) != plan[name])
                raise BadInput(f"out={out}: it holds latents made with another {others}; choose a new folder.")
            for half in out.glob(".*.tmp"):
                half.unlink()
            shards, shape = [], None
            starts = range(0, len(data), self.images_per_shard)
            with progress.bar("encoding", len(data)) as bar:

                def advance(count: int) -> None:
                    bar.update(count)
                    check()

                for number, start in enumerate(starts):
                    rows = torch.arange(start, min(start + self.images_per_shard, len(data)))
                    path = out / f"{number:06d}.npy"
                    facts = known_shard(path)
                    if facts is None:
                        facts = self._shard(data, rows, path, advance)
                        write_json(path.with_name(f".{path.name}.json"), facts)
                    else:
                        bar.update(len(rows))
                    shards.append({key: facts[key] for key in ("name", "n", "bytes", "sha256")})
                    shape = facts["shape"]
            write_text(out / SUMS, "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in shards))
            write_json(out / FACTS, {"format": 1, **plan, "shape": shape, "shards": shards})
        return LatentStore.open(out, verify=False)

    def _shard(self, data: DataSet, rows: Tensor, path: Path, advance: Callable[[int], object]) -> dict[str, Any]:
        """Write a shard; facts on it."""
        with replacing(path) as temporary:
            array = None
            for index in rows.split(self.batch_size):
                kept = torch.stack([*self._variants(data, index)], dim=1)  # (B, variants, *)
                if not bool(kept.isfinite().all()):
                    raise BadInput(
                        f"latents of images {int(index[0])} to {int(index[-1])} are not finite as {self.dtype}."
                    )
                if array is None:
                    shape = (len(rows), *kept.shape[1:])
                    array = np.lib.format.open_memmap(temporary, "w+", np.dtype(self.dtype), shape)
                array[index - rows[0]] = kept.numpy()
                advance(len(index))
            assert array is not None
            array.flush()
            size = temporary.stat().st_size
        return {
            "name": path.name,
            "n": len(rows),
            "bytes": size,
            "sha256": sha256_of(path),
            "shape": list(array.shape[2:]),
        }

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

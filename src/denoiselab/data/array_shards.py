"""Rows of an array in shards: `.npy` files in a folder, verified when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from denoiselab.errors import BadInput
from denoiselab.files import read_json, sha256_of

# What facts have besides the plan, which has `n` and `dtype` too.
_KEYS = {"format", "n", "shape", "dtype", "images_per_shard", "shards"}


@dataclass(frozen=True)
class ArrayShards:
    """A folder of shards, mapped into memory: of each row some variants of one shape.

    Attributes:
        facts_name: The file of facts, which is written last.
        option: That names such a folder, for messages.
        maker: What writes such a folder, for messages.

    Args:
        folder: Of the facts and the shards.
        facts: Content of the file of facts.
    """

    facts_name: ClassVar[str]
    option: ClassVar[str]
    maker: ClassVar[str]

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> Self:
        """The shards in a folder.

        Args:
            folder: As `maker` wrote it.
            verify: Compare the checksums of all shards; otherwise their sizes alone.

        Raises:
            BadInput: If it is none, or a shard is missing, truncated or changed.
        """
        try:
            facts = read_json(folder / cls.facts_name)
            if not facts.keys() >= _KEYS or facts["format"] != 1:
                raise ValueError("not of this version of the program")
        except OSError:
            found = f"has no {cls.facts_name}" if folder.exists() else "no such folder"
            raise BadInput(
                f"{cls.option}={folder}: {found}; name a folder that {cls.maker} wrote and finished."
            ) from None
        except ValueError as error:
            raise BadInput(f"{cls.option}={folder}: its {cls.facts_name} is {error}.") from None
        for shard in facts["shards"]:
            file = folder / shard["name"]
            size = file.stat().st_size if file.is_file() else None
            if size is None or size != shard["bytes"] or (verify and sha256_of(file) != shard["sha256"]):
                what = "is missing" if size is None else "has changed"
                if size not in (None, shard["bytes"]):
                    what = f"has {size:,} bytes instead of {shard['bytes']:,}"
                raise BadInput(f"{cls.option}={folder}: {shard['name']} {what}; make it again by the same command.")
        return cls(folder, facts)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "facts": self.facts}  # another process maps the files itself

    def __len__(self) -> int:
        return int(self.facts["n"])

    @cached_property
    def _shards(self) -> list[Tensor]:
        # Copy-on-write, since torch has no read-only tensors; they are never written.
        files = (self.folder / shard["name"] for shard in self.facts["shards"])
        return [torch.from_numpy(np.load(file, mmap_mode="c")) for file in files]

    def rows(self, index: Tensor, variant: Tensor | int) -> Tensor:
        """A variant of each of some rows, `(B, *)` as it is stored.

        Args:
            index: Of the rows, `(B,)` int64.
            variant: `(B,)` int64, or one for all.
        """
        variant = variant * torch.ones_like(index)
        shard, row = index // self.facts["images_per_shard"], index % self.facts["images_per_shard"]
        out = torch.empty(len(index), *self.facts["shape"], dtype=getattr(torch, self.facts["dtype"]))
        for number in shard.unique().tolist():
            here = shard == number
            out[here] = self._shards[number][row[here], variant[here]]
        return out

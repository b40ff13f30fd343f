"""Writes rows of an array to shards; a stopped or killed one continues with the first missing shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from denoiselab import progress
from denoiselab.data.array_shards import ArrayShards
from denoiselab.data.conversion import SUMS, known_shard
from denoiselab.errors import BadInput
from denoiselab.files import read_json, replacing, sha256_of, write_json, write_text

_PLAN: Final = ".plan.json"


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of a folder.

    Args:
        kind: Of the folder.
        plan: What the content depends on, plain containers, with `n`, `dtype` and `images_per_shard`.
        variants: Gives those of rows `(B,)`, each `(B, *)`, on the CPU and of `dtype`.
        batch_size: Rows that it is asked for at a time.
        what: Title of the progress bar.
    """

    kind: type[ArrayShards]
    plan: Mapping[str, Any]
    variants: Callable[[Tensor], Sequence[Tensor]]
    batch_size: int
    what: str

    def write(self, out: Path, check: Callable[[], None] = lambda: None) -> None:
        """Write all shards, then the facts; the files are equal, byte for byte, each time.

        Args:
            out: A folder, new or of the same plan.
            check: Called after each batch; an exception stops the work.

        Raises:
            BadInput: If the folder holds something else, or a row is not finite.
            OSError: If the folder cannot be written.
        """
        option, plan = self.kind.option, {**self.plan}
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / _PLAN).is_file()):
            raise BadInput(f"out={out}: it exists, and holds no {option}; choose a new folder.")
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            if not (out / _PLAN).is_file():
                write_json(out / _PLAN, plan)
            elif (former := read_json(out / _PLAN)) != plan:
                others = ", ".join(name for name in plan if former.get(name) != plan[name])
                raise BadInput(f"out={out}: it holds {option} made with another {others}; choose a new folder.")
            for half in out.glob(".*.tmp"):
                half.unlink()
            shards, shape, n, size = [], None, plan["n"], plan["images_per_shard"]
            with progress.bar(self.what, n) as bar:

                def advance(count: int) -> None:
                    bar.update(count)
                    check()

                for number, start in enumerate(range(0, n, size)):
                    rows = torch.arange(start, min(start + size, n))
                    path = out / f"{number:06d}.npy"
                    facts = known_shard(path)
                    if facts is None:
                        facts = self._shard(rows, path, advance)
                        write_json(path.with_name(f".{path.name}.json"), facts)
                    else:
                        bar.update(len(rows))
                    shards.append({key: facts[key] for key in ("name", "n", "bytes", "sha256")})
                    shape = facts["shape"]
            write_text(out / SUMS, "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in shards))
            write_json(out / self.kind.facts_name, {"format": 1, **plan, "shape": shape, "shards": shards})

    def _shard(self, rows: Tensor, path: Path, advance: Callable[[int], object]) -> dict[str, Any]:
        """Write a shard; facts on it."""
        dtype = self.plan["dtype"]
        with replacing(path) as temporary:
            array = None
            for index in rows.split(self.batch_size):
                kept = torch.stack([*self.variants(index)], dim=1)  # (B, variants, *)
                if not bool(kept.isfinite().all()):
                    what = f"{self.kind.option} of images {int(index[0])} to {int(index[-1])}"
                    raise BadInput(f"{what} are not finite as {dtype}.")
                if array is None:
                    shape = (len(rows), *kept.shape[1:])
                    array = np.lib.format.open_memmap(temporary, "w+", np.dtype(dtype), shape)
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

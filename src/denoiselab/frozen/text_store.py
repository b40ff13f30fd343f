"""Features of texts in files, so that a training needs no encoder in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from denoiselab.files import atomic, matches_sum, write_sum

_MANIFEST = "encoder.json"


class TextStore:
    """Features of texts by the texts' sha256, in half precision, without those of tokens that nobody reads.

    A file holds the features of its texts one after the other, `(T, D)` float16, where each begins, `(N + 1,)` int64,
    which tokens count, `(N, L)` bool, the texts' hashes and, if there are any, their vectors `(N, V)` float16. A second
    file has its checksum. Texts are added by a further file, whole or not at all.

    Args:
        folder: Of all encoders.
        encoder: All that features depend on beside the text, plain containers; its hash names the encoder's folder.
        ragged: Leave out the features of tokens that do not count.

    Raises:
        ValueError: If `folder` is a file, or a file in it is damaged.
    """

    def __init__(self, folder: Path, encoder: Mapping[str, Any], *, ragged: bool) -> None:
        if any(place.is_file() for place in (folder, *folder.parents)):
            raise ValueError(f"store={folder}: is a file or within one; name a folder.")
        key = hashlib.sha256(json.dumps(encoder, sort_keys=True).encode()).hexdigest()
        self.folder, self._encoder, self._ragged = folder / key[:16], encoder, ragged
        self._places: dict[bytes, tuple[dict[str, Tensor], int]] = {}
        self._read: set[str] = set()
        self._refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        return _hash(text) in self._places

    def __getitem__(self, text: str) -> tuple[Tensor, ...]:
        """Features `(L, D)` float32, zeros where they were left out, the mask `(L,)`, and the vector `(V,)`, if any."""
        part, row = self._places[_hash(text)]
        start, end = part["offsets"][row : row + 2].tolist()
        mask = part["mask"][row].bool()
        features = torch.zeros(len(mask), part["features"].shape[1])
        features[mask if self._ragged else slice(None)] = part["features"][start:end].float()
        return features, mask, *([part["vectors"][row].float()] if "vectors" in part else [])

    def add(self, texts: Sequence[str], features: Tensor, mask: Tensor, *vectors: Tensor) -> None:
        """Write the features `(N, L, D)` of texts, which tokens count, `(N, L)`, and their vectors `(N, V)`, if any."""
        kept = mask if self._ragged else torch.ones_like(mask)
        ends = kept.sum(1).cumsum(0)
        tensors = {
            "features": features[kept].half(),
            "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), ends]),
            "mask": mask.contiguous(),
            "texts": torch.frombuffer(bytearray(b"".join(map(_hash, texts))), dtype=torch.uint8).view(-1, 32),
            **({"vectors": vectors[0].half().contiguous()} if vectors else {}),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if not (self.folder / _MANIFEST).exists():
                with atomic(self.folder / _MANIFEST, "w") as file:
                    json.dump(self._encoder, file, indent=1)
            last = max((int(path.stem) for path in self.folder.glob("*.safetensors")), default=-1)
            path = self.folder / f"{last + 1:05d}.safetensors"
            with atomic(path) as file:
                file.write(save(tensors))
            write_sum(path)
        self._refresh()

    def _refresh(self) -> None:
        """Read the files that were not there before."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name in self._read:
                continue
            try:
                if not matches_sum(path):
                    raise ValueError("its checksum is another one")
                with safe_open(path, framework="pt") as file:
                    part = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                hashes = part["texts"].numpy().tobytes()
                self._places |= {hashes[32 * row : 32 * row + 32]: (part, row) for row in range(len(part["texts"]))}
            except (FileNotFoundError, SafetensorError, ValueError, KeyError) as error:
                raise ValueError(
                    f"store={self.folder.parent}: {path} is damaged ({error}); delete it, and its texts are encoded "
                    "again."
                ) from None
            self._read.add(path.name)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

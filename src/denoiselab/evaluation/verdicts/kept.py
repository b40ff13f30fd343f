"""Files of the influences of a cell's scores."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from denoiselab.evaluation.contracts import Influences
from denoiselab.files import atomic, packed_member

_ARRAYS = ("first", "second", "blocks")


def write(path: Path, influences: Mapping[str, Influences]) -> None:
    """Write the influences of a cell, by metric, as float32, atomically: an `.npz`, whose arrays have checksums.

    Raises:
        OSError: If they cannot be written.
    """
    arrays: dict[str, Any] = {}
    for metric, one in influences.items():
        arrays[f"{metric}/shape"] = np.array([one.n, one.strata], dtype=np.int64)
        for name in _ARRAYS:
            arrays[f"{metric}/{name}"] = getattr(one, name).cpu().numpy().astype(np.float32)
    if arrays:
        with atomic(path) as file:
            np.savez(file, **arrays)


def read(path: Path) -> dict[str, Influences]:
    """The influences in a file, by metric; empty if it is missing or damaged."""
    if not path.is_file() or packed_member(path) is not None:
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            metrics = [name.removesuffix("/shape") for name in file.files if name.endswith("/shape")]
            return {metric: _read(file, metric) for metric in metrics}
    except (OSError, ValueError, TypeError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return {}


def _read(file: Mapping[str, Any], metric: str) -> Influences:
    n, strata = file[f"{metric}/shape"].tolist()
    first, second, blocks = (torch.from_numpy(file[f"{metric}/{name}"]) for name in _ARRAYS)
    if n < len(first) or strata < 1 or not all(x.ndim == 1 and x.isfinite().all() for x in (first, second, blocks)):
        raise ValueError("not influences")
    return Influences(first, second, n, strata, blocks)

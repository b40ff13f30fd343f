"""What a number measured on a checkpoint depends on, and the data that it is measured on."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denoiselab.data import DataSet
from denoiselab.errors import BadInput
from denoiselab.model import digest
from denoiselab.pretrained import Loaded


def protocol(
    loaded: Loaded, path: Path, checkpoint: str, weights: str, data: DataSet, split: str, packages: Sequence[str] = ()
) -> dict[str, Any]:
    """What a number measured on data of a checkpoint's run depends on, beside how it was measured.

    `path` is the checkpoint's file, `checkpoint` its sha256; `packages` count beside this one and torch.
    """
    return {
        "data": loaded.config["data"]["name"],
        "split": split,
        "split_n": len(data),
        "split_sha256": data.fingerprint,
        "dimensions": math.prod(data.shape),
        "conditional": bool(loaded.model.conditioner.names),
        "weights": weights,
        "weights_sha256": digest(loaded.model.denoiser),
        "images_seen": loaded.images_seen,
        "checkpoint": str(path.resolve()),
        "checkpoint_sha256": checkpoint,
        "dtype": "float32",
        "versions": {name: importlib.metadata.version(name) for name in ("denoiselab", "torch", *packages)},
    }


def split_of(train: DataSet, held_out: DataSet, name: str, split: str, wanted: int) -> DataSet:
    """The data that `split` names, "train" or "held_out", of the data set `name`."""
    data = {"train": train, "held_out": held_out}[split]
    if not len(data):
        raise BadInput(f"task.split={split}: {name} of this checkpoint has no such data; use task.split=train.")
    if wanted > len(data):
        raise BadInput(f"task.num_samples={wanted}: {name} has {len(data)} in task.split={split}; give at most that.")
    return data

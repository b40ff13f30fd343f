"""Checkpoints: written atomically, read without running code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from denoiselab.files import atomic
from denoiselab.training.module import CHECKPOINT_KEY

# Where a run directory keeps them, and the names of the newest and of the one with the best score.
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoint files, atomic on every file system and safe to read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint`; an interruption leaves the former file."""
        try:
            with atomic(Path(path)) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch does not say why a write failed
            raise OSError(f"{path}: cannot be written; is the disk full?") from error

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; `weights_only` is always on."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of ours: tensors and plain containers, nothing that runs.

    Raises:
        CheckpointError: The file is missing, damaged, not ours, or holds pickled objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such run directory or checkpoint file.")
    damaged = CheckpointError(f"{path}: damaged or truncated, or not a checkpoint.")
    if not zipfile.is_zipfile(path):
        raise damaged
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path}: holds pickled objects, which could run code; it is not loaded.") from None
    except (RuntimeError, EOFError, OSError, ValueError):
        raise damaged from None
    ours = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if (
        not isinstance(ours, dict)
        or "state_dict" not in checkpoint
        or not {"format", "images_seen", "config", "ema"} <= ours.keys()
    ):
        raise CheckpointError(f"{path}: not a checkpoint of denoiselab.")
    if ours["format"] != 1:
        raise CheckpointError(f"{path}: has format {ours['format']}; this version reads format 1.")
    return checkpoint


def check_weights(path: Path, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights of another network.

    Raises:
        CheckpointError: A name or a shape differs.
    """
    for name in sorted(expected.keys() ^ found.keys()):
        where = "lacks" if name in expected else "has an unknown"
        raise CheckpointError(f"{path}: belongs to another network: it {where} '{name}'.")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: belongs to another network: '{name}' has shape {list(found[name].shape)}, "
                f"this network's has {list(tensor.shape)}."
            )

"""Paths that the programs for a checkpoint read and write."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from denoiselab import files
from denoiselab.app.runs.devices import is_leader
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.training import checkpoint_files


def checkpoint_file(ckpt: str | Sequence[str]) -> Path:
    """The checkpoint that `ckpt` names: a file, or a run's newest."""
    path = Path(str(ckpt))
    if glob.has_magic(str(path)) and not path.exists():
        raise BadInput(f"ckpt={path}: a pattern is for task=frontier; name one run directory or checkpoint file.")
    return newest(path)


def newest(path: Path, option: str = "ckpt") -> Path:
    """The newest whole checkpoint of a run's directory; any other path is returned as it is."""
    file, warning = checkpoint_files.newest(path, option)
    if warning and is_leader():
        console(stderr=True).print(f"warning: {warning}")
    return file


def device_of(accelerator: str) -> torch.device:
    """The device that `accelerator` names: auto, cpu or gpu."""
    on_gpu = accelerator == "gpu" or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if on_gpu else "cpu")


def check_accelerator(accelerator: str) -> None:
    """Refuse a GPU that is not there."""
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise BadInput("accelerator=gpu: this machine has no GPU; use accelerator=cpu.")


def short_hash(asked: object) -> str:
    """Eight digits of the SHA-256 of plain containers: the same request has the same name."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]


@contextmanager
def new_folder(out: Path, option: str = "out") -> Iterator[Path]:
    """A hidden folder that takes the name `out` when the block ends well, and goes if it does not."""
    try:
        with files.new_folder(out) as partial:
            yield partial
    except OSError as error:
        raise BadInput(f"{option}={out}: cannot be written to ({error.strerror or error}).") from None

"""Reading checkpoint files without running code; damaged ones are refused. It does not import Lightning."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab import released
from denoiselab.errors import BadInput
from denoiselab.files import MANIFEST, atomic, put, zip_is_whole
from denoiselab.training import sharded_checkpoints
from denoiselab.training.finite import not_finite, tensors_in
from denoiselab.training.power_ema import WIDEST
from denoiselab.training.sharded_tensors import is_sharded

# The key of our own part of a Lightning checkpoint.
CHECKPOINT_KEY = "denoiselab"

# Lightning's keys of weights and optimizer states.
WEIGHTS_KEYS = ("state_dict", "optimizer_states")

# Their folder in a run directory, and the names of the newest and of the one with the best score.
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"

# Greatest depth of nested containers in a checkpoint.
_DEPTH = 64


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, with the reason in one sentence."""


class DamagedError(CheckpointError):
    """A checkpoint that is damaged or not finite; an older one may be used instead."""


def home_of(checkpoint: Path) -> Path:
    """The run's directory of a checkpoint, or the folder where it lies; a release is its own."""
    if released.is_release(checkpoint):
        return checkpoint
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else checkpoint.parent


def newest(path: Path, option: str = "ckpt") -> tuple[Path, str]:
    """The newest whole checkpoint of a run's directory, any other path as it is; and a warning, or nothing.

    `model:<name>` is the folder of a release that ships.

    Raises:
        BadInput: If it is no run's directory but one of runs, or there is no such release.
    """
    path = released.place(path, option)
    if not path.is_dir() or (path / MANIFEST).exists() or (path.suffix == ".ckpt" and path.parent.name == CHECKPOINTS):
        return path, ""
    found = saved(path / CHECKPOINTS)
    last = path / CHECKPOINTS / LAST
    whole = next((one for one in found if _is_whole(one)), None)
    if whole is not None:
        state = "damaged" if found[0].name == LAST else "missing"
        return whole, "" if whole.name == LAST else f"{last} is {state}; {whole.name} is used, the newest whole one."
    if not found and (runs := sorted(path.glob(f"*/{CHECKPOINTS}/{LAST}"))):
        raise BadInput(f"{option}={path}: it is no run but holds {len(runs)}; name one, such as {home_of(runs[-1])}.")
    return last, ""


def write_checkpoint(checkpoint: dict[str, Any], path: Path, keep: int = 1) -> None:
    """Write a checkpoint; an interruption leaves the former file.

    Args:
        checkpoint: Tensors and plain containers.
        path: Of the file.
        keep: Keep the `keep` - 1 files before it, as `<stem>.1.ckpt` (the newest) and so on.

    Raises:
        OSError: If it cannot be written.
    """
    former = [path.with_suffix(f".{number}{path.suffix}") for number in range(1, keep)]
    if any(is_sharded(tensor) for _, tensor in tensors_in(checkpoint)):
        raise ValueError(f"{path}: its tensors are parts of a rank; a file would lack those of the others.")
    folders = any(one.is_dir() for one in (path, *former))  # of a sharded training that goes on as one that is not
    made = path.with_name(f".{path.name}.tmp") if folders else path
    try:
        with atomic(made, former=() if folders else former) as file:
            torch.save(checkpoint, file)
        if folders:
            put(made, path, former)
    except RuntimeError as error:  # torch does not say why a write failed
        raise OSError(f"{path}: cannot be written; is the disk full?") from error


def saved(folder: Path) -> list[Path]:
    """The checkpoints in a folder: the newest, those before it, those kept at intervals, the best one."""
    former = [(int(n[1]), p) for p in folder.glob("last.*.ckpt") if (n := re.fullmatch(r"last\.(\d+)\.ckpt", p.name))]
    kept = sorted(folder.glob("images_*.ckpt"), reverse=True)
    files = [folder / LAST, *(path for _, path in sorted(former)), *kept, folder / BEST]
    return [path for path in files if path.exists()]


def _is_whole(path: Path) -> bool:
    if not path.is_dir():
        return zip_is_whole(path)
    try:
        return bool(sharded_checkpoints.verify(path))
    except sharded_checkpoints.BrokenError:
        return False


def newest_whole(folder: Path) -> tuple[Path, dict[str, Any], dict[Path, str]] | None:
    """The first of the `saved` checkpoints that is whole and finite, its content, and errors of those before it.

    Tensors of a directory are on the meta device: ranks read their parts of them later.

    Returns:
        None if there is no checkpoint at all.

    Raises:
        CheckpointError: If none of them is whole, or the first whole one has another format.
    """
    passed_over: dict[Path, str] = {}
    for path in saved(folder):
        try:
            checkpoint = read_checkpoint(path, "meta" if path.is_dir() else "cpu")
            check_finite(path, checkpoint)
        except DamagedError as error:
            passed_over[path] = str(error)
        else:
            return path, checkpoint, passed_over
    if passed_over:
        raise CheckpointError(" ".join(passed_over.values()))
    return None


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint of tensors and plain containers, without running code, and verify its checksums.

    Raises:
        DamagedError: If the file's content does not match its checksums.
        CheckpointError: If the file is missing, not ours, malformed, or holds pickled objects.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such run directory or checkpoint file.")
    others = [file.name for file in saved(path.parent) if file.name != path.name]
    beside = f"; beside it: {', '.join(others)}" if others else ""
    damaged = DamagedError(f"{path}: damaged or truncated, or not a checkpoint{beside}.")
    try:
        checkpoint: Any
        if released.is_release(path):
            checkpoint = released.read(path)
        elif path.is_dir():
            checkpoint = sharded_checkpoints.read(path, map_location)
        elif not zip_is_whole(path):
            raise damaged
        else:
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (sharded_checkpoints.BrokenError, released.BrokenError) as error:
        raise DamagedError(f"{path}: {error}{beside}.") from None
    except DamagedError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error) and "global" not in str(error):
            raise damaged from None
        raise CheckpointError(f"{path}: holds pickled objects, which could run code; it is not loaded.") from None
    except (Exception, RecursionError):  # a hostile pickle fails with any error
        raise damaged from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(CHECKPOINT_KEY), dict):
        raise CheckpointError(f"{path}: not a checkpoint of denoiselab.")
    ours = checkpoint[CHECKPOINT_KEY]
    if type(version := ours.get("format")) is int and version != 1:
        raise CheckpointError(f"{path}: has format {version}; this version reads format 1.")
    for where, good in _requirements(checkpoint, ours):
        if not good:
            raise CheckpointError(
                f"{path}: not a whole checkpoint of denoiselab: its '{where}' is missing or malformed."
            )
    return checkpoint


def _requirements(checkpoint: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """Keys of a checkpoint and whether their values have the expected types."""
    images, ema = ours.get("images_seen"), ours.get("ema")
    yield "state_dict", _is_weights(checkpoint.get("state_dict"))
    yield "format", type(ours.get("format")) is int
    yield "images_seen", type(images) is int and 0 <= images < 2**63
    yield "config", isinstance(ours.get("config"), dict) and _is_plain(ours["config"])
    yield "sigma_rel", _is_widths(ours.get("sigma_rel", {}), ema)
    yield "ema", isinstance(ema, dict) and all(isinstance(k, str) and _is_weights(v) for k, v in ema.items())


def _is_widths(value: Any, averages: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(averages, dict) and name in averages and isinstance(width, float) and 0 < width <= WIDEST
        for name, width in value.items()
    )


def _is_weights(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        for name, tensor in value.items()
    )


def _is_plain(value: Any, depth: int = _DEPTH) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(k, str) and _is_plain(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_plain(v, depth - 1) for v in value)
    return value is None or type(value) in (bool, int, float, str)


def check_finite(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that an earlier version saved after its training had diverged.

    Raises:
        DamagedError: If a weight, an average or a number of the optimizer is not finite.
    """
    parts = {key: checkpoint.get(key) for key in WEIGHTS_KEYS}
    if name := not_finite({**parts, "ema": checkpoint[CHECKPOINT_KEY]["ema"]}):
        raise DamagedError(f"{path}: holds numbers that are not finite, in '{name}'.")


def check_weights(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Check that weights are those of a network.

    Raises:
        CheckpointError: If a name, a shape or the kind of numbers differs.
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
        if _kind(found[name]) != _kind(tensor):
            raise CheckpointError(
                f"{path}: malformed: '{name}' holds {_dtype(found[name])}, this network's holds {_dtype(tensor)}."
            )


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype is torch.bool


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

"""Work that one rank does for all, and results of all ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.evaluation.contracts import ContractError

T = TypeVar("T")

# Errors that mean that these samples have no score; any other is a fault of the program or the machine.
REFUSALS = (ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def is_distributed() -> bool:
    """Whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def is_first_rank() -> bool:
    """Whether this process is the first of its group, or alone."""
    return not is_distributed() or dist.get_rank() == 0


def store() -> Any:
    """Torch's store, in which ranks leave texts for each other without waiting; None if there is one process."""
    return dist.distributed_c10d._get_default_store() if is_distributed() else None


def tell(key: str, text: str) -> None:
    """Leave a text for the other ranks; nothing if their store is gone."""
    with suppress(RuntimeError):
        if (kept := store()) is not None:
            kept.set(_key(key), text)


def told(key: str) -> str | None:
    """What was left under a key, None if nothing was; it does not wait.

    Raises:
        RuntimeError: If the store is gone, with the process that has it.
    """
    if (kept := store()) is None or not kept.check([_key(key)]):
        return None
    text: str = kept.get(_key(key)).decode()
    return text


def shared(key: str, own: str | None) -> str | None:
    """What one rank has said under a key, which is asked for once a second; `own` is said if it is a text."""
    if own is not None:
        tell(key, own)
        return own
    if time.monotonic() < _asked.get(key, 0.0) + 1:
        return None
    _asked[key] = time.monotonic()
    with suppress(RuntimeError):
        return told(key)
    return None


_asked: dict[str, float] = {}


def _key(key: str) -> str:
    return f"denoiselab {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} {key}"


def gathered(rows: Tensor, device: torch.device) -> list[Tensor]:
    """Rows `(n, *)` of every rank, in the order of ranks; n may differ. They travel by way of `device`."""
    if not is_distributed():
        return [rows]
    counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(rows), device=device))
    padded = rows.new_zeros(int(max(counts)), *rows.shape[1:], device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return [part[: int(count)] for part, count in zip(parts, counts, strict=True)]


def divided(make: Callable[[Tensor], Tensor], number: int, device: torch.device) -> Tensor:
    """What `make` gives for the indices `(B,)` from 0 to `number` - 1, `(number, *)` on the CPU of every rank.

    Each rank makes its share.

    Raises:
        ValueError: If it raises one on a rank, on all of them.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)
    index = torch.arange(rank * number // world, (rank + 1) * number // world, device=device)
    try:
        own = (make(index).cpu() if len(index) else None, "")
    except ValueError as error:  # the others wait below
        own = (None, f"{error}")
    shares: list[Any] = [own] * world
    if is_distributed():
        dist.all_gather_object(shares, own)
    if fault := next((text for _, text in shares if text), None):
        raise ValueError(fault)
    return torch.cat([rows for rows, _ in shares if rows is not None])


def on_first_rank(compute: Callable[[], T]) -> T:
    """The result of `compute` on the first rank, on every rank.

    Raises:
        ValueError: If it raises one.
        ContractError: If it raises one.
        RuntimeError: If it raises any other exception, and there are several ranks.
    """
    if not is_distributed():
        return compute()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the others wait below for what is sent here
            kinds = {REFUSALS: ValueError, (ContractError,): ContractError}
            kind = next((kind for errors, kind in kinds.items() if isinstance(error, errors)), None)
            box[1] = (kind, f"{error}") if kind else (RuntimeError, f"{type(error).__name__}: {error}")
    dist.broadcast_object_list(box, 0)
    if box[1] is not None:
        kind, message = box[1]
        raise kind(message)
    result: T = box[0]
    return result

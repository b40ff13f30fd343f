"""What one rank does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

# What says that these samples have no score; all else is a fault of the program or the machine.
REFUSALS = (ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


def on_first_rank(compute: Callable[[], T]) -> T:
    """What `compute` gives or raises on the first rank, on every rank.

    Raises:
        ValueError: The first rank's.
        RuntimeError: Any other exception of the first rank.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return compute()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the others wait below, and must not wait for ever
            kind = ValueError if isinstance(error, REFUSALS) else RuntimeError
            box[1] = (kind, f"{error}" if kind is ValueError else f"{type(error).__name__}: {error}")
    dist.broadcast_object_list(box, 0)
    if box[1] is not None:
        kind, message = box[1]
        raise kind(message)
    result: T = box[0]
    return result

"""What one rank does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def on_first_rank(compute: Callable[[], T]) -> T:
    """What `compute` gives or raises on the first rank, on every rank.

    Raises:
        ValueError: The first rank's.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return compute()
    box: list[Any] = [None, None]
    if dist.get_rank() == 0:
        try:
            box[0] = compute()
        except Exception as error:  # the others wait below, and must not wait for ever
            box[1] = f"{error}"
    dist.broadcast_object_list(box, 0)
    if box[1] is not None:
        raise ValueError(box[1])
    result: T = box[0]
    return result

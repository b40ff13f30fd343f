"""Tensors of which each rank of a sharded training holds a part (torch's `DTensor`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def is_sharded(value: object) -> bool:
    """Whether a value is a tensor that is spread over ranks; it imports nothing of `torch.distributed`."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on every rank. Of a sharded one all ranks must ask together."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, which may be empty."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def spread(value: Any, like: Tensor | None) -> Any:
    """This rank's part of what every rank has whole: spread as `like` is, if it is one number for each of `like`'s.

    A parameter without axes has one in a sharded training (`sharding.shard`), so a value without axes gets it.
    """
    if like is None or not is_sharded(like) or is_sharded(value):
        return value
    if not isinstance(value, Tensor) or value.numel() != like.numel():
        return value
    if value.shape not in (like.shape, torch.Size()) or (value.ndim == 0 and like.ndim != 1):
        return value
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    moved = value.reshape(like.shape).to(sharded.device)
    return distribute_tensor(moved, sharded.device_mesh, sharded.placements, src_data_rank=None)

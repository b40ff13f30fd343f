"""A search for numbers that are not finite, done before checkpoints are saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from denoiselab.training.sharded_tensors import is_sharded, local


class DivergedError(FloatingPointError):
    """Training has diverged: a weight or a loss is not finite."""


@torch.no_grad()
def not_finite(tree: Any) -> str | None:
    """The name of the first tensor of nested containers that holds a number which is not finite; None if all are.

    Of a sharded tensor this rank's part counts, of one on the meta device nothing.
    It synchronises once with each device.
    """
    checked: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors_in(tree):
        part = local(tensor)
        values = torch.view_as_real(part) if part.is_complex() else part
        if values.is_floating_point() and values.numel() and not values.is_meta:
            # One pass without a temporary tensor; both results are NaN if one value is.
            finite = torch.stack(torch.aminmax(values.detach())).isfinite().all()
            checked.setdefault(values.device, []).append((name, finite))
    for named in checked.values():
        for (name, _), good in zip(named, torch.stack([good for _, good in named]).tolist(), strict=True):
            if not good:
                return name
    return None


def not_finite_on_any_rank(tree: Any) -> str | None:
    """As `not_finite`, where ranks hold parts of the tensors: all get the same name."""
    name = not_finite(tree)
    if not any(is_sharded(tensor) for _, tensor in tensors_in(tree)):
        return name
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, name)
    return next((one for one in names if one is not None), None)


def tensors_in(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested containers, with their names, which begin with `name`."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from tensors_in(value, f"{name}.{key}" if name else str(key))

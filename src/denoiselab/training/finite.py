"""A search for numbers that are not finite, done before checkpoints are saved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class DivergedError(FloatingPointError):
    """Training has diverged: a weight or a loss is not finite."""


@torch.no_grad()
def not_finite(tree: Any) -> str | None:
    """The name of the first tensor of nested containers that holds a number which is not finite; None if all are.

    It synchronises once with each device.
    """
    checked: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in _tensors(tree, ""):
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if values.is_floating_point() and values.numel():
            # One pass without a temporary tensor; both results are NaN if one value is.
            finite = torch.stack(torch.aminmax(values.detach())).isfinite().all()
            checked.setdefault(values.device, []).append((name, finite))
    for named in checked.values():
        for (name, _), good in zip(named, torch.stack([good for _, good in named]).tolist(), strict=True):
            if not good:
                return name
    return None


def _tensors(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, Mapping | list | tuple):
        items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for key, value in items:
            yield from _tensors(value, f"{name}.{key}" if name else str(key))

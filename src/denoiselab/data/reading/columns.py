"""Classes and captions in the columns of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.data.reading.captions import checked_caption
from denoiselab.data.reading.records import MOST_CLASSES


def numbered(values: Sequence[Any], column: str, names: Sequence[str] | None = None) -> tuple[Tensor, Sequence[str]]:
    """Classes `(N,)` int64 and their names, from the values of a column.

    Args:
        values: Names, which are numbered in alphabetical order, or whole numbers from 0.
        column: Name of the column, for messages.
        names: Of the classes, if known.
    """
    if all(isinstance(value, str) for value in values):
        found = sorted(set(values))
        names = found if names is None else names
        places = {name: i for i, name in enumerate(names)}
        if unknown := [name for name in found if name not in places]:
            raise ValueError(f"data.label={column}: no training image is of the class {unknown[0]}.")
        values = [places[value] for value in values]
    if not all(type(value) is int and 0 <= value < MOST_CLASSES for value in values):
        raise ValueError(f"data.label={column}: the column must hold names, or whole numbers from 0.")
    return torch.tensor(values, dtype=torch.int64), names or ()


def caption(cell: Any, column: str) -> str:
    """The caption in a cell: a text, the first text of a list, or empty if there is none."""
    first = next(iter(cell), None) if isinstance(cell, list) else cell
    if not isinstance(first, str | None):
        raise ValueError(f"data.caption={column}: the column must hold texts, and has {first!r}.")
    return checked_caption(first or "", f"data.caption={column}")

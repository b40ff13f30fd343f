"""Samples of a data set with their labels and captions, as conditioners take them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.conditioners import Clean, Conditioner, HeldOut
from denoiselab.data.base import DataSet


def clean(data: DataSet, index: Tensor, device: torch.device | None = None) -> Clean:
    """The samples at `index` `(B,)` int64, their labels and, if the set has any, captions and maps.

    They are on `device`, if it is given.
    """
    captions = None if data.captions is None else [data.captions[i] for i in index.tolist()]
    maps = None if getattr(data, "maps", None) is None else data.maps(index).to(device)  # type: ignore[attr-defined]
    return Clean(data.inputs(index).to(device), data.labels[index].to(device), captions, maps=maps)


def supply(conditioner: Conditioner, load: Callable[[], Sequence[DataSet]]) -> None:
    """Give a conditioner the data that its sampling conditions are taken from.

    Args:
        conditioner: Takes them from held-out data, unless it says so.
        load: Returns training and held-out data; called at the first use.
    """
    split = conditioner.pictures or "held_out"
    conditioner.set_held_out(in_turn(lambda: load()[split != "train"], split))


def rows_of(index: Tensor, number: int, split: str = "held_out") -> Tensor:
    """The rows `(B,)` of data from which samples `index` `(B,)` have their conditions.

    Of held-out data they are taken in turn. Training data may be sorted, so that few samples have rows from everywhere:
    the row of sample i is the rank of the fractional part of i times the golden section.
    """
    if split != "train":
        return index % number
    places = torch.arange(number, dtype=torch.float64) * ((math.sqrt(5) - 1) / 2) % 1
    return places.argsort().argsort()[index % number]


def in_turn(load: Callable[[], DataSet], split: str = "held_out") -> HeldOut:
    """Data from which sampling conditions are taken.

    Args:
        load: Returns the data set; called at the first use.
        split: As of `rows_of`, which says which sample has which condition.
    """
    loaded = functools.cache(load)

    def samples(index: Tensor) -> Clean:
        data = loaded()
        if not len(data):
            raise ValueError("conditioner: sampling conditions are taken from held-out data, and there are none.")
        return clean(data, rows_of(index.cpu(), len(data), split), index.device)

    return samples

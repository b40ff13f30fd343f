"""Samples of a data set with their labels and captions, as conditioners take them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.conditioners import Clean, Conditioner, HeldOut
from denoiselab.data.base import DataSet


def clean(data: DataSet, index: Tensor, device: torch.device | None = None) -> Clean:
    """The samples at `index` `(B,)` int64, their labels and, if the set has any, captions, on `device` if given."""
    captions = None if data.captions is None else [data.captions[i] for i in index.tolist()]
    return Clean(data.inputs(index).to(device), data.labels[index].to(device), captions)


def supply(conditioner: Conditioner, load: Callable[[], Sequence[DataSet]]) -> None:
    """Give a conditioner the data that its sampling conditions are taken from.

    Args:
        conditioner: Takes them from held-out data, unless it says so.
        load: Returns training and held-out data; called at the first use.
    """
    conditioner.set_held_out(in_turn(lambda: load()[conditioner.pictures != "train"]))


def in_turn(load: Callable[[], DataSet]) -> HeldOut:
    """Held-out data from which sampling conditions are taken: index i gives sample i modulo their number.

    Args:
        load: Returns the data set; called at the first use.
    """
    loaded = functools.cache(load)

    def samples(index: Tensor) -> Clean:
        data = loaded()
        if not len(data):
            raise ValueError("conditioner: sampling conditions are taken from held-out data, and there are none.")
        return clean(data, index.cpu() % len(data), index.device)

    return samples

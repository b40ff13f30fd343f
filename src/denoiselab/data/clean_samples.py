"""Samples of a data set as a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.conditioners import Clean, HeldOut
from denoiselab.data.base import DataSet


def clean(data: DataSet, index: Tensor, device: torch.device | None = None) -> Clean:
    """The samples at `index` `(B,)` int64 with all that the set knows of them: labels, and captions where it has them.

    Args:
        data: The set.
        index: Within the set.
        device: Of the result; None for the set's own.
    """
    captions = None if data.captions is None else [data.captions[i] for i in index.tolist()]
    return Clean(data.inputs(index).to(device), data.labels[index].to(device), captions)


def in_turn(load: Callable[[], DataSet]) -> HeldOut:
    """What gives sample i modulo their number, for conditions of samples to be drawn.

    Args:
        load: Gives the data set; called when it is first needed.
    """
    loaded = functools.cache(load)

    def samples(index: Tensor) -> Clean:
        data = loaded()
        if not len(data):
            raise ValueError("conditioner: conditions of samples come from held-out data, and there are none.")
        return clean(data, index.cpu() % len(data), index.device)

    return samples

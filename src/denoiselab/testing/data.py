"""Checks of a data set: shapes and types, reproducibility, access by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from denoiselab.data import DataSet

# Samples that are read, of each part.
_READ = 50


class Source(Protocol):
    """What a choice of data is: options, from which `load` makes the data."""

    name: str
    shape: Sequence[int]

    def load(self) -> tuple[DataSet, DataSet]:
        """(train, held-out)."""
        ...


def check_data(source: Source) -> None:
    """Check that data can be trained on and scored by this package.

    Both parts have the shape that the source states; samples are bytes, or float32; bytes as input of the network are
    float32 from -1 to 1; there is a label of int64 a sample, and a caption where there are captions; a sample does not
    depend on which others are read with it; loading again gives the same data.

    Raises:
        AssertionError: If they cannot; the message says what fails.
    """
    name, again = type(source).__name__, source.load()
    assert isinstance(source.name, str), f"{name}.name: must be a text, not {source.name!r}."
    for part, data, other in zip(("train", "held-out"), source.load(), again, strict=True):
        where, n = f"{name}.load(), {part}", len(data)
        assert n or part == "held-out", f"{where}: is empty."
        assert tuple(data.shape) == tuple(source.shape), f"{where}: has shape {data.shape}, not {source.shape}."
        labels, captions = data.labels, data.captions
        assert (labels.dtype, labels.shape) == (torch.int64, (n,)), f"{where}: labels must be int64 of shape ({n},)."
        assert captions is None or len(captions) == n, f"{where}: must have a caption a sample, or None."
        assert data.fingerprint == other.fingerprint, f"{where}: another load gives other data."
        if n:
            _check_samples(data, where)


def _check_samples(data: DataSet, where: str) -> None:
    index = torch.arange(min(len(data), _READ))
    stored, inputs = data.stored(index), data.inputs(index)
    assert stored.dtype in (torch.uint8, torch.float32), f"{where}.stored: must be uint8 or float32."
    assert inputs.dtype == torch.float32, f"{where}.inputs: must be float32."
    for called, samples in (("stored", stored), ("inputs", inputs)):
        wanted = (len(index), *data.shape)
        assert samples.shape == wanted, f"{where}.{called}: has shape {tuple(samples.shape)}, not {wanted}."
        alone = getattr(data, called)(index.flip(0)[:1])
        assert torch.equal(alone[0], samples[-1]), f"{where}.{called}: a sample depends on others that are read."
    if stored.dtype == torch.uint8:
        inside = bool(inputs.min() >= -1) and bool(inputs.max() <= 1)
        assert inside, f"{where}.inputs: must be from -1 to 1, as its samples are bytes."

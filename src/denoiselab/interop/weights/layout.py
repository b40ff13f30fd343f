"""The map between the weights of another code base and ours: one list of names and conversions, for both directions.

A code base gives a function from its configuration to a `Layout`: our network, its options, and the list. One whose
models are written too gives another, from our options to its configuration and the same list.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.interop.weights.state_dicts import State, checked_state, making


class Way(Protocol):
    """The conversion of one or more of their tensors to one of ours, and back; also on the meta device."""

    def ours(self, *theirs: Tensor) -> Tensor:
        """Our tensor.

        Raises:
            InteropError: If they cannot be represented; the message names them.
        """

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Their tensors, in the order of the arguments of `ours`."""


class Same(Way):
    """One tensor, unchanged."""

    def ours(self, *theirs: Tensor) -> Tensor:
        (only,) = theirs
        return only

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return (ours,)


class Stacked(Way):
    """Tensors `(N, *)` concatenated to `(count N, *)`: query, key and value in one layer.

    Args:
        count: Their number.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def ours(self, *theirs: Tensor) -> Tensor:
        return torch.cat(theirs)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return ours.chunk(self.count)


class Pointwise(Way):
    """Kernels `(O, I, 1, ...)` of convolutions of size 1 as the matrix `(count O, I)` of a linear layer.

    Args:
        dims: Spatial axes of the convolution.
        count: Number of kernels.
    """

    def __init__(self, dims: int, count: int = 1) -> None:
        self.dims, self.count = dims, count

    def ours(self, *theirs: Tensor) -> Tensor:
        return torch.cat([kernel.flatten(1) for kernel in theirs])

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return [part.reshape(*part.shape, *[1] * self.dims) for part in ours.chunk(self.count)]


class Transposed(Way):
    """A transposed matrix."""

    def ours(self, *theirs: Tensor) -> Tensor:
        return SAME.ours(*theirs).T

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return (ours.T,)


class Regrouped(Way):
    """Rows in the order (outer, inner, rest) as rows in the order (inner, outer, rest).

    With outer = heads and inner = 3: queries, keys and values of each head as all queries, all keys, all values.

    Args:
        outer: Size of their first group.
        inner: Size of their second group.
        after: A conversion of their tensors that comes first.
    """

    def __init__(self, outer: int, inner: int, after: Way | None = None) -> None:
        self.outer, self.inner, self.after = outer, inner, after or SAME

    def ours(self, *theirs: Tensor) -> Tensor:
        return _exchanged(self.after.ours(*theirs), self.outer, self.inner)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        return self.after.theirs(_exchanged(ours, self.inner, self.outer))


SAME = Same()


class Entry(NamedTuple):
    """One of our tensors and those that it is made of.

    Attributes:
        ours: Our name.
        theirs: Their names.
        way: The conversion.
    """

    ours: str
    theirs: tuple[str, ...]
    way: Way = SAME


def layer(ours: str, theirs: str | Sequence[str], weight: Way = SAME, bias: Way | None = SAME) -> list[Entry]:
    """The entries of a layer's `weight` and `bias`, from one layer of theirs or several; `bias=None` for none."""
    names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
    entries = [Entry(f"{ours}.weight", tuple(f"{name}.weight" for name in names), weight)]
    if bias is not None:
        entries.append(Entry(f"{ours}.bias", tuple(f"{name}.bias" for name in names), bias))
    return entries


@dataclass(frozen=True)
class Layout:
    """One of our modules, and the map of its weights.

    Args:
        module: Its class.
        options: Arguments of its constructor, in plain containers.
        entries: One for each tensor of its state.
        ignored: Shell patterns of their names that are optional and not learned.
    """

    module: type[nn.Module]
    options: Mapping[str, Any]
    entries: Sequence[Entry]
    ignored: Sequence[str] = field(default=())

    def skeleton(self) -> State:
        """The state of our module on the meta device: names, shapes and dtypes.

        Raises:
            ValueError: If the module does not accept its options.
        """
        with torch.device("meta"):
            return self.module(**self.options).state_dict()

    def built(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The module with a state in our names, in evaluation mode."""
        module = self.module(**self.options)
        module.load_state_dict(state)
        return module.eval()

    def to_theirs(self, ours: Mapping[str, Tensor]) -> State:
        """Our state in their names and shapes; tensors may share memory with ours."""
        state: State = {}
        for entry in self.entries:
            state.update(zip(entry.theirs, entry.way.theirs(ours[entry.ours]), strict=True))
        return state

    def to_ours(self, theirs: Mapping[str, Tensor], where: Path) -> State:
        """Their state in our names, shapes and dtypes."""
        with making(self.module.__name__, where):
            skeleton = self.skeleton()
        assert {entry.ours for entry in self.entries} == skeleton.keys(), "the list must contain our whole state"
        expected = self.to_theirs(skeleton)
        found = {
            name: tensor
            for name, tensor in theirs.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)
        }
        found = checked_state(expected, found, where)
        state: State = {}
        for entry in self.entries:
            with making(self.module.__name__, where):
                tensor = entry.way.ours(*(found[name] for name in entry.theirs))
            state[entry.ours] = tensor.to(skeleton[entry.ours].dtype).contiguous()
        return state


def _exchanged(rows: Tensor, first: int, second: int) -> Tensor:
    grouped = rows.reshape(first, second, rows.shape[0] // (first * second), *rows.shape[1:])
    return grouped.transpose(0, 1).reshape(rows.shape)

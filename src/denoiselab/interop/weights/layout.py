"""Which weight of another code base is which of ours, and how the numbers differ: one list, read both ways.

A conversion is two pure functions: from the other's configuration to a `Layout` (our network, its options, and the
list), and from our options to the other's configuration and the same list. The rest is here.
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
    """How tensors of theirs become one of ours, and back. It must work on the meta device."""

    def ours(self, *theirs: Tensor) -> Tensor:
        """One of ours.

        Raises:
            InteropError: They are not what one of ours can hold; the message names them.
        """
        ...

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Theirs, in the order in which `ours` takes them."""
        ...


class Same:
    """One tensor, as it is."""

    def ours(self, *theirs: Tensor) -> Tensor:
        """The tensor."""
        (only,) = theirs
        return only

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """The tensor."""
        return (ours,)


class Stacked:
    """Tensors of equal shapes one after another along the first axis: query, key and value in one layer.

    Args:
        count: Their number.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def ours(self, *theirs: Tensor) -> Tensor:
        """`(count N, *)` from `(N, *)` each."""
        return torch.cat(theirs)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """`(N, *)` each from `(count N, *)`."""
        return ours.chunk(self.count)


class Pointwise:
    """The kernel of a convolution of size 1, `(O, I, 1, ...)`, as the matrix `(O, I)` of a linear layer; or several.

    Args:
        dims: Spatial axes of the convolution.
        count: Kernels, stacked as in `Stacked`.
    """

    def __init__(self, dims: int, count: int = 1) -> None:
        self.dims, self.count = dims, count

    def ours(self, *theirs: Tensor) -> Tensor:
        """`(count O, I)`."""
        return torch.cat([kernel.flatten(1) for kernel in theirs])

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """`(O, I, 1, ...)` each."""
        return [part.reshape(*part.shape, *[1] * self.dims) for part in ours.chunk(self.count)]


class Transposed:
    """A matrix whose axes we exchange."""

    def ours(self, *theirs: Tensor) -> Tensor:
        """`(I, O)` from `(O, I)`."""
        return SAME.ours(*theirs).T

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """`(O, I)` from `(I, O)`."""
        return (ours.T,)


class Regrouped:
    """Rows that they order by (outer, inner, rest) and we by (inner, outer, rest).

    With outer = heads and inner = 3: queries, keys and values head by head, against all queries first.

    Args:
        outer: Size of their first group.
        inner: Size of their second.
        after: What else is done to their tensors, before.
    """

    def __init__(self, outer: int, inner: int, after: Way | None = None) -> None:
        self.outer, self.inner, self.after = outer, inner, after or SAME

    def ours(self, *theirs: Tensor) -> Tensor:
        """Rows `(inner outer rest, *)`."""
        return _exchanged(self.after.ours(*theirs), self.outer, self.inner)

    def theirs(self, ours: Tensor) -> Sequence[Tensor]:
        """Rows `(outer inner rest, *)`."""
        return self.after.theirs(_exchanged(ours, self.inner, self.outer))


SAME = Same()


class Entry(NamedTuple):
    """A tensor of ours and what it is made of.

    Args:
        ours: Its name.
        theirs: Their names.
        way: How they become ours.
    """

    ours: str
    theirs: tuple[str, ...]
    way: Way = SAME


def layer(ours: str, theirs: str | Sequence[str], weight: Way = SAME, bias: Way | None = SAME) -> list[Entry]:
    """The entries of a layer's `weight` and `bias`.

    Args:
        ours: Its name.
        theirs: Its name in the other code base, or those of several layers.
        weight: How the weights become ours.
        bias: How the biases do; None for a layer without.
    """
    names = (theirs,) if isinstance(theirs, str) else tuple(theirs)
    entries = [Entry(f"{ours}.weight", tuple(f"{name}.weight" for name in names), weight)]
    if bias is not None:
        entries.append(Entry(f"{ours}.bias", tuple(f"{name}.bias" for name in names), bias))
    return entries


@dataclass(frozen=True)
class Layout:
    """A module of ours whose weights others have under other names.

    Args:
        module: Its class.
        options: Arguments of its constructor, plain containers.
        entries: One for each tensor of its state.
        ignored: Patterns (as in a shell) of names of theirs that hold nothing learned, and may be there or not.
    """

    module: type[nn.Module]
    options: Mapping[str, Any]
    entries: Sequence[Entry]
    ignored: Sequence[str] = field(default=())

    def skeleton(self) -> State:
        """The state of our module on the meta device: names, shapes and dtypes.

        Raises:
            ValueError: The module refuses its options.
        """
        with torch.device("meta"):
            return self.module(**self.options).state_dict()

    def built(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The module with a state of ours, in evaluation mode, so that dropout does nothing."""
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
        """Their state in our names and shapes, in our dtypes; all of it, or an error.

        Args:
            theirs: Names to tensors.
            where: The file they come from, for messages.

        Raises:
            InteropError: As of `checked_state`.
        """
        with making(self.module.__name__, where):
            skeleton = self.skeleton()
        assert {entry.ours for entry in self.entries} == skeleton.keys(), "the list must name all of our state"
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

"""The weights of others as they are read: names to tensors, and what is refused of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

# The numbers that weights may be stored as.
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class InteropError(ValueError):
    """Files or options that cannot be converted, with the reason in one sentence that begins with their name."""


@contextmanager
def making(what: str, where: Path) -> Iterator[None]:
    """Within it, whatever fails for the values in a file of others, of any types, is an `InteropError` that names it.

    Args:
        what: What is made of them.
        where: The file.
    """
    try:
        yield
    except InteropError as error:
        raise InteropError(f"{where}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = "there is no " * isinstance(error, KeyError) + " ".join(str(error).split()).rstrip(".")
        raise InteropError(f"{where}: makes no {what}: {cause}.") from None


def checked_state(expected: Mapping[str, Tensor], found: Mapping[str, Any], where: Path) -> State:
    """A state in the dtypes of another, whose names and shapes it has.

    Args:
        expected: The other, which may be on the meta device.
        found: The state; real numbers in any precision of 16 bits or more.
        where: The file it comes from, for messages.

    Raises:
        InteropError: A name is missing or surplus, a shape is another, a tensor holds no real numbers, or a number is
            not finite in the dtype expected.
    """
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        name, verb = (missing[0], "lacks") if missing else (surplus[0], "has an unknown")
        others = len(missing or surplus) - 1
        more = f" and {others} more" if others else ""
        raise InteropError(f"{where}: does not fit its configuration: it {verb} '{name}'{more}.")
    state: State = {}
    for name, tensor in expected.items():
        given = numbers(found[name], name, where)
        if given.shape != tensor.shape:
            raise InteropError(
                f"{where}: does not fit its configuration: '{name}' has shape {list(given.shape)}, where "
                f"{list(tensor.shape)} is needed."
            )
        state[name] = given.to(tensor.dtype)
        if not bool(state[name].isfinite().all()):
            raise InteropError(f"{where}: '{name}' holds numbers that are not finite in {_kind(state[name])}.")
    return state


def numbers(value: Any, name: str, where: Path) -> Tensor:
    """A tensor of real numbers, as all weights are.

    Args:
        value: Should be one.
        name: In its file.
        where: The file, for messages.

    Raises:
        InteropError: It is none.
    """
    if (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_meta
        and value.layout is torch.strided
        and value.dtype in _DTYPES
    ):
        return value
    allowed = ", ".join(map(_name, _DTYPES))
    raise InteropError(f"{where}: '{name}' is of {_kind(value)}, where real numbers are needed: {allowed}.")


def width_of(state: Mapping[str, Any], name: str, where: Path, axis: int = 0) -> int:
    """The size of an axis of a tensor, by which a file without configuration tells what network it belongs to.

    Raises:
        InteropError: There is no such tensor, or it is empty.
    """
    tensor = state.get(name)
    if not isinstance(tensor, Tensor) or tensor.ndim <= axis:
        raise InteropError(f"{where}: weights of another network: it lacks '{name}'.")
    if not tensor.shape[axis]:
        raise InteropError(f"{where}: weights of another network: '{name}' has shape {list(tensor.shape)}.")
    return tensor.shape[axis]


def numbered(state: Mapping[str, Any], name: str) -> int:
    """How many of `name`, with 0, 1, ... for its {}, a state has without a gap."""
    return next(number for number in itertools.count() if name.format(number) not in state)


def renamed(state: Mapping[str, Tensor], parts: Iterable[tuple[str, str]]) -> State:
    """The state with parts of its names exchanged, in turn: old names of one layout for its present ones."""
    result: State = {}
    for name, tensor in state.items():
        new = name
        for old, present in parts:
            new = new.replace(old, present)
        result[new] = tensor
    return result


def _kind(value: Any) -> str:
    """Its dtype, and what is unusual of the tensor."""
    if not isinstance(value, Tensor):
        return f"type {type(value).__name__}"
    unusual = "meta" if value.is_meta else _name(value.layout)
    return f"{unusual} {_name(value.dtype)}".removeprefix("strided ")


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")

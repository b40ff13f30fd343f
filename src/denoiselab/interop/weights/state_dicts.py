"""State dicts of other code bases: checks of names, shapes and dtypes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class InteropError(ValueError):
    """A file or option that cannot be converted; the message starts with its name."""


@contextmanager
def making(what: str, where: Path) -> Iterator[None]:
    """Raise errors of any type that values in a file cause as `InteropError`; `what` is built from them."""
    try:
        yield
    except InteropError as error:
        raise InteropError(f"{where}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = "there is no " * isinstance(error, KeyError) + " ".join(str(error).split()).rstrip(".")
        raise InteropError(f"{where}: no {what} can be built from it: {cause}.") from None


def checked_state(expected: Mapping[str, Tensor], found: Mapping[str, Any], where: Path) -> State:
    """A state dict in the dtypes of `expected`, which may be on the meta device, with its names and shapes.

    Raises:
        InteropError: If a name is missing or surplus, a shape differs, a tensor does not hold real numbers of 16 bits
            or more, or a number is not finite in the expected dtype.
    """
    missing = [name for name in expected if name not in found]
    surplus = [name for name in found if name not in expected]
    if missing or surplus:
        name, verb = (missing[0], "lacks") if missing else (surplus[0], "has an unknown")
        others = len(missing or surplus) - 1
        more = f" and {others} more" if others else ""
        raise InteropError(f"{where}: does not match its configuration: it {verb} '{name}'{more}.")
    state: State = {}
    for name, tensor in expected.items():
        given = numbers(found[name], name, where)
        if given.shape != tensor.shape:
            raise InteropError(
                f"{where}: does not match its configuration: '{name}' has shape {list(given.shape)}; expected is "
                f"{list(tensor.shape)}."
            )
        state[name] = given.to(tensor.dtype)
        if not bool(state[name].isfinite().all()):
            raise InteropError(f"{where}: '{name}' holds numbers that are not finite in {_kind(state[name])}.")
    return state


def numbers(value: Any, name: str, where: Path) -> Tensor:
    """Check that `value` is a strided tensor of real numbers; returns it."""
    if (
        isinstance(value, Tensor)
        and not value.is_nested
        and not value.is_meta
        and value.layout is torch.strided
        and value.dtype in _DTYPES
    ):
        return value
    allowed = ", ".join(map(_name, _DTYPES))
    raise InteropError(f"{where}: '{name}' is of {_kind(value)}; expected are real numbers: {allowed}.")


def width_of(state: Mapping[str, Any], name: str, where: Path, axis: int = 0) -> int:
    """The size of an axis of a tensor, from which options of the network follow."""
    tensor = state.get(name)
    if not isinstance(tensor, Tensor) or tensor.ndim <= axis:
        raise InteropError(f"{where}: weights of another network: it lacks '{name}'.")
    if not tensor.shape[axis]:
        raise InteropError(f"{where}: weights of another network: '{name}' has shape {list(tensor.shape)}.")
    return tensor.shape[axis]


def numbered(state: Mapping[str, Any], name: str) -> int:
    """How many names a state dict has that are `name` with 0, 1, ... for {}, without a gap."""
    return next(number for number in itertools.count() if name.format(number) not in state)


def renamed(state: Mapping[str, Tensor], parts: Iterable[tuple[str, str]]) -> State:
    """The state dict with parts of its names replaced, in turn."""
    result: State = {}
    for name, tensor in state.items():
        new = name
        for old, present in parts:
            new = new.replace(old, present)
        result[new] = tensor
    return result


def _kind(value: Any) -> str:
    """A tensor's dtype, and its layout or device if unusual."""
    if not isinstance(value, Tensor):
        return f"type {type(value).__name__}"
    unusual = "meta" if value.is_meta else _name(value.layout)
    return f"{unusual} {_name(value.dtype)}".removeprefix("strided ")


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")

"""Whether an object offers what a documented protocol or base class asks of a part."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any


def violation(part: object, contract: type, called: str = "part") -> str | None:
    """What a part lacks of its contract, in words; None if it lacks nothing.

    Args:
        part: Of any class.
        contract: A protocol, whose attributes the part must have and whose methods it must accept calls of; or another
            class, of which it must be an instance, and whose abstract methods it must accept calls of.
        called: Name of the part in its expected call, if it is a function.
    """
    title = f"{contract.__module__}.{contract.__qualname__}"
    if not getattr(contract, "_is_protocol", False) and not isinstance(part, contract):
        return f"must be an instance of {title}, and {described(part)} is not one"
    for name, wanted in _members(contract).items():
        if wanted is None:
            if not hasattr(part, name):
                return f"needs the attribute {name} (see {title}) and has none"
        elif (found := _callable(part, name)) is None:
            return f"must be called as {_call(name, wanted, called)} (see {title}); it has no such method"
        elif not _accepts(found, wanted):
            takes = str(inspect.signature(found)).partition(" -> ")[0]
            call = _call(name, wanted, called)
            return f"must be called as {call} (see {title}); it takes {takes}"
    return None


def contract_of(annotation: object) -> type | None:
    """The one class of this package that an annotation asks for, beside None; None for all other annotations."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(annotation) if part is not types.NoneType]
        annotation = parts[0] if len(parts) == 1 else None
    ours = inspect.isclass(annotation) and annotation.__module__.partition(".")[0] == __name__.partition(".")[0]
    return typing.cast("type", annotation) if ours else None


def described(part: object) -> str:
    """The name of a function or class, or of the class of an object."""
    return str(getattr(getattr(part, "func", part), "__name__", type(part).__name__))


def _members(contract: type) -> dict[str, Callable[..., Any] | None]:
    """Attributes (None) and methods of a protocol and of those that it extends; of another class, abstract methods."""
    if not getattr(contract, "_is_protocol", False):
        return {name: getattr(contract, name) for name in sorted(getattr(contract, "__abstractmethods__", ()))}
    found: dict[str, Callable[..., Any] | None] = {}
    for base in reversed(contract.__mro__):
        if getattr(base, "_is_protocol", False) and base is not typing.Protocol:
            found |= dict.fromkeys(inspect.get_annotations(base))
            methods = {name: value for name, value in vars(base).items() if inspect.isfunction(value)}
            found |= {name: value for name, value in methods.items() if name == "__call__" or name[0] != "_"}
    return found


def _callable(part: object, name: str) -> Callable[..., Any] | None:
    if name == "__call__" and hasattr(part, "register_forward_hook"):
        name = "forward"  # of an nn.Module, whose own call takes anything; torch is not imported here
    found = part if name == "__call__" else getattr(part, name, None)
    return found if callable(found) else None


def _accepts(found: Callable[..., Any], wanted: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # built in
        return True
    parameters = list(inspect.signature(wanted).parameters.values())[1:]  # without self
    required = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    positional = [None for p in required if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    try:
        signature.bind(*positional, **{p.name: None for p in required if p.kind is p.KEYWORD_ONLY})
    except TypeError:
        return False
    return True


def _call(name: str, wanted: Callable[..., Any], called: str) -> str:
    """A method's call as a reader writes it, with the types that it takes and returns."""
    signature = inspect.signature(wanted)
    parameters = list(signature.parameters.values())[1:]
    shown = str(signature.replace(parameters=parameters)).replace(", /", "").replace("'", "")
    return f"{called}{shown}" if name == "__call__" else f"{name}{shown}"

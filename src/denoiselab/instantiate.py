"""Configuration to objects, through an allow-list that is checked on the whole tree before the first object.

Hydra's own `instantiate` calls whatever a string names; its block list is, by its own word, not a boundary. Here a
`_target_` must resolve to a class or function that was defined (not merely imported) under an allowed prefix.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from denoiselab import packages
from denoiselab.errors import BadInput, closest, not_given

# What a model and its data are made of, and what measures one.
MODEL = tuple(
    f"denoiselab.{part}."
    for part in (
        "schedules",
        "networks",
        "denoiser",
        "variances",
        "codecs",
        "conditioners",
        "frozen",
        "objectives",
        "samplers",
        "data",
    )
)
MEASURES = ("denoiselab.evaluation.", "denoiselab.likelihood.")
_FUNCTIONS = (
    "denoiselab.parameterizations.",
    "denoiselab.schedules.betas.",
    "denoiselab.samplers.tableaus.",
    *(f"denoiselab.objectives.{part}." for part in ("weights", "distances", "projections")),
)
_ALL = (
    *MODEL,
    *MEASURES,
    *(f"denoiselab.{part}." for part in ("training", "interop")),
    "torch.optim.",
    *(f"pytorch_lightning.{part}." for part in ("trainer", "callbacks", "profilers", "strategies")),
)


def targets(node: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every (dotted path, node) of the tree that has a `_target_`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{path}.{index}")


def check(tree: Mapping[str, Any], allowed: Sequence[str] = _ALL) -> None:
    """Check all `_target_` nodes: that they are allowed, take the options given, and of the types given.

    Args:
        tree: Plain containers.
        allowed: Where classes may be defined: for configurations read from a checkpoint `MODEL` or `MEASURES`.

    Raises:
        BadInput: One of them fails; nothing was called.
    """
    nodes = [(path, node, resolve(node["_target_"], path, allowed)) for path, node in targets(tree)]
    for path, node, target in nodes:
        _check_options(path, node, target)


def resolve(name: Any, path: str, allowed: Sequence[str] = _ALL) -> Callable[..., Any]:
    """The class or function that `name` stands for.

    Raises:
        BadInput: It is not allowed, or there is no such thing.
    """
    own = packages.allowed()
    classes = (*allowed, *own)
    refusal = BadInput(f"{path}._target_={name}: {_allowance(str(name), (*classes, *_FUNCTIONS))}")
    if not isinstance(name, str) or not f"{name}.".startswith((*classes, *_FUNCTIONS, "pytorch_lightning.Trainer.")):
        raise refusal
    module_name, _, attribute = name.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError):
        raise BadInput(f"{path}._target_={name}: there is no such class or function.") from None
    # What it is, not what it is called: an allowed module also holds what it imports.
    home = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    prefixes = classes if inspect.isclass(target) else (*_FUNCTIONS, *own) if inspect.isfunction(target) else ()
    if "<" in home or not f"{home}.".startswith(prefixes):
        raise refusal
    return typing.cast("Callable[..., Any]", target)


def _allowance(name: str, prefixes: Sequence[str]) -> str:
    """What is allowed instead of a refused name, or how its package becomes allowed."""
    root, dot, _ = name.partition(".")
    if dot and root.isidentifier() and root not in sys.stdlib_module_names and root not in _roots(prefixes):
        return (
            f"{root} is not an allowed package; if you trust its code, set {packages.ALLOW_VARIABLE}={root} in the "
            f"environment, or install it with an entry point of the group {packages.GROUP}."
        )
    return f"not allowed; allowed are {', '.join(f'{prefix}*' for prefix in prefixes)}."


def _roots(prefixes: Sequence[str]) -> set[str]:
    return {prefix.partition(".")[0] for prefix in prefixes}


def construct(node: Any, path: str, refusals: tuple[type[Exception], ...] = (), /, **given: Any) -> Any:
    """Build a checked node, its parts first.

    Args:
        node: Plain containers; with `_partial_: true` a function is returned that takes the rest.
        path: Dotted name, for messages.
        refusals: Exceptions of a library by which its classes refuse arguments, beside ValueError and TypeError.
        given: Arguments from the program, beside the configured ones.

    Raises:
        BadInput: A constructor refuses its arguments.
    """
    if isinstance(node, list):
        return [construct(value, f"{path}.{index}", refusals) for index, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    options = {k: construct(v, f"{path}.{k}", refusals) for k, v in node.items() if k not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return options
    target = resolve(node["_target_"], path)
    if node.get("_partial_", False):
        return functools.partial(target, **options) if options else target
    refused: tuple[type[Exception], ...] = (ValueError, TypeError, *refusals)
    try:
        return target(**given, **options)
    except BadInput:
        raise
    except refused as error:
        text = " ".join(str(error).split())
        if missing := re.search(r"missing \d+ required [\w-]+ arguments?: '(\w+)'", text):
            raise not_given(f"{path}.{missing[1]}") from error
        raise BadInput(text if text.startswith(path) else f"{path}.{text}") from error


def check_type(path: str, value: Any, annotation: Any) -> None:
    """Refuse a value that its annotation does not allow.

    Raises:
        BadInput: It does not.
    """
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticSchemaGenerationError:
        return
    except Exception:  # types that take no configuration bring their own
        try:
            adapter = TypeAdapter(annotation)
        except PydanticSchemaGenerationError:  # a protocol: only an object, made from a node, can be one
            if value is None and type(None) in typing.get_args(annotation):
                return
            raise BadInput(f"{path}={value!r}: it must be a node with a _target_.") from None
    try:
        adapter.validate_python(value, strict=not isinstance(value, (list, dict)))
    except ValidationError as error:
        messages = dict.fromkeys(detail["msg"].removeprefix("Input ") for detail in error.errors())
        readable = " or ".join(m for m in messages if "instance of" not in m) or "is of the wrong type"
        raise BadInput(f"{path}={value!r}: {readable.removeprefix('Value error, ')}.") from None


def _check_options(path: str, node: Mapping[str, Any], target: Callable[..., Any]) -> None:
    parameters = inspect.signature(target).parameters
    function: Any = target.__init__ if inspect.isclass(target) else target
    try:
        # Decorated constructors carry the hints of the function within.
        hints = typing.get_type_hints(target if dataclasses.is_dataclass(target) else inspect.unwrap(function))
    except (NameError, TypeError):
        hints = {}
    if node.get("_partial_", False) and inspect.isclass(target) and path != "optimizer":
        raise BadInput(f"{path}._partial_=true: {target.__name__} must be built whole here; leave _partial_ out.")
    sink = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        if value == "???":
            raise not_given(f"{path}.{key}")
        if key not in parameters and not sink:
            raise BadInput(
                f"{path}.{key}={value}: unknown option; {closest(key, parameters)}"
                f"{target.__name__} takes: {', '.join(parameters) or 'nothing'}."
            )
        if key in hints and not any(True for _ in targets(value)):
            check_type(f"{path}.{key}", value, hints[key])

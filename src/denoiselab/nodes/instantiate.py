"""Configuration to objects, through an allow-list that is checked on the whole tree before the first object.

Hydra's own `instantiate` calls whatever a string names; its block list is, by its own word, not a boundary. Here a
`_target_` must resolve to a class or function that was defined (not merely imported) under an allowed prefix.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from denoiselab.errors import BadInput, not_given
from denoiselab.nodes import packages, signatures
from denoiselab.nodes.contracts import contract_of, described, violation
from denoiselab.nodes.options import SPECIAL, check_node, targets

# What a model and its data are made of, and what measures one.
MODEL = tuple(
    f"denoiselab.{part}."
    for part in (
        "schedules",
        "networks",
        "denoiser",
        "guidance",
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

# Any public function defined here may be a target too, even of a configuration read from a checkpoint: these packages
# compute tensors from numbers, and their functions open no file, socket or process, which a test reads in their source.
# Elsewhere, as in denoiselab.data, functions write files, so only classes may be targets there.
_FUNCTIONS = tuple(f"denoiselab.{part}." for part in ("parameterizations", "schedules", "samplers", "objectives"))
_ALL = (
    *MODEL,
    *MEASURES,
    *(f"denoiselab.{part}." for part in ("classifiers", "guides", "training", "interop", "inverse", "app.tasks")),
    "torch.optim.",
    "optuna.pruners.",
    *(f"pytorch_lightning.{part}." for part in ("trainer", "callbacks", "profilers", "strategies")),
)


def check(tree: Mapping[str, Any], allowed: Sequence[str] = _ALL) -> None:
    """Check all `_target_` nodes: that they are allowed, take the options given, and of the types given.

    Args:
        tree: Plain containers.
        allowed: Where classes may be defined: for configurations read from a checkpoint `MODEL` or `MEASURES`.
    """
    check_names(tree, allowed)
    nodes = [(path, node, resolve(node["_target_"], path, allowed)) for path, node in targets(tree)]
    for path, node, target in nodes:
        check_node(path, node, signatures.inspected(target))


def check_names(tree: Mapping[str, Any], allowed: Sequence[str] = _ALL) -> None:
    """Refuse a tree with a `_target_` whose dotted name is not allowed; nothing is imported."""
    for path, node in targets(tree):
        _check_name(node["_target_"], path, allowed)


def _check_name(name: Any, path: str, allowed: Sequence[str]) -> None:
    prefixes = (*allowed, *packages.allowed(), *_FUNCTIONS, "pytorch_lightning.Trainer.")
    if not isinstance(name, str) or not f"{name}.".startswith(prefixes):
        raise _refusal(name, path, allowed)


def resolve(name: Any, path: str, allowed: Sequence[str] = _ALL) -> Callable[..., Any]:
    """The class or function that `name` stands for."""
    _check_name(name, path, allowed)
    try:
        target = packages.definition(name)
    except ValueError as error:
        raise BadInput(f"{path}._target_={name}: {error}") from error
    # What it is, not what it is called: an allowed module also holds what it imports.
    home = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
    kinds = allowed if inspect.isclass(target) else _FUNCTIONS
    prefixes = (*kinds, *packages.allowed()) if inspect.isclass(target) or inspect.isfunction(target) else ()
    if "<" in home or home.rpartition(".")[2].startswith("_") or not f"{home}.".startswith(prefixes):
        raise _refusal(name, path, allowed)
    return typing.cast("Callable[..., Any]", target)


def _refusal(name: Any, path: str, allowed: Sequence[str]) -> BadInput:
    prefixes = tuple(dict.fromkeys((*allowed, *packages.allowed(), *_FUNCTIONS)))
    return BadInput(f"{path}._target_={name}: {_allowance(str(name), prefixes)}")


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
    """
    if isinstance(node, list):
        return [construct(value, f"{path}.{index}", refusals) for index, value in enumerate(node)]
    if not isinstance(node, Mapping):
        return node
    options = {k: construct(v, f"{path}.{k}", refusals) for k, v in node.items() if k not in SPECIAL}
    if "_target_" not in node:
        return options
    target = resolve(node["_target_"], path)
    for key, value in options.items():
        if isinstance(node[key], Mapping) and key in _contracts(target):
            check_contract(f"{path}.{key}", value, _contracts(target)[key])
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


def check_contract(path: str, part: object, contract: type) -> None:
    """Refuse a part that lacks what its protocol or base class asks for."""
    if (wrong := violation(part, contract, path.rpartition(".")[2])) is not None:
        raise BadInput(f"{path}={described(part)}: {wrong}.")


@functools.cache
def _contracts(target: Callable[..., Any]) -> dict[str, type]:
    """The contracts of a target's options, from their annotations."""
    options = signatures.inspected(target).parameters
    return {name: found for name, one in options.items() if (found := contract_of(one.type())) is not None}

"""Options of `_target_` nodes, checked and completed by the signature of what they name; nothing is imported or built.

An option may be any parameter of the signature. One that is not given has the default of the signature, which
`completed` writes into the node, so that a configuration states all that it stands for.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from denoiselab.errors import BadInput, closest, not_given
from denoiselab.nodes import signatures
from denoiselab.nodes.signatures import COMPUTED, REQUIRED, Signature

# Arguments of the Trainer that the program gives.
PROGRAM_SETS = (
    *("max_steps", "max_epochs", "min_steps", "min_epochs", "max_time", "logger", "callbacks", "plugins"),
    *("enable_progress_bar", "enable_model_summary", "use_distributed_sampler", "default_root_dir", "fast_dev_run"),
)
_TRAINERS = (
    "pytorch_lightning.Trainer",
    "pytorch_lightning.trainer.Trainer",
    "pytorch_lightning.trainer.trainer.Trainer",
)

# Keys of a node that are no options.
SPECIAL = ("_target_", "_partial_")


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


def check(tree: Mapping[str, Any]) -> None:
    """Check the options of all nodes whose signature can be read from source files.

    Args:
        tree: Plain containers.
    """
    for path, node in targets(tree):
        signature = signatures.read(node["_target_"]) if isinstance(node["_target_"], str) else None
        if signature is not None:
            check_node(path, node, signature)


def check_node(path: str, node: Mapping[str, Any], signature: Signature) -> None:
    """Check the options of one node.

    Args:
        path: Dotted name of the node.
        node: Plain containers.
        signature: Of its `_target_`.
    """
    if node.get("_partial_", False) and signature.is_class and path != "optimizer":
        raise BadInput(f"{path}._partial_=true: {signature.name} must be built whole here; leave _partial_ out.")
    for key, value in node.items():
        if key in SPECIAL:
            continue
        parameter = signature.parameters.get(key)
        if value == "???":
            raise not_given(f"{path}.{key}", "" if parameter is None else parameter.doc)
        if parameter is None and not signature.more:
            raise BadInput(f"{path}.{key}={value}: unknown option; {hint(path, key, signature)}")
        if parameter is not None and not any(True for _ in targets(value)):
            check_type(f"{path}.{key}", value, parameter.type())


def hint(path: str, key: str, signature: Signature) -> str:
    """What is meant instead of an unknown option `key` of a node, and what it takes."""
    near = closest(key, signature.parameters).replace("'", f"'{path}.", 1)
    return f"{near}{taken(path, signature)}"


def taken(path: str, signature: Signature) -> str:
    """What a node takes, in a sentence."""
    names = ", ".join(name for name in signature.parameters if name not in program_sets(signature.target))
    return f"{signature.name} takes: {names or 'nothing'}{f' (--help {path} explains them)' if names else ''}."


def program_sets(target: str) -> tuple[str, ...]:
    """The parameters of a class that the program gives, so that no configuration may."""
    return PROGRAM_SETS if target in _TRAINERS else ()


def check_type(path: str, value: Any, annotation: Any) -> None:
    """Refuse a value that its annotation does not allow."""
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
        simple = [m for m in messages if "instance of" not in m and "callable" not in m]
        otherwise = "a list" if any("Sequence" in one for one in messages) else "a node with a _target_"
        readable = " or ".join(simple) or f"it must be {otherwise}"
        raise BadInput(f"{path}={value!r}: {readable.removeprefix('Value error, ')}.") from None


def completed(node: Any) -> Any:
    """A copy of a tree of plain containers, in which each node also has the defaults that its signature states.

    Defaults that are no literals, and signatures that cannot be read from source files, are left out.
    """
    if isinstance(node, list):
        return [completed(value) for value in node]
    if not isinstance(node, Mapping):
        return node
    return {key: completed(value) for key, value in node.items()} | defaults(node)


def defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a node's signature for the options that it does not have."""
    target = node.get("_target_")
    signature = signatures.read(target) if isinstance(target, str) else None
    if signature is None:
        return {}
    aside = program_sets(signature.target)
    return {
        name: _plain(one.default)
        for name, one in signature.parameters.items()
        if one.default not in (REQUIRED, COMPUTED) and name not in node and name not in aside
    }


def _plain(value: Any) -> Any:
    """A literal as a configuration file has it."""
    if isinstance(value, (tuple, list)):
        return [*map(_plain, value)]
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value

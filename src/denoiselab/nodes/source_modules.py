"""Source files as syntax trees: where a dotted name is defined, what a literal is, what a written type stands for."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib.util
import math
import operator
import pathlib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

# Where names mean the same object everywhere; looking at these imports nothing new.
_KNOWN = {
    "typing": typing,
    "collections.abc": collections.abc,
    "builtins": builtins,
    "pathlib": pathlib,
    "math": math,
}

_OPERATIONS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.USub: operator.neg,
}

_BUILTINS = ("int", "float", "bool", "str", "bytes", "list", "tuple", "dict", "set", "frozenset", "object", "type")


class Object:
    """Stands for every class of which a configuration holds no instances, only nodes that become one."""


class Found(NamedTuple):
    """A definition.

    Attributes:
        node: Of a class or a function, or the value of an assignment.
        module: Where it is written.
    """

    node: ast.AST
    module: Module


@dataclass(frozen=True, eq=False)
class Module:
    """A source file.

    Args:
        name: Dotted name.
        is_package: Whether it is the `__init__.py` of a package.
        names: What it binds at its top level: a definition, a value, or an import as (module, name).
        stars: The modules of which it imports all names.
    """

    name: str
    is_package: bool
    names: dict[str, ast.AST | tuple[str, str]]
    stars: tuple[str, ...] = ()

    def find(self, name: str) -> Found | None:
        """The definition of a name in this module, which it may import from its own package."""
        return locate(self.name, name)

    def literal(self, node: ast.expr) -> Any:
        """The value of an expression of literals, arithmetic and constants of modules; `...` of another one."""
        try:
            return self._literal(node)
        except (ValueError, TypeError, ArithmeticError, RecursionError):
            return ...

    def _literal(self, node: ast.AST) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Tuple(elts=parts):
                return tuple(map(self._literal, parts))
            case ast.List(elts=parts):
                return [*map(self._literal, parts)]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {
                    self._literal(key): self._literal(value) for key, value in zip(keys, values, strict=True) if key
                }
            case ast.UnaryOp(op=op, operand=value) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](self._literal(value))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
                return _OPERATIONS[type(op)](self._literal(left), self._literal(right))
            case ast.Attribute(value=ast.Name(id="math"), attr=name) if hasattr(math, name):
                return getattr(math, name)
            case ast.Name(id=("list" | "dict" | "tuple") as name):  # default_factory=list
                return getattr(builtins, name)()
            case ast.Name(id=name) if (found := self.find(name)) is not None:
                return found.module._literal(found.node)
        raise ValueError(ast.unparse(node))


@functools.cache
def module(name: str) -> Module | None:
    """The module of a dotted name; None if its source is not found."""
    place = _place(name)
    if place is None:
        return None
    path, is_package = place
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
    names: dict[str, ast.AST | tuple[str, str]] = {}
    stars: list[str] = []
    for node in _top_level(tree.body):
        match node:
            case ast.ClassDef(name=bound) | ast.FunctionDef(name=bound):
                names[bound] = node
            case ast.Assign(targets=[ast.Name(id=bound)], value=value):
                names[bound] = value
            case ast.AnnAssign(target=ast.Name(id=bound), value=ast.expr() as value):
                names[bound] = value
            case ast.Import(names=aliases):
                names |= {alias.asname: (alias.name, "") for alias in aliases if alias.asname}
                names |= {alias.name.partition(".")[0]: (alias.name.partition(".")[0], "") for alias in aliases}
            case ast.ImportFrom(module=origin, names=aliases, level=level):
                base = name.split(".")
                base = base[: len(base) - level + is_package] if level else []
                start = ".".join([*base, *([origin] if origin else [])])
                names |= {alias.asname or alias.name: (start, alias.name) for alias in aliases}
                stars += [start for alias in aliases if alias.name == "*"]
    return Module(name, is_package, names, tuple(stars))


def locate(module_name: str, name: str, _seen: frozenset[tuple[str, str]] = frozenset()) -> Found | None:
    """The definition of `name` in a module, through imports of its own top-level package and of this one."""
    here = module(module_name)
    if here is None or (module_name, name) in _seen:
        return None
    bound, seen = here.names.get(name), _seen | {(module_name, name)}
    if bound is not None and not isinstance(bound, tuple):
        return Found(bound, here)
    places = [bound] if bound is not None else [(star, name) for star in here.stars]
    found = (locate(*place, seen) for place in places if _is_read(place[0], here))
    return next((one for one in found if one is not None), None)


def type_of(node: ast.AST | None, here: Module | None) -> Any:
    """The type that an annotation stands for.

    Classes become `Object`, as a configuration gives nodes for them; names that are defined in other packages than the
    module's own become Any.
    """
    try:
        return _type_of(node, here, 0)
    except (TypeError, ValueError, AttributeError, SyntaxError, RecursionError):
        return Any


def _type_of(node: ast.AST | None, here: Module | None, depth: int) -> Any:
    if depth > 20:
        return Any
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _type_of(ast.parse(text, mode="eval").body, here, depth + 1)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return typing.Union[_type_of(left, here, depth + 1), _type_of(right, here, depth + 1)]  # noqa: UP007
        case ast.Subscript(value=value, slice=arguments):
            return _subscripted(value, arguments, here, depth)
        case ast.Name(id=name):
            return _named(name, here, depth)
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if here is not None:
            bound = here.names.get(owner)
            if isinstance(bound, tuple):
                return _imported(".".join(part for part in bound if part), name, here, depth)
    return Any


def _subscripted(value: ast.AST, arguments: ast.expr, here: Module | None, depth: int) -> Any:
    outer = _type_of(value, here, depth + 1)
    if outer is Object:
        return Object
    if outer is Any:
        return Any
    if outer is typing.Literal:
        parts = arguments.elts if isinstance(arguments, ast.Tuple) else [arguments]
        return typing.Literal[tuple(ast.literal_eval(part) for part in parts)]
    if outer in (collections.abc.Callable, typing.Callable):
        return outer
    if outer is typing.Annotated:
        assert isinstance(arguments, ast.Tuple)
        return _type_of(arguments.elts[0], here, depth + 1)
    parts = arguments.elts if isinstance(arguments, ast.Tuple) else [arguments]
    inner = tuple(
        ... if isinstance(part, ast.Constant) and part.value is ... else _type_of(part, here, depth + 1)
        for part in parts
    )
    return outer[inner if len(inner) > 1 else inner[0]]


def _named(name: str, here: Module | None, depth: int) -> Any:
    bound = here.names.get(name) if here is not None else None
    if bound is None:
        return getattr(builtins, name) if name in _BUILTINS else Any
    if isinstance(bound, tuple):
        assert here is not None
        return _imported(bound[0], bound[1], here, depth)
    return Object if isinstance(bound, ast.ClassDef) else _type_of(bound, here, depth + 1)


def _imported(origin: str, name: str, here: Module, depth: int) -> Any:
    if origin in _KNOWN:
        return getattr(_KNOWN[origin], name)
    root = origin.partition(".")[0]
    if (origin, name) == ("torch", "Tensor") or (root == "torch" != _top(here.name) and name[:1].isupper()):
        return Object
    if not _is_read(origin, here):
        return Any
    found = locate(origin, name)
    if found is None:
        return Any
    return Object if isinstance(found.node, ast.ClassDef) else _type_of(found.node, found.module, depth + 1)


def _is_read(origin: str, here: Module) -> bool:
    """Whether what a module imports is read too: from its own top-level package, or from this one."""
    return _top(origin) in (_top(here.name), _top(__name__))


def _top(name: str) -> str:
    return name.partition(".")[0]


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        match node:
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                yield from _top_level([*inner, *other])
            case _:
                yield node


def _place(name: str) -> tuple[Path, bool] | None:
    """The file of a module, and whether it is a package, found without importing any of its parents."""
    root, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    if not rest:
        return (Path(spec.origin), bool(folders)) if spec.origin and spec.origin.endswith(".py") else None
    for folder in folders:
        below = folder.joinpath(*rest)
        for path, is_package in ((below / "__init__.py", True), (below.with_name(f"{below.name}.py"), False)):
            if path.is_file():
                return path, is_package
    return None

"""A digest of the code that computed a result: of the modules involved, and of what these import.

A git revision changes with every commit but not with uncommitted edits, and installed packages have none. This digest
changes when a statement of an involved module changes, and not with comments, docstrings or layout.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_PACKAGE = "denoiselab"
_ROOT = Path(__file__).parent

# Modules that check, read, write and show; results do not depend on them.
_APART = re.compile(
    r"denoiselab\.(app|training|guides|cleaning|files|progress|code_digest|evaluation\.(report|store|ranks|memory))(\..*)?"
)

# The sources at the start of the process, since files may be edited while it runs; parsed when needed.
_TEXTS = {path: path.read_bytes() for path in _ROOT.rglob("*.py")}


def modules_of(*objects: object) -> list[str]:
    """Names of own modules that define the classes and functions of objects, of their attributes and elements.

    Own modules are those of this package, and those that are not installed: a user's script or package.
    """
    found: set[str] = set()
    seen: set[int] = set()
    stack: list[object] = [*objects]
    while stack:
        one = stack.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            stack += one.values()
        elif isinstance(one, (list, tuple, set, frozenset)):
            stack += one
        elif isinstance(one, functools.partial):
            stack += [one.func, *one.args, *one.keywords.values()]
        else:
            definition: Any = one if hasattr(one, "__qualname__") else type(one)
            module = getattr(definition, "__module__", None)
            if isinstance(module, str) and _is_ours(module):
                bases = getattr(definition, "__mro__", (definition,))
                found |= {base.__module__ for base in bases if _is_ours(base.__module__)}
                stack += getattr(one, "__dict__", {}).values() if definition is not one else ()
            elif hasattr(one, "children"):  # a container of torch
                stack += one.children()
    return sorted(name for name in found if not _APART.fullmatch(name))


def sha256_of_code(modules: Iterable[str]) -> str:
    """SHA-256 of the code of modules and of own modules that they import; of a missing module only its name counts."""
    found: dict[str, str] = {}
    stack = [*modules]
    while stack:
        name = stack.pop()
        if name not in found and not _APART.fullmatch(name):
            code, imports = _parsed(name)
            found[name] = code
            stack += imports
    return hashlib.sha256("\n".join(f"{name} {found[name]}" for name in sorted(found)).encode()).hexdigest()


@functools.cache
def _is_ours(module: str) -> bool:
    if module.partition(".")[0] == _PACKAGE:
        return True
    path = _file(module)
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    # An environment may see the packages of another one: of the system, of the user, by PYTHONPATH or a .pth file.
    elsewhere = path is not None and {"site-packages", "dist-packages"} & {*path.parts}
    return path is not None and not elsewhere and not any(path.is_relative_to(place) for place in installed)


def _file(module: str) -> Path | None:
    """The source of a module, found without importing anything."""
    if not re.fullmatch(r"\w+(\.\w+)*", module):
        return None
    top, _, rest = module.partition(".")
    if top == _PACKAGE:
        place = _ROOT.joinpath(*rest.split(".")) if rest else _ROOT
    else:
        own = getattr(sys.modules.get(module), "__file__", None)
        if own is not None:
            return Path(own) if own.endswith(".py") and Path(own).is_file() else None
        above = getattr(sys.modules.get(top), "__file__", None)
        if above is None or not rest:
            return None
        place = Path(above).parent.joinpath(*rest.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@functools.cache
def _parsed(module: str) -> tuple[str, list[str]]:
    """The digest of a module's own code, and the own modules that it imports from."""
    tree, package = _tree(module), _package(module)
    if tree is None:
        return "", []
    imports = [found for one in ast.walk(tree) for found in _imported(one, package)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [one for one in node.body if not _is_text(one)] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest(), sorted(set(imports))


@functools.cache
def _tree(module: str) -> ast.Module | None:
    path = _file(module)
    if path is None:
        return None
    return ast.parse(_TEXTS.get(path) or path.read_bytes())


def _package(module: str) -> str:
    path = _file(module)
    return module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Own modules that an import statement of a module in `package` reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _is_ours(alias.name))
    elif isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        if _is_ours(origin):
            yield from (_origin(origin, alias.name) for alias in node.names)


@functools.cache
def _origin(module: str, name: str) -> str:
    """The module that defines a name imported from `module`, which may be a package that re-exports it."""
    if _file(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    tree = _tree(module)
    if tree is not None and _package(module) == module:
        for node in tree.body:
            # A relative import names no module of that name; an import of the package from itself defines nothing.
            if not isinstance(node, ast.ImportFrom) or node.level or node.module in (None, module):
                continue
            if _is_ours(node.module):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _origin(node.module, alias.name)
    return module

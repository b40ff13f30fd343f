"""What a `_target_` takes: its parameters, read from source text without importing anything.

Importing a class of a model takes seconds (torch alone takes two), and runs code; reading its file takes milliseconds.
`read` follows re-exports of packages, constructors that are inherited, fields of dataclasses, and options that a
constructor passes on to its base class by `**options`. What it cannot read, `inspected` tells of the imported object.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

from denoiselab.nodes import source_modules
from denoiselab.nodes.source_modules import Found, Module, locate

# The default of a parameter that must be given, and of one whose default is no literal.
REQUIRED = inspect.Parameter.empty
COMPUTED: EllipsisType = ...


@dataclass(frozen=True)
class Parameter:
    """One parameter of a class or function.

    Args:
        name: Its name.
        default: A literal; `REQUIRED` if there is none, `COMPUTED` if it is no literal.
        text: The annotation as it is written.
        type: Gives the annotation as a type, with classes of this package as themselves or as `Object`.
        doc: The first sentence of its entry in the docstring, on one line.
    """

    name: str
    default: Any
    text: str
    type: Callable[[], Any] = field(repr=False)
    doc: str = ""


@dataclass(frozen=True)
class Signature:
    """The parameters of a class or function.

    Args:
        target: Dotted name of the class or function, as it is asked for.
        parameters: In the order of their definition, without `self`.
        more: Whether it takes further ones by `**options` that cannot be read.
        is_class: Whether it is a class.
        doc: The first sentence of its docstring.
    """

    target: str
    parameters: Mapping[str, Parameter]
    more: bool = False
    is_class: bool = True
    doc: str = ""

    @property
    def name(self) -> str:
        """The last part of the dotted name."""
        return self.target.rpartition(".")[2]


@functools.cache
def read(target: str) -> Signature | None:
    """The signature of `package.module.name`, imported nowhere; None if the source does not say it."""
    module_name, _, name = target.rpartition(".")
    found = locate(module_name, name)
    if found is None:
        return None
    match found.node:
        case ast.ClassDef():
            signature = _of_class(found, target)
            return signature and dataclasses.replace(signature, doc=_summary(found.node))
        case ast.FunctionDef(args=arguments):
            parameters = _arguments(arguments, found.module, _documented(found.node), skip=0)
            return Signature(target, parameters, arguments.kwarg is not None, False, _summary(found.node))
    return None


def class_attribute(target: str, name: str, default: Any) -> Any:
    """The literal value of an attribute that a class or one that it extends sets, imported nowhere."""
    module_name, _, class_name = target.rpartition(".")
    found = locate(module_name, class_name)
    if found is not None and isinstance(found.node, ast.ClassDef):
        for one in _ancestors(found):
            for part in _class(one).body:
                match part:
                    case ast.AnnAssign(target=place, value=ast.expr() as value) | ast.Assign([place], value) if (
                        _last(place) == name
                    ):
                        return one.module.literal(value)
    return default


def inspected(target: Callable[..., Any]) -> Signature:
    """The signature of an imported class or function."""
    function: Any = target.__init__ if inspect.isclass(target) else target
    try:  # decorated constructors carry the hints of the function within
        hints = typing.get_type_hints(target if dataclasses.is_dataclass(target) else inspect.unwrap(function))
    except (NameError, TypeError):
        hints = {}
    parameters, more = {}, False
    for name, one in inspect.signature(target).parameters.items():
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            more = True
        elif one.kind is not inspect.Parameter.VAR_POSITIONAL:
            text = "" if one.annotation is inspect.Parameter.empty else str(one.annotation)
            parameters[name] = Parameter(name, one.default, text, functools.partial(hints.get, name, Any))
    return Signature(f"{target.__module__}.{target.__qualname__}", parameters, more, inspect.isclass(target))


def _of_class(found: Found, target: str) -> Signature | None:
    """The parameters of the constructor that a class has or inherits."""
    lineage = _lineage(found)
    docs: dict[str, str] = {}
    for ancestor in reversed([*_ancestors(found)]):
        docs |= _documented(ancestor.node)
    if lineage is None:
        lineage = [found]
    for index, ancestor in enumerate(lineage):
        node = _class(ancestor)
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                docs = {**_documented(part), **docs}
                return _constructor(target, part, ancestor.module, lineage[index + 1 :], docs)
        if _is_dataclass(node) or any(_last(base) == "NamedTuple" for base in node.bases):
            return Signature(target, _fields(lineage[index:], docs))
    return Signature(target, {}) if _lineage(found) is not None else None


def _constructor(
    target: str, function: ast.FunctionDef, module: Module, bases: list[Found], docs: Mapping[str, str]
) -> Signature | None:
    parameters = _arguments(function.args, module, docs, skip=1)
    rest = function.args.kwarg
    if rest is None:
        return Signature(target, parameters)
    if isinstance(rest.annotation, ast.Subscript) and _last(rest.annotation.value) == "Unpack":
        options = module.find(_last(rest.annotation.slice))
        if options is not None and isinstance(options.node, ast.ClassDef):
            lineage = _lineage(options) or [options]
            for ancestor in reversed(lineage):
                docs = {**_documented(ancestor.node), **docs}
            return Signature(target, parameters | _fields(lineage, docs, every=True))
    if bases and _passes_on(function, rest.arg):
        inherited = _of_class(bases[0], target)
        if inherited is not None:
            passed = {
                key: dataclasses.replace(one, doc=docs.get(key, one.doc))
                for key, one in inherited.parameters.items()
                if key not in parameters and key not in _set(function)
            }
            return Signature(target, parameters | passed, inherited.more)
    return Signature(target, parameters, more=True)


def _arguments(arguments: ast.arguments, module: Module, docs: Mapping[str, str], skip: int) -> dict[str, Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + [*arguments.defaults]
    pairs = [*zip(positional, defaults, strict=True)][skip:]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return {
        one.arg: _parameter(one.arg, one.annotation, default, module, docs.get(one.arg, "")) for one, default in pairs
    }


def _parameter(name: str, annotation: ast.expr | None, default: ast.expr | None, module: Module, doc: str) -> Parameter:
    value: Any = REQUIRED if default is None else module.literal(default)
    text = "" if annotation is None else ast.unparse(annotation)
    return Parameter(name, value, text, functools.partial(source_modules.type_of, annotation, module), doc)


def _fields(lineage: list[Found], docs: Mapping[str, str], *, every: bool = False) -> dict[str, Parameter]:
    """The fields of a dataclass and of the dataclasses that it extends; of a TypedDict with `every`."""
    parameters: dict[str, Parameter] = {}
    last: set[str] = set()  # keyword-only fields follow the others
    for ancestor in reversed(lineage):
        node = _class(ancestor)
        if not (every or _is_dataclass(node) or any(_last(base) == "NamedTuple" for base in node.bases)):
            continue
        words = [word.arg for one in node.decorator_list if isinstance(one, ast.Call) for word in one.keywords]
        for part in node.body:
            if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
                continue
            if "ClassVar" in ast.unparse(part.annotation):
                continue
            default = part.value
            last.discard(part.target.id)
            if "kw_only" in words:
                last.add(part.target.id)
            if isinstance(default, ast.Call) and _last(default.func) == "field":
                given = {word.arg: word.value for word in default.keywords}
                if isinstance(init := given.get("init"), ast.Constant) and not init.value:
                    parameters.pop(part.target.id, None)
                    continue
                default = given.get("default", given.get("default_factory"))
                if "kw_only" in given:
                    last.add(part.target.id)
            name = part.target.id
            parameters[name] = _parameter(name, part.annotation, default, ancestor.module, docs.get(name, ""))
    return dict(sorted(parameters.items(), key=lambda item: item[0] in last))


def _lineage(found: Found) -> list[Found] | None:
    """A class and those that it extends, nearest first; None if one of them is not in reach and may take options."""
    out = [found]
    for base in _class(found).bases:
        name = _last(base.value if isinstance(base, ast.Subscript) else base)
        if name in ("object", "ABC", "Protocol", "Generic", "NamedTuple", "TypedDict"):
            continue
        next_ = found.module.find(name) if isinstance(base, (ast.Name, ast.Subscript)) else None
        if next_ is None or not isinstance(next_.node, ast.ClassDef):
            return out if _has_constructor(out) else None
        further = _lineage(next_)
        if further is None:
            return [*out, next_] if _has_constructor([*out, next_]) else None
        out += further
    return out


def _ancestors(found: Found) -> Iterator[Found]:
    """A class and all that it extends, as far as they are in reach: their docstrings may describe its options."""
    yield found
    for base in _class(found).bases:
        extended = found.module.find(_last(base)) if isinstance(base, ast.Name) else None
        if extended is not None and isinstance(extended.node, ast.ClassDef):
            yield from _ancestors(extended)


def _has_constructor(lineage: list[Found]) -> bool:
    return any(
        _is_dataclass(_class(one))
        or any(isinstance(part, ast.FunctionDef) and part.name == "__init__" for part in _class(one).body)
        for one in lineage
    )


def _class(found: Found) -> ast.ClassDef:
    assert isinstance(found.node, ast.ClassDef)
    return found.node


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(_last(d.func if isinstance(d, ast.Call) else d) == "dataclass" for d in node.decorator_list)


def _last(node: ast.AST) -> str:
    """The name at the end of `a.b.c`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _super_calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            yield node


def _passes_on(function: ast.FunctionDef, name: str) -> bool:
    """Whether a constructor calls its base's with `**name`."""
    return any(
        word.arg is None and isinstance(word.value, ast.Name) and word.value.id == name
        for call in _super_calls(function)
        for word in call.keywords
    )


def _set(function: ast.FunctionDef) -> set[str]:
    """The options of its base's constructor that a constructor gives itself."""
    return {word.arg for call in _super_calls(function) for word in call.keywords if word.arg is not None}


def _documented(node: ast.AST) -> dict[str, str]:
    """Name to the first sentence, of the entries below `Args:` in a docstring."""
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
    text = ast.get_docstring(node) or ""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    if not section:
        return {}
    entries = re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:[ \n]((?:.*\n?)(?:^ {5,}.*\n?)*)", section[1], re.MULTILINE)
    return {name: _first_sentence(" ".join(words.split())) for name, words in entries}


def _summary(node: ast.AST) -> str:
    assert isinstance(node, (ast.ClassDef, ast.FunctionDef))
    paragraph = (ast.get_docstring(node) or "").partition("\n\n")[0]
    return _first_sentence(" ".join(paragraph.split()))


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[^.\s]\.)(?<!al\.)(?<!eq\.)(?<!sec\.)\s+(?=[A-Z])", text, maxsplit=1)[0]

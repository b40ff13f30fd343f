"""How texts such as paths are written on the command line, for Hydra and for a shell."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# Mappings from names that the user gives.
_OPEN = re.compile(r"(evaluation|task)\.(metric_options|extra_nfe)(\.|$)")


def override(key: str, value: str | Path | list[str]) -> str:
    """`key=value` for a shell and for Hydra, quoted where either would read the text as something else.

    Args:
        key: Dotted name of an option.
        value: A text, a path, or texts.
    """
    return shlex.quote(f"{key}={_listed(value) if isinstance(value, list) else _quoted(str(value))}")


def of_agent(argument: str) -> str:
    """Rewrite the value of an argument that a W&B agent has written as Python does: `None`, `['ddim', 'heun']`.

    Hydra would take `None` for a text, and reads no quoted keys. Other values are the same in both.
    """
    key, equals, value = argument.partition("=")
    try:
        parsed = ast.literal_eval(value) if equals else ""
    except (ValueError, SyntaxError, RecursionError):
        return argument
    return f"{key}={_of_python(parsed)}" if parsed is None or isinstance(parsed, (list, dict)) else argument


def _of_python(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{','.join(map(_of_python, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_quoted(str(name))}:{_of_python(one)}' for name, one in value.items())}}}"
    return _quoted(value) if isinstance(value, str) else str(value)


def readable(argument: str, *, multirun: bool = False) -> str:
    """Rewrite an argument of the command line so that Hydra's grammar accepts it.

    A value that cannot be parsed, such as a path with `=` or an umlaut, is quoted, and so are the parts of such a list.
    Outside a multirun a path with a comma is one path. Options of which users choose the names, such as those of single
    metrics, get `++`.

    Args:
        argument: As the shell gave it.
        multirun: Commas separate the values of a sweep.
    """
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    if _OPEN.match(key) and value.strip() != "{}":
        key = f"++{key}"
    return f"{key}={_readable(key, value, multirun=multirun)}"


def _readable(key: str, value: str, *, multirun: bool) -> str:
    there = _exists(value)
    try:
        parsed = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        if re.fullmatch(r"\[[^\[\]{}\"]*\]", value) and not there:
            return _listed([part.strip() for part in value[1:-1].split(",")])
        return value if value.startswith(("[", "{", "(", '"', "'")) and not there else _quote(value)
    path = parsed.is_sweep_override() and not multirun and (there or "/" in value)
    return _quote(value) if path else value


def _quoted(text: str) -> str:
    """A text in Hydra's grammar: unquoted if Hydra reads that back as the same text."""
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
    except HydraException:
        return _quote(text)
    same = not parsed.is_sweep_override() and parsed.value() == text
    return text if same and text and "\\" not in text else _quote(text)  # which in a list would hide a comma


def _listed(texts: list[str]) -> str:
    return f"[{','.join(map(_quoted, texts))}]"


def _quote(text: str) -> str:
    return QuotedString(text, Quote.double).with_quotes()


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return False

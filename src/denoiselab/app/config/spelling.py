"""How texts such as paths are written on the command line, for Hydra and for a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

# Mappings from names that the user gives.
_OPEN = re.compile(r"(evaluation|task)\.(metric_options|extra_nfe)(\.|$)")


def override(key: str, value: str | Path | list[str]) -> str:
    """`key=value` as a shell takes it and Hydra reads it: quoted where either would take a text for something else.

    Args:
        key: Dotted name of an option.
        value: A text, a path, or texts.
    """
    return shlex.quote(f"{key}={_listed(value) if isinstance(value, list) else _quoted(str(value))}")


def readable(argument: str, *, multirun: bool = False) -> str:
    """An argument of the command line in Hydra's grammar, which has no place for some texts.

    A value that cannot be parsed, such as a path with `=` or an umlaut, is the text that it is, and so are the parts
    of such a list. Outside a multirun a path with a comma is one path. Options whose names are the user's, such as
    those of single metrics, need no `+`.

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
    """A text as Hydra's grammar has it: as it is, if that is read back as the same text."""
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

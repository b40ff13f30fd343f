"""`--help sampler=dpmpp_2m` or `--help sampler.spacing`: what a node takes, without importing it."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from denoiselab.app.config import nodes, overrides
from denoiselab.cleaning import aligned
from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.nodes.options import SPECIAL, program_sets
from denoiselab.nodes.signatures import COMPUTED, REQUIRED, Parameter

_HEADINGS = ["option", "type", "default", "meaning"]


def explain(name: str, arguments: Sequence[str]) -> None:
    """Print the options of choices such as `sampler=ddim`, or of nodes such as `sampler.spacing`."""
    paths = [text for text in arguments if "=" not in text]
    given = [text for text in arguments if "=" in text]
    if paths:
        config = overrides.stated(name, given)
        for path in paths:
            node = OmegaConf.select(config, path, throw_on_resolution_failure=False)
            if node is None:
                raise BadInput(f"--help {path}: there is no such option in {name}.py; --help alone shows all.")
            _print(path, path, node, "")
        return
    for text in given:
        group, _, choice = text.partition("=")
        key, node = overrides.stated_choice(group, choice)
        content = overrides.text_of(group, choice)
        if key is None:
            console().print(f"{text}\n{content}".rstrip())
        else:
            _print(key, text, node, _comment(content))


def _print(key: str, title: str, node: Any, comment: str) -> None:
    out = console()
    out.print(title)
    if comment:
        out.print(comment)
    if nodes.signature_of(node) is None:
        out.print(OmegaConf.to_yaml(node) if OmegaConf.is_config(node) else f"{key}: {node!s}")
        return
    for path, part in _parts(key, node):
        signature = nodes.signature_of(part)
        if signature is not None:
            out.print(f"\n{path}: {signature.target}. {signature.doc}".rstrip())
            rows = [*_rows(path, part)]
            out.print(aligned([_HEADINGS, *rows], left=4) if rows else "It takes no options.")
    out.print("\nDefaults marked * are of the configuration, the others of the class.")


def _parts(path: str, node: Any) -> Iterator[tuple[str, DictConfig]]:
    """A node and those within it, with their paths."""
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        yield path, node
        for key in node:
            yield from _parts(".".join((path, str(key))), node._get_node(key))


def _rows(path: str, node: Any) -> Iterator[list[str]]:
    signature = nodes.signature_of(node)
    for name, one in signature.parameters.items() if signature is not None else ():
        if name not in program_sets(signature.target if signature else ""):
            yield [f"{path}.{name}", one.text, _default(one, node, name), one.doc]


def _default(parameter: Parameter, node: DictConfig, name: str) -> str:
    """The value of the configuration, with a mark, or the one of the signature."""
    if name in node and name not in SPECIAL:
        content = OmegaConf.to_container(node, resolve=False)
        assert isinstance(content, dict)
        value: Any = content[name]
        if isinstance(value, dict) and "_target_" in value:
            return f"{str(value['_target_']).rpartition('.')[2]} *"
        return "must be given" if value == "???" else f"{_text(value)} *"
    if parameter.default is REQUIRED:
        return "from the program"
    return "of the class" if parameter.default is COMPUTED else _text(parameter.default)


def _text(value: Any) -> str:
    """A value as it is written on the command line."""
    return value if isinstance(value, str) else re.sub(r"\.0\b(?=[,\]]|$)", ".0", json.dumps(value, default=str))


def _comment(content: str) -> str:
    """The comment with which a file begins."""
    head = itertools.takewhile(lambda line: line.startswith("#"), content.splitlines())
    texts = (line.removeprefix("#").strip() for line in head)
    return "\n".join(text for text in texts if not text.startswith("@package"))

"""`--list samplers`: the choices of a group, a line each; `--list` and `--help`: the groups, and a program's options.

Nothing is imported or composed for a list: it is read from the files of configurations and from docstrings in sources.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose
from hydra.core.object_type import ObjectType

from denoiselab.app.config import overrides
from denoiselab.cleaning import line
from denoiselab.console import console
from denoiselab.errors import BadInput, closest
from denoiselab.nodes import signatures
from denoiselab.nodes.options import targets

OPTION = "--list"

# Parts of other files of their group, not to be chosen.
_PARTS = "base"

# Small forms of recipes are not listed one by one: a remark below the list names their suffix.
_RECIPES, _TINY = "experiment", "_tiny"

_COMMAND = re.compile(r"(?:^|(?<=[.:] ))python .*")

# More of a sentence is left out where it has a colon or a semicolon before.
_LONGEST = 150

Rows = list[tuple[str, ...]]


def joined(words: Sequence[str]) -> list[str]:
    """The words of a command line, where the group that follows `--list` is made a part of it."""
    out: list[str] = []
    for word in words:
        follows = bool(out) and out[-1] == OPTION and not word.startswith("-") and "=" not in word
        out[-1:] = [f"{OPTION}={word}"] if follows else [*out[-1:], word]
    return out


def show(asked: str) -> None:
    """Print the choices of a group; of no name, the groups."""
    if not asked:
        _print(["group", "choices", "what it is"], [(name, str(len(_names(name))), text) for name, text in groups()])
        console().print("\n--list <group> says what its choices are.")
        return
    group = _group(asked)
    names = _names(group)
    tiny = [name for name in names if group == _RECIPES and _is_tiny(name, names)]
    shown = [name for name in names if name not in tiny]
    texts = dict(zip(shown, _told_apart(group, shown), strict=True))
    _print([group, "what it is"], [*texts.items()])
    if tiny:
        console().print(f"\n{_remark([name.removesuffix(_TINY) for name in tiny], shown)}")
    more = "" if group in ("experiment", "published") else f"; --help {group}=<name> lists the options of a choice"
    console().print(f"\n{_how(group)}{more}.")


def help_(name: str) -> None:
    """Print what a program does, its groups and its own options."""
    config = compose(name, return_hydra_config=True)
    chosen = {str(key): choice for key, choice in config.hydra.runtime.choices.items()}
    own: Rows = [
        (group, str(chosen[group] or "-"), str(len(_names(group))), text)
        for group, text in groups()
        if group in chosen and not group.startswith("paths")
    ]
    foreign = _top_groups() - {*chosen, "published", "paths"} | {"published", "paths"}
    others: Rows = [
        (group, str(len(_names(group))), text)
        for group, text in groups()
        if group not in chosen and group.partition("/")[0] not in foreign
    ]
    console().print(f"{str(config.hydra.help.header).strip()}\n")
    if own:
        console().print("Groups, chosen by <group>=<name>; --list <group> says what each choice is:\n")
        _print(["group", "default", "choices", "what it is"], own)
        console().print(
            "\nGroups of parts of these, chosen by <group>@<option>=<name>, spacing@sampler.spacing=karras:\n"
        )
        _print(["group", "choices", "what it is"], others)
        console().print()
    console().print("Options:\n")
    _print(["option", "default", "what it is"], [*_options(overrides.texts(f"{name}.yaml")[-1])])
    console().print(
        "\n--cfg job prints the whole configuration; -sc install=bash prints what completes names in a shell."
    )


def versions() -> str:
    """The versions of this program and of what it is built on."""
    names = ("denoiselab", "torch", "pytorch-lightning", "hydra-core")
    return "\n".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def groups() -> list[tuple[str, str]]:
    """Groups and what they are, those of out-of-repository packages too."""
    loader = overrides.loader()
    said: dict[str, str] = {}
    for source in reversed(overrides.texts("groups.yaml")):
        said |= yaml.safe_load(source) or {}
    tops = [name for name in loader.get_group_options("", ObjectType.GROUP) if name != "hydra"]
    nested = [f"{top}/{name}" for top in tops for name in loader.get_group_options(top, ObjectType.GROUP)]
    found = [name for name in sorted([*tops, *nested]) if not name.endswith(f"/{_PARTS}") and _names(name)]
    return [(name, str(said.get(name, ""))) for name in found]


def _top_groups() -> set[str]:
    """The groups of which some program chooses one."""
    programs = [name for name in overrides.loader().get_group_options("", ObjectType.CONFIG) if name != "groups"]
    found: set[str] = set()
    for text in itertools.chain.from_iterable(overrides.texts(f"{name}.yaml") for name in programs):
        entries = (yaml.safe_load(text) or {}).get("defaults", [])
        found |= {key for entry in entries if isinstance(entry, dict) for key in entry if key.isidentifier()}
    return found


def _names(group: str) -> list[str]:
    return list(overrides.loader().get_group_options(group, ObjectType.CONFIG))


def _group(asked: str) -> str:
    """The group that a name means: its own, its plural, or the last part of it."""
    known = [name for name, _ in groups()]
    for name in (asked, asked.removesuffix("s"), re.sub("ies$", "y", asked)):
        fits = [one for one in known if one == name] or [one for one in known if one.endswith(f"/{name}")]
        if len(fits) == 1:
            return fits[0]
    near = closest(asked, known) or "".join(f"did you mean '{one}'? " for one in known if one.startswith(asked))
    raise BadInput(f"{OPTION} {asked}: no such group; {near}allowed: {', '.join(known)}.")


def _is_tiny(name: str, names: Sequence[str]) -> bool:
    return name.endswith(_TINY) and name.removesuffix(_TINY) in names


def _remark(tiny: Sequence[str], shown: Sequence[str]) -> str:
    """Which recipes have a small form."""
    lacking = [name for name in shown if name not in tiny]
    which = "All" if not lacking else f"All but {', '.join(lacking)}" if len(lacking) < len(tiny) else ", ".join(tiny)
    return textwrap.fill(f"{which}: also as <name>{_TINY}, which trains and samples in seconds on a CPU.", _width())


def _how(group: str) -> str:
    match group:
        case "metric":
            return "evaluation.metrics=[<name>,...] chooses some"
        case "published":
            return "evaluation.published=<name> shows its values beside ours"
        case _:
            return f"{group}=<name> chooses one"


def _told_apart(group: str, names: Sequence[str]) -> Iterator[str]:
    """What each choice is; choices of which the same is said get the options that their files state."""
    said = [(name, *_said(group, name)) for name in names]
    texts = [text for _, text, _ in said]
    for name, text, options in said:
        stated = ", ".join(f"{key}={value}" for key, value in options.items())
        repeats = texts.count(text) > 1 and stated
        yield " ".join(filter(None, [text, f"({stated})" if repeats or (not text and stated) else ""])) or name


def _said(group: str, name: str) -> tuple[str, dict[str, Any]]:
    """The sentence with which a file begins, or else that of its class; and the plain options that it states."""
    text = overrides.text_of(group, name)
    content = yaml.safe_load(text) or {}
    if group == "published":
        return f"{content['title']} ({content['source']})", {}
    options = {key: _short(value) for key, value in content.items() if key[0] != "_" and _short(value) is not None}
    if comment := sentence(_comment(text)):
        return comment, options
    signature = signatures.read(target) if (target := _target(group, name)) else None
    return sentence(signature.doc if signature else ""), options


def _short(value: Any) -> int | float | str | None:
    """An option of one value, or the class of a part; None of others."""
    if isinstance(value, Mapping):
        return str(value.get("_target_", "")).rpartition(".")[2] or None
    return value if isinstance(value, int | float | str) else None


def _comment(text: str) -> str:
    """The comment with which a file begins, without the commands in it."""
    head = itertools.takewhile(lambda one: one.startswith("#"), text.splitlines())
    told: list[str] = []
    goes_on = False
    for row in (row for row in head if not row.startswith("# @package")):
        words = row.removeprefix("#").strip()
        if not (goes_on or row.startswith("#  ")):
            told.append(_COMMAND.split(words)[0])
        goes_on = words.endswith("\\")  # a command, in the next line
    return " ".join(told)


def sentence(text: str) -> str:
    """The first sentence, without its full stop; a number or an abbreviation such as `et al.` ends none."""
    text = " ".join(text.split())
    found = re.match(r"(.*?(?<!et al)(?<!\be\.g)(?<!\bi\.e)\.)(?=\s+[A-Z0-9`]|\s*$)", text)
    whole = (found[1] if found else text).rstrip(".:")
    return whole if len(whole) <= _LONGEST else re.split(r"(?<=.{20})(?:;|: | \()", whole, maxsplit=1)[0]


def _target(group: str, name: str) -> str | None:
    """The class of a choice: of its file, of one of its group that this begins with, or of a part that it sets."""
    content = yaml.safe_load(overrides.text_of(group, name)) or {}
    if "_target_" in content:
        return str(content["_target_"])
    for entry in content.get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and entry != name and (found := _target(group, entry)):
            return found
    return next((str(node["_target_"]) for _, node in targets(content)), None)


def _options(text: str) -> Iterator[tuple[str, str, str]]:
    """Options that belong to no group, with their defaults and the comments behind them."""
    content: Mapping[str, Any] = yaml.safe_load(text)
    lines = text.splitlines()
    for number, row in enumerate(lines):
        key, _, rest = row.partition(":")
        if not re.fullmatch(r"\w+", key) or key in ("defaults", "hydra"):
            continue
        value, _, comment = rest.partition(" #")
        after = itertools.takewhile(lambda one: re.match(r"\s+#", one), lines[number + 1 :])
        words = " ".join([comment, *(one.strip().lstrip("#") for one in after)])
        default = "must be given" if content[key] == "???" else value.strip().strip('"')
        yield key, default, " ".join(words.split())


def _width() -> int:
    return max(80, min(120, shutil.get_terminal_size().columns))


def _print(headings: Sequence[str], rows: Rows) -> None:
    """A table whose last column is wrapped."""
    whole = [[line(cell) for cell in row] for row in ([*headings], *rows)]
    widths = [max(len(row[i]) for row in whole) for i in range(len(headings) - 1)]
    for row in whole:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        room = max(_width() - len(start), 30)
        texts = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        console().print("\n".join([f"{start}{texts[0]}".rstrip(), *(f"{'':{len(start)}}{one}" for one in texts[1:])]))

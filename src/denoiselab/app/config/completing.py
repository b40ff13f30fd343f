"""Completion of names in bash: what is printed for `-sc install=bash`, and the answers to a line that is typed.

Hydra answers with keys and with the choices of groups. Here are flags, choices of parts (`spacing@sampler.spacing=`),
names in lists (`evaluation.samplers=[ddim,`) and paths too, also of programs that are modules (`python -m
denoiselab.plan`). Nothing is imported or composed for them.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.object_type import ObjectType

from denoiselab import released
from denoiselab.app.config import listing, overrides, tasks

_FLAGS = ("--cfg", "--config-dir", "--help", "--hydra-help", "--info", "--list", "--multirun", "--resolve", "-m", "-sc")

# Options that take the name of a released model.
_OF_MODELS = ("ckpt", "init_from", "teacher")

# The words of readline end at `=`, `@` and `:` too, so what is typed of a word before these is cut off the answers.
_BASH = """\
_denoiselab() {
    local words=($COMP_LINE) typed="${COMP_LINE:0:$COMP_POINT}" program=() before
    COMPREPLY=()
    if [[ "${words[1]}" == -m && "${words[2]}" == denoiselab.* ]]; then
        program=("${words[0]}" -m "${words[2]}")
    elif [[ "${words[1]}" == *.py && -f "${words[1]}" ]] && grep -q denoiselab "${words[1]}"; then
        program=("${words[0]}" "${words[1]}")
    else
        return
    fi
    typed="${typed##* }"
    before="${typed%"${COMP_WORDS[COMP_CWORD]##[=:@]}"}"
    mapfile -t COMPREPLY < <(COMP_LINE="${COMP_LINE:0:$COMP_POINT}" "${program[@]}" -sc query=bash 2>/dev/null)
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o nospace -o default -F _denoiselab python python3 .venv/bin/python
"""


def script(asked: Sequence[str]) -> str | None:
    """What bash is to run for `-sc install=bash` or `uninstall=bash`; None for what Hydra answers."""
    if [*asked] == ["install=bash"]:
        return _BASH
    return "complete -r python python3 .venv/bin/python 2>/dev/null" if [*asked] == ["uninstall=bash"] else None


def for_hydra(typed: str) -> str:
    """The line as Hydra's completion reads one: it knows `python file.py`, no module and no other path of Python.

    Args:
        typed: The line up to the cursor, of a program such as `.venv/bin/python -m denoiselab.plan`.
    """
    words = typed.split(" ")
    return " ".join(["python", "main.py", *words[3 if words[1:2] == ["-m"] else 2 :]])


def answers(typed: str) -> list[str] | None:
    """The words that the last one of a line may become; None for what Hydra answers.

    Args:
        typed: The line up to the cursor.
    """
    *before, word = typed.split(" ")
    if before[-1:] == [listing.OPTION]:
        return [name for name, _ in listing.groups() if name.startswith(word)]
    if word.startswith("-"):
        flag, equals, part = word.partition("=")
        if flag == listing.OPTION and equals:
            return [f"{flag}={name}" for name, _ in listing.groups() if name.startswith(part)]
        return [flag for flag in _FLAGS if flag.startswith(word)]
    key, equals, value = word.partition("=")
    if not equals:
        return None
    if value.startswith("["):
        return _in_list(key, value)
    group = key.lstrip("+").partition("@")[0]
    if names := overrides.loader().get_group_options(group, ObjectType.CONFIG):
        return [f"{key}={name}" for name in sorted(names) if name.startswith(value)]
    found = [*_paths(value), *(_models(value) if key in _OF_MODELS else ())]
    return [f"{key}={name}" for name in found] or None


def of_task(typed: str, default: str | None) -> list[str]:
    """The options of a task that the last word of a line may become; the task is the line's, or the program's default.

    Args:
        typed: The line up to the cursor.
        default: Of the program; None if it has no tasks.
    """
    *before, word = typed.split(" ")
    if default is None:
        return []
    chosen = [text.partition("=")[2] for text in before if text.startswith("task=")]
    task = next(iter(chosen), "frontier" if any(text.startswith("frontier=") for text in before) else default)
    known = tasks.options(task) if task in overrides.names("task") else []
    return [f"{name}=" for name in known if name.startswith(word)]


def _in_list(key: str, value: str) -> list[str] | None:
    """The last name of a list such as evaluation.samplers=[ddim,he."""
    done, comma, last = value.rpartition(",") if "," in value else ("", "[", value[1:])
    group = key.rpartition(".")[2].removesuffix("s")
    grid = "@" in last
    rule, at, part = last.partition("@") if grid else ("", "", last)
    names = overrides.loader().get_group_options("spacing" if grid else group, ObjectType.CONFIG)
    return [f"{key}={done}{comma}{rule}{at}{name}" for name in sorted(names) if name.startswith(part)] or None


def _models(value: str) -> list[str]:
    """Names of released models that begin so."""
    names = (f"{released.PREFIX}{name}" for name in (*released.shipped(), *released.RELEASED))
    return [name for name in names if value and name.startswith(value)]


def _paths(value: str) -> list[str]:
    """Files and folders that begin so; folders end in a slash."""
    fits = sorted(glob.glob(f"{glob.escape(os.path.expanduser(value))}*"))[:200] if value else []  # noqa: PTH111, PTH207
    return [f"{path}/" if Path(path).is_dir() else path for path in fits]

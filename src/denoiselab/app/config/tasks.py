"""How the options of a task of `sample.py` are written: with or without `task.`; and former spellings of tasks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from denoiselab.app.config import overrides
from denoiselab.errors import BadInput
from denoiselab.nodes import signatures

# Former spellings, and what is written instead.
_FORMER = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"(frontier|likelihood|grid|export|encode|interpolate)=null", ""),
        (r"frontier=default", "task=frontier"),
        (r"frontier\.weights=(.*)", r"weights=\1"),
        (r"frontier\.(.*)", r"task.\1"),
        (r"\+?([\w/]+@)frontier\.(.*)", r"\1task.\2"),
        (r"likelihood=(\w+)", r"task=likelihood task/method=\1"),
        (r"grid=(\w+)", r"task=fit_grid task/method=\1"),
        (r"(\+?|\w+@)(?:likelihood|grid)\.(.*)", r"\1task.method.\2"),
        (r"export=(\w+)", r"task=export task.format=\1"),
        (r"encode=(\w+)", r"task=encode task.split=\1"),
        (r"interpolate=(\w+)", r"task=interpolate task.frames=\1"),
    )
)


def check_spelling(arguments: Sequence[str]) -> None:
    """Refuse former spellings of tasks."""
    written, former = [], []
    for argument in arguments:
        new = next((match.expand(new) for old, new in _FORMER if (match := old.fullmatch(argument))), None)
        if new is None:
            written.append(shlex.quote(argument))
        else:
            former.append(argument)
            written += [shlex.quote(new)] if not new.startswith("task=") else [new]
    if former:
        written = _with_task(former, written)
        command = " ".join(word for word in ("python sample.py", *written) if word not in ("", "''"))
        verb = "are now options" if len(former) > 1 else "is now an option"
        raise BadInput(f"{' '.join(former)}: {verb} of a task; write: {command}")


def _with_task(former: Sequence[str], written: Sequence[str]) -> list[str]:
    """The words of a command with the task that dotted former spellings leave out; a frontier takes no sampler."""
    words = [word for word in written if word not in ("", "''")]
    roots = {re.split(r"[.=]", word.rpartition("@")[2].lstrip("+"))[0] for word in former}
    tasks = {"frontier": "task=frontier", "likelihood": "task=likelihood", "grid": "task=fit_grid"}
    missing = [tasks[root] for root in sorted(roots & {*tasks})]
    if missing and not any(word.startswith("task=") for word in words):
        words += missing[:1]
    if "task=frontier" in words:
        words = [word for word in words if not word.startswith(("sampler=", "sampler.", "spacing@sampler"))]
    return words


def written_out(arguments: Sequence[str], default: str) -> list[str]:
    """Arguments with `task.` before each option of the task that lacks it; `frontier=<name>` chooses its task too.

    Args:
        arguments: In Hydra's grammar.
        default: The task that is done where none is chosen.
    """
    preset = next((text for text in arguments if text.startswith("frontier=")), None)
    if preset is not None and not any(text.startswith("task=") for text in arguments):
        arguments = [*arguments, "task=frontier"]
    chosen = next((text.partition("=")[2] for text in arguments if text.startswith("task=")), default)
    allowed = overrides.names("task")
    if chosen in ("", "null"):
        raise BadInput(f"task={chosen}: one is needed; allowed: {', '.join(allowed)}.")
    if preset is not None and chosen != "frontier":
        raise BadInput(f"{preset}: goes with task=frontier, not with task={chosen}; leave one of them out.")
    known = [name for name in chosen.split(",") if name in allowed]
    names = {option for name in known for option in options(name)}
    return [_written_out(argument, names) for argument in arguments]


def options(task: str) -> list[str]:
    """The options of a task, a choice of `conf/task`."""
    signature = signatures.read(overrides.choice("task", task)["_target_"])
    return [] if signature is None else [*signature.parameters]


def _written_out(argument: str, names: set[str]) -> str:
    if argument.startswith("frontier="):
        return argument.replace("frontier=", "frontier@task=", 1)
    match = re.match(r"\w+(?=[.=])", argument)
    return f"task.{argument}" if match and match[0] in names else argument

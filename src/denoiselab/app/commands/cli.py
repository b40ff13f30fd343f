"""The command line: check, compose, run, and exit with a code.

0 done; 1 failure; 2 bad input, with nothing written; 76 pruned by its sweep; 130 Ctrl-C; 143 SIGTERM, SIGUSR1 and
SIGUSR2, after saving what there is to save.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from denoiselab import choices, released
from denoiselab.app.commands import checking, sweeping
from denoiselab.app.commands.checking import Command, Early
from denoiselab.app.config import completing, listing, multirun, overrides, resolvers, spelling, stages, tasks
from denoiselab.app.config.early import check_nodes, check_trust
from denoiselab.app.config.explain import explain
from denoiselab.app.config.hydra_node import CheckedLoader
from denoiselab.app.runs.allocator import keep_freed_memory
from denoiselab.app.runs.ending import leave, unread
from denoiselab.app.runs.run_id import name_multirun, run_id, trial
from denoiselab.cleaning import line, lines
from denoiselab.console import Logged, console
from denoiselab.errors import BadInput, Failure
from denoiselab.nodes import packages, search_path
from denoiselab.training.interruption import SIGNALS, Stopped, code_of, is_foreign

_CONF = choices.folder()

# Flags without a value of their own.
_FLAGS = (listing.OPTION, "-m", "--multirun", "-h", "--help", "--resolve", "--hydra-help", "--version")


class _Failed(BaseException):
    """Carries the exception of a single job through Hydra, which would print it its own way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


def run(name: str, early: Early = check_nodes) -> NoReturn:
    """Run a program and exit.

    Args:
        name: Of the program, of its primary configuration, and of its module in `denoiselab.app.commands`, a
            `Command`; the import of the module takes seconds.
        early: Takes a job's configuration; checks what takes no time, of all jobs before the module is imported.
    """
    _prepare()
    # argparse takes all overrides in one piece, so flags are moved before them.
    given = sys.argv[1:] if trial() is None else map(spelling.of_agent, sys.argv[1:])
    words = sorted(listing.joined([*given]), key=lambda word: word not in _FLAGS and not re.match("--[a-z-]+=", word))
    several = bool({"-m", "--multirun"} & {*words})
    sys.argv[1:] = [spelling.readable(word, multirun=several) for word in words]
    if several:
        name_multirun(sys.argv)
    show = {"traceback": False}
    code = 0
    before = {number: signal.signal(number, _terminate) for number in SIGNALS[1:] if not is_foreign(number)}
    try:
        packages.check()
        arguments = _arguments()
        with search_path.initialized(_CONF, name, arguments.folders, CheckedLoader) as program:
            arguments.overrides = _written_out(name, arguments.overrides, words)
            if _queued(name, arguments):
                checked = functools.partial(checking.checked, name, arguments=arguments, early=early, show=show)
                sweeping.run(name, arguments, lambda jobs: checked(jobs, command=lambda: _command(name)))
            elif _shows(arguments):
                _show(program, name, arguments)
            else:
                _check_jobs(name, arguments, early, show)
                (_show if arguments.cfg else _run_jobs)(program, name, arguments)
    except BadInput as error:
        code = _say(name, f"{getattr(error, 'rank', '')}{error}", 2)
    except KeyboardInterrupt:
        code = _say(name, "interrupted.", 130)
    except BrokenPipeError:
        code = unread()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if advice := getattr(stop, "advice", ""):
            _say(name, advice, code)
    except Exception as error:
        if show["traceback"]:
            console(stderr=True).print(traceback.format_exc())
        text, code = " ".join(str(error).split()) or "no message", 1
        if isinstance(error, KeyError) and (key := overrides.deleted(error.args[:1], sys.argv)):
            text, code = f"~{key}: the program needs this option; give it a value instead: {key}=...", 2
        elif not isinstance(error, Failure):
            text = f"{type(error).__name__}: {text} (traceback=true shows the traceback)"
        code = _say(name, f"{getattr(error, 'rank', '')}{text}", code)
    finally:
        _restore(before)
        gc.unfreeze()
        gc.enable()
        if "denoiselab.app.sweeps.table" in sys.modules:
            sys.modules["denoiselab.app.sweeps.table"].SweepTable.finish()
    leave(code)


def _prepare() -> None:
    """What holds for the whole process: resolvers, variables of the environment, the format of warnings and logs."""
    gc.disable()  # until a job starts: what imports make stays, and searching it for garbage takes a tenth of the time
    OmegaConf.register_new_resolver("run_id", run_id, use_cache=True, replace=True)
    resolvers.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed
    # Idle OpenMP threads that spin starve every other process on a shared CPU.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    logging.setLogRecordFactory(Logged)
    warnings.formatwarning = lambda message, *_: f"warning: {lines(message)}\n"  # without a line of source
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")  # torch's own use, in func.jvp


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Raise at a signal, as at Ctrl-C, so that partial files are removed and processes end."""
    signal.signal(number, signal.SIG_IGN)
    raise Stopped(code_of(number), f"stopped by {signal.Signals(number).name}.")


def _restore(handlers: Mapping[Any, Any]) -> None:
    """Give signals the handlers that they had."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _arguments() -> Namespace:
    """The command line; `folders` are those in which it has configurations searched, and `overrides` the others."""
    if "--version" in sys.argv:  # Hydra's parser prints its own
        console().print(listing.versions())
        raise SystemExit(0)
    parser = get_args_parser()
    parser.add_argument(listing.OPTION, nargs="?", const="")
    arguments = parser.parse_args()
    if arguments.config_path or arguments.config_name:
        raise BadInput(
            "--config-path and --config-name are not supported; --config-dir=<folder> adds configurations to those of "
            "conf/."
        )
    if arguments.experimental_rerun:
        raise BadInput(
            f"--experimental-rerun={arguments.experimental_rerun}: is not supported; it runs code of a file."
        )
    arguments.folders = search_path.given(arguments.config_dir, arguments.overrides)
    arguments.overrides = search_path.others(arguments.overrides)
    return arguments


def _command(name: str) -> Command:
    module: Any = importlib.import_module(f"denoiselab.app.commands.{name}")
    out: Command = module
    return out


def _written_out(name: str, asked: list[str], words: list[str]) -> list[str]:
    """Overrides with the options of a task and released models in full, where the program has tasks."""
    default = _default_task(name)
    if default is None:
        return asked
    tasks.check_spelling(words)
    return tasks.written_out(released.written_out(asked), default)


def _default_task(name: str) -> str | None:
    """The task that a program does where none is chosen; None if it has none."""
    defaults = OmegaConf.load(_CONF / f"{name}.yaml").defaults
    return next((entry["task"] for entry in defaults if isinstance(entry, DictConfig) and "task" in entry), None)


def _run_jobs(program: Hydra, name: str, arguments: Namespace) -> None:
    """Let Hydra run the job, or the jobs of a multirun one after another."""
    gc.freeze()
    gc.enable()

    def job(config: DictConfig) -> Any:
        plain = checking.plain(config, HydraConfig.get().overrides.task)
        for one in stages.runs(plain):
            check_trust(one, arguments.overrides)
        if arguments.multirun:
            return _command(name).run(plain, Path(HydraConfig.get().runtime.output_dir))
        try:
            return _command(name).run(plain, None)
        except Exception as error:
            raise _Failed(error) from error

    try:
        if arguments.multirun:
            given = [*arguments.overrides, "hydra.mode=MULTIRUN"]
            if (place := multirun.sweep_directory(name, arguments.overrides)) is not None:
                given.append(shlex.split(spelling.override("hydra.sweep.dir", place))[0])  # one for all jobs
            program.multirun(name, job, given)
        else:
            program.run(name, job, arguments.overrides)
    except _Failed as failed:
        raise failed.error from None
    except BadInput as error:
        if not arguments.multirun:
            raise
        raise Failure(f"{getattr(error, 'rank', '')}{error}") from None  # other jobs may have run


def _show(program: Hydra, name: str, arguments: Namespace) -> None:
    """Show help, the configuration, or information about Hydra, instead of running a job."""
    if arguments.list is not None:
        listing.show(arguments.list)
    elif arguments.help and arguments.overrides:
        explain(name, arguments.overrides)
    elif arguments.help:
        listing.help_(name)
    elif arguments.hydra_help:
        program.hydra_help(name, get_args_parser(), arguments)
    elif arguments.cfg:
        program.show_cfg(name, arguments.overrides, arguments.cfg, arguments.package, arguments.resolve)
    elif arguments.shell_completion:
        _complete(program, name, arguments.overrides)
    else:
        program.show_info(arguments.info, name, arguments.overrides)


def _complete(program: Hydra, name: str, asked: list[str]) -> None:
    """Print what completes names in a shell, or the answers to the line that is typed there."""
    if (script := completing.script(asked)) is not None:
        print(script)
        return
    typed = os.environ.get("COMP_LINE", "")
    found = completing.answers(typed) if asked == ["query=bash"] else None
    if found is None:
        os.environ["COMP_LINE"] = completing.for_hydra(typed)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            program.shell_completion(name, asked)
        found = [said.getvalue()]
        if asked == ["query=bash"]:  # Hydra's answers are on one line
            found = sorted({*said.getvalue().split(), *completing.of_task(typed, _default_task(name))})
    print("\n".join(found))


def _queued(name: str, arguments: Namespace) -> bool:
    """Whether a sweep is asked for whose jobs are not Hydra's to start."""
    own = sweeping.asks(arguments.overrides) if name == "train" and not _shows(arguments) else []
    if own and not arguments.multirun:
        raise BadInput(f"{own[0]}: is of a sweep; add -m.")
    return bool(own) and arguments.cfg is None


def _check_jobs(name: str, arguments: Namespace, early: Early, show: dict[str, bool]) -> None:
    """Check every job's configuration before the first one starts."""
    if overrides.typed(arguments.overrides, "hydra.mode"):
        raise BadInput("hydra.mode: cannot be set; start a multirun with -m.")
    if arguments.multirun and any(text.startswith("paths.run_dir=") for text in arguments.overrides):
        raise BadInput("paths.run_dir: a multirun gives each job a directory of its own; see hydra.sweep.dir.")
    if overrides.typed(arguments.overrides, "hydra.sweep.subdir"):
        raise BadInput("hydra.sweep.subdir: the folders of a sweep's jobs are called by their numbers; leave it out.")
    jobs = overrides.jobs(name, arguments.overrides, multirun=arguments.multirun)
    if arguments.multirun and name == "train":
        sweeping.check_place(name, arguments.overrides, jobs)
    checking.checked(name, jobs, arguments, early, show, lambda: _command(name), sweeping=arguments.multirun)


def _shows(arguments: Namespace) -> bool:
    """Whether the arguments ask for help and the like, not for a job."""
    asked = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
    return bool(asked) or arguments.list is not None


def _say(name: str, text: str, code: int) -> int:
    console(stderr=True).print(f"{name}.py: {line(text)}")
    return code
